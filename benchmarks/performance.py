"""Draws the tables of ``docs/performance.md`` from the files in ``results/``.

    python benchmarks/performance.py

What stands between the page's two comments of a table is replaced, the rest stays. Of several results for a case the
newest counts. What no file has is "not measured".
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import root  # noqa: F401
from layer import GROUPS
from models import MODELS
from report import table

from lvsa_core.kernels import KERNELS
from lvsa_vllm_omni.measure.machine import ROOT

PAGE, RESULTS = ROOT / "docs" / "performance.md", ROOT / "benchmarks" / "results"
NONE = "not measured"
NAMES = {
    "wan-1.3b": "Wan 2.1 1.3B, 480p", "wan-14b": "Wan 2.1 14B, 480p", "wan-14b-720p": "Wan 2.1 14B, 720p",
    "hunyuan-video-1.5": "HunyuanVideo 1.5, 480p", "hunyuan-video-1.5-720p": "HunyuanVideo 1.5, 720p",
    "cosmos3": "Cosmos 3",
}  # fmt: skip
LENGTHS = (41, 81, 121)
STEPS = [(name, length) for name in ("wan-1.3b", "wan-14b", "hunyuan-video-1.5") for length in (21, *LENGTHS)]
#: Generations of cards, a part of their names, the dense attention of vLLM-Omni 0.30, LVSA's kernel, of one class?
CARDS = [
    ("Hopper (9.0)", "H100 H200 H800 H20", "FlashAttention-3 of fa3-fwd", "the same", "yes"),
    ("Ampere, Ada (8.0, 8.6, 8.9)", "A100 A800 A40 A10 L40 L4", "fa3-fwd's code for them", "the same", "yes"),
    ("Blackwell (10.0, 10.3), Wan", "B200 B300", "FlashInfer's TRT-LLM, else cuDNN",
     "vLLM's FlashAttention-4, else cuDNN on copied windows", "nobody has compared them"),
    ("Blackwell (10.0, 10.3), other models", "B200 B300", "cuDNN",
     "vLLM's FlashAttention-4, else cuDNN on copied windows", "yes"),
    ("Blackwell (12.0, 12.1)", "5090 6000", "cuDNN", "cuDNN on copied windows", "yes"),
    ("before Ampere", "T4 V100", "what PyTorch chooses", "the same", "yes"),
]  # fmt: skip


def files() -> list[dict[str, Any]]:
    """All results, the newest last, each with its ``file``; shrunk ones left out."""
    found = [{"file": path.name, **json.loads(path.read_text())} for path in sorted(RESULTS.glob("*.json"))]
    real = [one for one in found if not (one["machine"].get("tiny") or one["machine"].get("small"))]
    return sorted(real, key=lambda one: one["machine"]["date"])


def rows(results: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Rows of a kind, which is told by one of their keys; ``cases`` is what they were called at first."""
    return [row for one in results for row in one.get("rows") or one.get("cases", []) if row.get(key)]


def cards() -> dict[str, list[dict[str, Any]]]:
    """Results by the name of the card that they were measured on."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in files():
        if card := one["machine"].get("device"):
            found.setdefault(card.partition(",")[0], []).append(one)
    return found


#: Cells of rows by their first two: a name, and latent frames where there are several. None: not measured.
Cells = dict[tuple[str, str], list[str] | None]


def drawn_table(header: str, found: Cells) -> Iterator[str]:
    """What has been measured, and a sentence on the rest."""
    if measured := [[*filter(None, first), *cells] for first, cells in found.items() if cells]:
        yield from (*table(header, measured), "")
    absent: dict[str, list[str]] = {}
    for (name, length), cells in found.items():
        if not cells:
            absent.setdefault(name, []).extend([length] if length else [])
    if absent:
        rest = "; ".join(f"{name}{' at '[: 4 * len(at)]}{', '.join(at)}" for name, at in absent.items())
        yield f"{NONE.capitalize()}: {rest}.\n"


def layers(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The attention of a layer by the kernel that ``auto`` takes, every model at every length."""
    auto = next((one["auto"].partition(" ")[0] for one in reversed(results) if one.get("auto")), "")
    here = {(row["model"], row["frames"]): row for row in rows(results, "kernels") if auto in row["kernels"]}
    found: Cells = {}
    for name, title in NAMES.items():
        for length in LENGTHS:
            row = here.get((name, length))
            found[title, str(length)] = None
            if row:
                own, dense = row["kernels"][auto], row["dense"][row["reference"]]
                times = (f"{seconds * 1e3:.1f} ms" for seconds in (dense, own["seconds"]))
                ratios = (f"{own['ratio']:.3f}", f"**{own['overhead']:.3f}**", f"{own['roofline']:.2f}")
                halves = row["kernels"].get(GROUPS)
                more = f"{halves['seconds'] / own['seconds']:.3f}" if halves else NONE
                found[title, str(length)] = [f"{row['density']:.3f}", row["reference"], *times, *ratios, more]
            elif MODELS[name].pattern(length).is_dense:
                del found[title, str(length)]
    yield f"The attention of one layer, LVSA by {auto or 'no kernel yet'}:\n"
    sides = "model | latent frames | density | dense kernel | dense | LVSA"
    header = f"{sides} | ratio | ratio/density | /floor | two groups of heads / all at once"
    yield from drawn_table(header, found)


