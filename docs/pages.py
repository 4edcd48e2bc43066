"""What a program writes in these pages, and what mkdocs needs to make a site of them.

python docs/pages.py      # writes commands.md, quality-tables.md, and tables of tuning.md and quality.md anew
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from math import inf
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

DOCS = Path(__file__).parent
#: The request of the table of docs/tuning.md, and the settings of its rows.
REQUEST = ("--preset", "wan2.1-14b", "--frames", "321", "--size", "832x480")
ROWS: tuple[dict[str, str], ...] = (
    {},
    {"LVSA_SPARSITY_SCALE": "0.5"},
    {"LVSA_SPARSITY_SCALE": "0.75"},
    {"LVSA_SPARSITY_SCALE": "1.5"},
    {"LVSA_WINDOW_SIZE": "4"},
    {"LVSA_WINDOW_SIZE": "24"},
    {"LVSA_N_FIRST_FRAMES": "0"},
    {"LVSA_N_FIRST_FRAMES": "16"},
    {"LVSA_ROTATE_KEYFRAMES": "0"},
    {"LVSA_EXPAND_WINDOW": "0"},
    {"LVSA_AUTO_KEYFRAMES": "0", "LVSA_KEY_FRAME_INTERVAL": "16"},
    {"LVSA_AUTO_KEYFRAMES": "0", "LVSA_KEY_FRAME_INTERVAL": "48"},
    {"LVSA_EXTRA_MEMORY": "1"},
)
#: Results of benchmarks/quality.py, and what docs/quality-tables.md calls them.
QUALITY = {
    "quality-toy": "Methods",
    "quality-toy-alone": "The options alone and together",
    "quality-toy-options": "The options alone and together, and one thing changed",
    "quality-toy-guidance": "With guidance",
    "quality-toy-image": "From an image",
}
#: What was aimed at: what is measured, what the table calls it and its aim, and the bounds.
AIMS = {
    "loop": ("loop, as a share of the truth's", "at least 0.9", 0.9, inf),
    "sun_drift": ("drift of the sun, cells", "at most 0.06", 0, 0.06),
    "sky_sd": ("change of the sky", "at most 0.02", 0, 0.02),
    "speed": ("speed", "0.95 to 1.05", 0.95, 1.05),
    "breaches": ("breaches, more than at the training length", "at most 0.03", -inf, 0.03),
    "valid": ("frames with one ball", "at least 0.98", 0.98, 1),
    "sun_valid": ("frames with one sun", "at least 0.98", 0.98, 1),
}
#: Whose videos the aims are compared with: the column's title, the result, the method.
COLUMNS = (
    ("dense", "quality-toy", "dense"),
    ("LVSA", "quality-toy", "lvsa"),
    ("recipe", "quality-toy", "long"),
    ("recipe, guidance 3", "quality-toy-guidance", "long"),
    ("recipe, from an image", "quality-toy-image", "long"),
)

#: A link out of docs/, but for pictures.
LEAVING = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./([^)]*)\)")


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Called by mkdocs: links out of docs/ lead to ``repo_url`` of mkdocs.yml; without it only their words stay."""
    base = config["repo_url"]
    return LEAVING.sub(lambda link: f"[{link[1]}]({base}/blob/HEAD/{link[2]})" if base else link[1], markdown)


def commands() -> str:
    """The text of docs/commands.md: every command and its options, from the parsers themselves."""
    from lvsa_vllm_omni.cli.main import main as lvsa
    from lvsa_vllm_omni.offline.arguments import parser as batch
    from vqeval.cli.main import main as vqeval

    return (
        "\n".join(
            [
                "# Commands",
                "",
                "Every command and option, as `--help` tells them; `make docs` writes this page. Exit status: 0, 1 if",
                "a part failed or this machine cannot do it, 2 with one sentence if the input cannot be used.",
                "",
                *_program("lvsa", lvsa),
                *_program("vqeval", vqeval),
                *_section("examples/offline_lvsa.py", "make videos from prompts: [batches.md](batches.md)", batch("")),
            ]
        ).rstrip("\n")
        + "\n"
    )


