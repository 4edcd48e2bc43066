"""The pages: every block of commands is run or says why not, links lead somewhere, what a program writes is current."""

import ast
import contextlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lvsa_vllm_omni.cli.main import main as lvsa
from lvsa_vllm_omni.fields import schemas
from lvsa_vllm_omni.settings import OBSOLETE, LvsaSettings
from tests.support import versions
from tests.support.changers import CHANGERS
from vqeval.cli.main import main as vqeval

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
#: Pages whose blocks people copy.
PAGES = [
    REPOSITORY / "README.md",
    *sorted(DOCS.glob("*.md")),
    *sorted((REPOSITORY / "examples").glob("*.md")),
    *sorted((REPOSITORY / "docker").glob("*.md")),
]
OTHERS = [REPOSITORY / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "toy/README.md")]
FOLDERS = ("examples", "benchmarks", "configs", "docs", "toy")
#: What a block may need that a test does not have.
NEEDS = {"gpu", "weights", "network", "machines", "docker", "file"}
MARK = re.compile(r"<!-- (run|needs|shown by)(?:: (.+))? -->")
#: Names with LVSA_ in front that are no settings: the object of settings, a family that add-a-model.md makes up, and
#: what Kubernetes would set.
NO_SETTINGS = {"CONFIG", "WAN_LAB_HOOK", "PORT"}


class Block(NamedTuple):
    """A fenced block of commands.

    Args:
        where: page and line. kind: ``run``, ``needs`` or ``shown by``, empty if it says nothing. says: behind it.
    """

    where: str
    language: str
    text: str
    kind: str
    says: str


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of commands of a page: bash, console and Python, the mark in the line before."""
    lines = page.read_text("utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = re.match(r" *```(\w*)$", lines[number])
        if fence:
            end = next(at for at in range(number + 1, len(lines)) if lines[at].strip() == "```")
            if fence[1] in ("bash", "console", "python"):
                mark = MARK.fullmatch(lines[number - 1].strip())
                text = "\n".join(lines[number + 1 : end]) + "\n"
                where = f"{page.relative_to(REPOSITORY)}:{number + 1}"
                yield Block(where, fence[1], text, mark[1] if mark else "", (mark[2] or "") if mark else "")
            number = end
        number += 1


BLOCKS = [block for page in PAGES for block in blocks(page)]


def ids(block: Block) -> str:
    return block.where


def test_every_block_says_how_it_is_shown() -> None:
    silent = [block.where for block in BLOCKS if not block.kind]
    assert not silent, "put <!-- run -->, <!-- needs: ... --> or <!-- shown by: tests/... --> in the line before"
    wanted = {block.where: block.says for block in BLOCKS if block.kind == "needs"}
    wrong = {where: says for where, says in wanted.items() if not set(says.split(", ")) <= NEEDS}
    assert not wrong, f"a block may need {', '.join(sorted(NEEDS))}"


def test_the_tests_that_blocks_name_are_there() -> None:
    missing = []
    for block in BLOCKS:
        for name in block.says.split(", ") if block.kind == "shown by" else ():
            file, _, function = name.partition("::")
            path = REPOSITORY / file
            if not path.is_file() or (function and f"def {function}(" not in path.read_text("utf-8")):
                missing.append((block.where, name))
    assert not missing


@pytest.mark.slow
@pytest.mark.parametrize("block", {block.text: block for block in BLOCKS if block.kind == "run"}.values(), ids=ids)
def test_blocks_run(block: Block, tmp_path: Path) -> None:
    """In an empty folder in which the repository's folders stand, as bash stops at the first command that fails."""
    for name in FOLDERS:
        (tmp_path / name).symlink_to(REPOSITORY / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    python = block.language == "python"
    program = [sys.executable, "-c", block.text] if python else ["bash", "-euo", "pipefail", "-c", block.text]
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind != "run" and b.language != "python"], ids=ids)
def test_commands_that_do_not_run_here_are_understood(
    block: Block, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bash reads the block; of our own commands every option is there."""
    read = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    for command in our_commands(block.text):
        with contextlib.suppress(SystemExit):
            (vqeval if command[0] == "vqeval" else lvsa)([command[1], "--help"])
        told = capsys.readouterr().out
        options = [word.partition("=")[0] for word in command[2:] if word.startswith("--")]
        assert told and [option for option in options if option not in told] == [], command


def our_commands(text: str) -> Iterator[list[str]]:
    """The commands of ``lvsa`` and ``vqeval``, but ``lvsa serve``, most of whose options are the engine's."""
    for line in text.replace("\\\n", " ").splitlines():
        with contextlib.suppress(ValueError):
            words = shlex.split(line, comments=True)
            while words and re.match(r"\w+=|\$$", words[0]):
                words.pop(0)
            if words[:1] in (["lvsa"], ["vqeval"]) and words[1:2] != ["serve"] and not words[1].startswith("-"):
                yield words


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind != "run" and b.language == "python"], ids=ids)
def test_python_that_does_not_run_here_is_python(block: Block) -> None:
    compile(block.text, block.where, "exec")