def kernels(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Every kernel's ratio/density at Wan's sparse lengths, from the lowest to the highest."""
    checks = {row["side"]: row["result"] for row in rows(results, "side") if not row["model"]}
    checks |= {row["kernel"]: row["result"] for one in results for row in one.get("checks", [])}
    found: Cells = {}
    for name in KERNELS:
        spans = [
            row["kernels"][name]["overhead"]
            for row in rows(results, "kernels")
            if name in row["kernels"] and row["model"] in ("wan-14b", "wan-1.3b") and not row["dense_pattern"]
        ]
        span = f"{min(spans):.2f} to {max(spans):.2f}" if spans else NONE
        found[name, ""] = [checks[name], span] if name in checks else None
    yield "All kernels, their ratio/density at Wan's shapes at 480p from 41 latent frames on:\n"
    yield from drawn_table("kernel | against the reference | ratio/density", found)


def steps(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Whole denoising steps."""
    here = {(row["model"], row["latent_frames"]): row for row in rows(results, "attention_share")}
    found: Cells = {}
    for name, length in STEPS:
        row = here.get((name, length))
        found[NAMES[name], str(length)] = None
        if row:
            dense, sparse = (f"{row['seconds'][side]:.4g} s" for side in ("dense", "lvsa"))
            shares = ", ".join(f"{row['attention_share'][side]:.0%}" for side in ("dense", "lvsa"))
            peaks = ", ".join(f"{row['peak_bytes'][side] / 2**30:.1f}" for side in ("dense", "lvsa"))
            found[NAMES[name], str(length)] = [dense, sparse, f"{row['ratio']:.2f}", shares, f"{peaks} GiB"]
    yield "A whole denoising step:\n"
    sides = "share of attention: dense, LVSA | peak memory: dense, LVSA"
    yield from drawn_table(f"model | latent frames | dense | LVSA | speed-up | {sides}", found)


def gpus() -> Iterator[str]:
    """All cards with results, each with where its numbers come from."""
    for card, results in cards().items():
        yield f"### {card}\n"
        facts = ("date", "driver", "versions", "packages", "measured", "commit", "command")
        for one in results:
            said = [f"{name} {one['machine'][name]}" for name in facts if one["machine"].get(name)]
            counts = Counter(outcome.partition(":")[0] for outcome in one.get("tests", {}).values())
            said += (
                [f"tests/gpu {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}"] if counts else []
            )
            yield f"- [{one['file']}](../benchmarks/results/{one['file']}): {'; '.join(said)}"
        yield ""
        yield from (*layers(results), *kernels(results), *steps(results))


def cpu() -> Iterator[str]:
    """LVSA's overhead on a processor, in two precisions."""
    cells: dict[int, list[str]] = {}
    for dtype in ("float32", "bfloat16"):
        named = [one for one in files() if one["file"].startswith("attention-cpu")]
        chosen = [one for one in named if dtype in one["machine"]["shapes"]]
        for row in rows(chosen[-1:], "frames"):
            times = row.get("seconds") or {
                "dense": row["dense"]["PyTorch"], "attend": row["kernels"]["attend"]["seconds"],
            }  # fmt: skip
            ratio = times["attend"] / times["dense"]
            density = f"{row['density']:.3f}"
            cells.setdefault(row["frames"], [str(row["frames"]), density]).extend([
                f"{times['dense']:.3f} s, {times['attend']:.3f} s", f"{ratio:.3f}", f"{ratio / row['density']:.3f}",
            ])  # fmt: skip
    sides = (f"{dtype}: dense, LVSA | ratio | ratio/density" for dtype in ("float32", "bfloat16"))
    yield from table(" | ".join(["latent frames", "density", *sides]), cells.values())


def classes() -> Iterator[str]:
    """Which kernels meet on which card, and where that has been measured."""
    cells = []
    for generation, parts, dense, own, alike in CARDS:
        measured = [card for card in cards() if {*re.findall(r"\w+", card)} & {*parts.split()}]
        cells.append([generation, dense, own, alike, ", ".join(measured) or NONE])
    yield from table("card (compute capability) | dense of the engine | LVSA | of one class | measured on", cells)


def drawn(page: str) -> str:
    """The page with its tables as they follow from the results."""
    for name, lines in {"gpus": gpus(), "cpu": cpu(), "classes": classes()}.items():
        begin, end = f"<!-- {name}: drawn by benchmarks/performance.py -->\n", f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        page = before + begin + "\n" + "\n".join(lines).strip() + "\n\n" + end + rest.partition(end)[2]
    return page


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text("utf-8")), "utf-8")