def _program(name: str, main: Callable[[Sequence[str]], int]) -> Iterator[str]:
    """The sections of a program's subcommands."""
    top = _parser_behind(main, ["--help"])
    assert isinstance(top, argparse.ArgumentParser)
    (subcommands,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    for command in subcommands._choices_actions:
        found = _parser_behind(main, [command.dest, "--help"])
        yield from _section(f"{name} {command.dest}", command.help or "", found)


def _parser_behind(main: Callable[[Sequence[str]], int], arguments: list[str]) -> argparse.ArgumentParser | str:
    """The parser that answers ``--help``, or what is printed where none does."""
    asked: list[argparse.ArgumentParser] = []
    printed = io.StringIO()
    with (
        patch.object(argparse.ArgumentParser, "print_help", lambda self, file=None: asked.append(self)),
        redirect_stdout(printed),
        suppress(SystemExit),
    ):
        main(arguments)
    return asked[0] if asked else printed.getvalue()


def _section(title: str, what: str, found: argparse.ArgumentParser | str) -> Iterator[str]:
    yield from (f"## {title}", "")
    if isinstance(found, str):
        yield from (f"{what[0].upper()}{what[1:]}.", "", "```text", found.strip(), "```", "")
        return
    text = _plain(found.description or what)
    yield from (f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}", "")
    yield from ("| option | meaning |", "|---|---|")
    for action in found._actions:
        if not isinstance(action, argparse._HelpAction):
            yield f"| {_names(action)} | {_meaning(action)} |"
    yield ""


def _names(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    if action.choices and not action.metavar:
        value = ",".join(map(str, action.choices))
    names = [f"{name} {value}".strip() for name in action.option_strings] or [value]
    return ", ".join(f"`{name}`".replace("|", "\\|") for name in names)


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "") % {**vars(action), "prog": ""}
    if action.option_strings and action.required:
        text = f"{text} (required)".strip()
    return _plain(text)


def _plain(text: str) -> str:
    """A line of text in which Markdown sees nothing of its own."""
    return re.sub(r"([|*])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")


def knobs() -> str:
    """The table of docs/tuning.md: what ``lvsa show`` says of one request under some settings."""
    rows = [
        "| settings | anchors | frames attended to | density | memory beside | at most |",
        "|---|---|---|---|---|---|",
    ]
    for settings in ROWS:
        told = _show(settings)
        named = "<br>".join(f"`{name}={value}`" for name, value in settings.items()) or "as they are"
        density, memory, speed = told["mean_density"], told["lvsa"]["memory"] / 1e9, told["largest_speedup"]
        attended = f"{density * told['latent_frames']:.1f} of {told['latent_frames']}"
        rows.append(
            f"| {named} | {len(told['anchors'])} | {attended} | {density:.1%} | {memory:.2f} GB | {speed:.2f} times |"
        )
    return "\n".join(rows) + "\n"


def _show(settings: dict[str, str]) -> dict[str, Any]:
    """What ``lvsa show --json`` prints with these variables, and no others of LVSA."""
    from lvsa_vllm_omni.cli.main import main

    others = {name: value for name, value in os.environ.items() if not name.startswith("LVSA_")}
    printed = io.StringIO()
    with patch.dict(os.environ, {**others, **settings}, clear=True), redirect_stdout(printed):
        assert main(["show", *REQUEST, "--json"]) == 0
    result: dict[str, Any] = json.loads(printed.getvalue())
    return result


def with_table(page: str, name: str, table: str) -> str:
    """A page with the table between the marks of a name as it is now."""
    before, begin, rest = page.partition(f"<!-- {name}: written by docs/pages.py -->\n")
    _, end, after = rest.partition(f"<!-- end of {name} -->")
    return f"{before}{begin}\n{table}\n{end}{after}"


def _benchmark() -> Any:
    """Import benchmarks/quality.py."""
    with patch.object(sys, "path", [str(DOCS.parent / "benchmarks"), *sys.path]):
        import quality
    return quality


def _result(name: str) -> dict[str, Any]:
    """Read a result of benchmarks/quality.py."""
    found: dict[str, Any] = json.loads((DOCS.parent / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))
    return found


def aims() -> str:
    """The table of docs/quality.md: what was aimed at at four times the training length, and what was measured."""
    measured = [_measured(name, method) for _, name, method in COLUMNS]
    lines = [["at four times the training length", "aim", *(title for title, _, _ in COLUMNS)]]
    lines.append(["---"] * len(lines[0]))
    for name, (title, aim, low, high) in AIMS.items():
        cells = [f"{found[name]:.3f}{'' if low <= found[name] <= high else ', missed'}" for found in measured]
        lines.append([title, aim, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _measured(name: str, method: str) -> dict[str, float]:
    """Means over all videos of a method at four times the training length, as the aims compare them."""
    rows = [row for row in _result(name)["rows"] if row["method"] == method]
    long = [row for row in rows if row["length"] == 4]
    found = {key: mean(row[key] for row in long) for key in AIMS}
    found["loop"] /= mean(_benchmark().truth(4, sorted({row["seed"] for row in long}))["loop"])
    found["breaches"] -= mean(row["breaches"] for row in rows if row["length"] == 1)
    return found


def quality_tables() -> str:
    """The text of docs/quality-tables.md: every table of what benchmarks/quality.py has measured."""
    quality = _benchmark()
    lines = [
        "# Quality: all tables",
        "",
        "Every method at every length, for [quality.md](quality.md), which says what methods and measures are. A table",
        "has mean and spread over the videos of all trainings; the one below it the mean of the paired differences,",
        "with the bounds of 95 % of a bootstrap. `make docs` writes this page from the results.",
        "",
    ]
    for name, title in QUALITY.items():
        machine, rows = (_result(name)[part] for part in ("machine", "rows"))
        lines += [f"## {title}", "", f"{machine['date'].partition(' ')[0]}, {machine['versions']}:", ""]
        lines += ["<!-- shown by: tests/benchmarks/test_quality.py -->", "```bash", machine["command"], "```", ""]
        for length in sorted({row["length"] for row in rows}):
            chosen = [row for row in rows if row["length"] == length]
            seeds = sorted({row["seed"] for row in chosen})
            videos = len({(row["training"], row["seed"]) for row in chosen})
            lines += [f"### {length:g} x the training length, {videos} videos a row", ""]
            for table in (quality.means(chosen, quality.truth(length, seeds)), quality.differences(chosen, "lvsa")):
                lines += [*table, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    (DOCS / "quality-tables.md").write_text(quality_tables(), "utf-8")
    (DOCS / "commands.md").write_text(commands(), "utf-8")
    for place, name, table in ((DOCS / "tuning.md", "knobs", knobs()), (DOCS / "quality.md", "aims", aims())):
        place.write_text(with_table(place.read_text("utf-8"), name, table), "utf-8")