def test_every_variable_is_a_setting() -> None:
    known = {*(name.upper() for name in (*schemas(LvsaSettings), *OBSOLETE)), *NO_SETTINGS}
    named = {page.name: re.findall(r"\bLVSA_([A-Z0-9_]*[A-Z0-9])", page.read_text("utf-8")) for page in PAGES}
    assert {
        page: wrong for page, names in named.items() if (wrong := [name for name in names if name not in known])
    } == {}


def test_nobody_who_comes_from_before_misses_a_variable() -> None:
    told = set(re.findall(r"\bLVSA_(\w+)", (DOCS / "coming-from-lvsa-1.x.md").read_text("utf-8")))
    assert {name.upper() for name in OBSOLETE} <= told


def test_every_patch_is_on_the_page_about_the_wiring() -> None:
    page = (DOCS / "integration.md").read_text("utf-8")
    for file in CHANGERS:
        nodes = ast.walk(ast.parse((REPOSITORY / file).read_text("utf-8")))
        found = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
        names = [node.name for node in found if "Target:" in (ast.get_docstring(node) or "")]
        assert names and f"`{file}`" in page and [name for name in names if f"| `{name}`" not in page] == [], file


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings that are the same on GitHub and on the site."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading).replace("`", "")
        github = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        site = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())
        found |= {github} & {site}
    return found


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in slugs(target)):
            broken.append(link)
    assert not broken


def written() -> Any:
    """The program that writes parts of the pages."""
    spec = importlib.util.spec_from_file_location("pages", DOCS / "pages.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_a_program_writes_is_current() -> None:
    pages = written()
    again = "run `python docs/pages.py`"
    assert (DOCS / "commands.md").read_text("utf-8") == pages.commands(), again
    assert (DOCS / "quality-tables.md").read_text("utf-8") == pages.quality_tables(), again
    for page, name, table in (("tuning", "knobs", pages.knobs()), ("quality", "aims", pages.aims())):
        text = (DOCS / f"{page}.md").read_text("utf-8")
        assert table in text and text == pages.with_table(text, name, table), again


def test_the_table_of_versions_is_what_was_recorded() -> None:
    record, page = json.loads(versions.RECORD.read_text()), versions.PAGE.read_text()
    assert versions.written(page, record) == page
    assert all({*ran["outcomes"]} <= {"passed", "skipped"} for ran in record.values())


def test_the_index_has_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w.-]+\.md)\)", (DOCS / "index.md").read_text("utf-8")))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"index.md"}


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    program = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(program, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0 and not built.stderr, built.stderr
    for page in DOCS.glob("*.md"):
        name = "index.html" if page.stem == "index" else f"{page.stem}/index.html"
        html = (tmp_path / "site" / name).read_text("utf-8")
        plain = "```" in html or re.search(r"^<p>(\||[-*] )", html, re.MULTILINE)
        assert not plain, f"{page.name}: a block, a table or a list has become text"


def test_the_readme_fits_two_screens() -> None:
    assert len((REPOSITORY / "README.md").read_text("utf-8").splitlines()) <= 100
