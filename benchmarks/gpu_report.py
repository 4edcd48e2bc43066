"""What the GPU's benchmark says: checks, the table of a case, the verdict and the figure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gpu_cases import ALLOWED, DTYPE

TARGET, TARGET_FRAMES = 1.10, 41


def milliseconds(value: float) -> str:
    """Three digits or more."""
    return f"{value * 1e3:.{2 if value < 0.01 else 1}f} ms"


def report(case: dict[str, Any]) -> Iterator[str]:
    """A case as a table."""
    what = "dense pattern" if case["dense_pattern"] else f"density {case['density']:.3f}"
    yield (
        f"\n{case['model']}, T={case['frames']}, {case['tokens']} tokens, {case['heads'][0]} heads, {what}, "
        f"floor {milliseconds(case['floor'])}, {case['repeats']} runs"
    )
    yield "| kernel | time | /dense | overhead | /floor | extra memory | of the bound | difference |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, row in case["kernels"].items():
        off = "not a number" if row["difference"] is None else f"{row['difference']:.1e}"
        yield (
            f"| {name} | {milliseconds(row['seconds'])} | {row['ratio']:.3f} | {row['overhead']:.3f} | "
            f"{row['roofline']:.2f} | {row['extra_bytes'] / 2**20:.0f} MiB | "
            f"{row['extra_bytes'] / case['bound_bytes']:.0%} | {off}{'' if row['right'] else ' WRONG'} |"
        )
    for name, value in case["dense"].items():
        named = f"dense {name}{' (the reference)' if name == case['reference'] else ''}"
        yield f"| {named} | {milliseconds(value)} | {value / case['dense'][case['reference']]:.3f} | | | | | |"
    for name, reason in case["failed"].items():
        yield f"{name} failed: {reason}"
    if case["parts"]:
        yield f"{case['chosen']}: " + ", ".join(f"{part} {milliseconds(x)}" for part, x in case["parts"].items())
    yield f"new anchors cost the host {case['planning'] * 1e3:.2f} ms a step"


def print_checks(results: dict[str, Any], device: torch.device) -> None:
    """What runs here, what does not, and why."""
    print(f"\nEvery kernel against reference_attend, {DTYPE}, random data; allowed is a difference of {ALLOWED}:")
    for name in dict.fromkeys(row["kernel"] for row in results["checks"]):
        rows = [row for row in results["checks"] if row["kernel"] == name]
        faults = [f"{row['result']} (off by {row['difference']}) on {row['layout']}" for row in rows
                  if row["result"] != "right"]  # fmt: skip
        largest = max((row["difference"] for row in rows if row["difference"] is not None), default=0)
        print(f"{name}: {'; '.join(faults) or f'right on {len(rows)} layouts, off by at most {largest:.2g}'}")
    for name, reason in results["unavailable"].items():
        print(f"{name}: does not run here: {reason}")
    for name, reason in results["dense_unavailable"].items():
        print(f"dense {name}: left out: {reason}")
    print(f"auto takes: {results['auto']}", flush=True)


def verdict(results: dict[str, Any], hopper: bool) -> dict[str, Any]:
    """The largest overhead of the kernel that ran as first choice, and whether it is within the target."""
    judged = [
        (case["kernels"][case["chosen"]]["overhead"], f"{case['model']} T={case['frames']} {case['chosen']}")
        for case in results["cases"]
        if case["chosen"] and case["frames"] >= TARGET_FRAMES and not case["dense_pattern"]
        and case["reference"] == "FlashAttention-3"
    ]  # fmt: skip
    target = f"{TARGET:.2f} x density x dense FlashAttention-3 on Hopper from T={TARGET_FRAMES} on"
    if not (hopper and judged):
        sentence = f"The target, {target}, is not judged: no such case ran here."
        return {"largest": None, "within": None, "sentence": sentence}
    largest, where = max(judged)
    within = largest <= TARGET
    sentence = f"Largest overhead: {largest:.3f} ({where}), {'within' if within else 'ABOVE'} the target, {target}."
    return {"largest": largest, "within": within, "sentence": sentence}


def draw(results: dict[str, Any], file: Path) -> None:
    """Overheads by latent frames, a panel for each model."""
    try:
        import matplotlib
    except ImportError:
        print("No figure: matplotlib is not installed.", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = sorted((case for case in results["cases"] if not case["dense_pattern"]), key=lambda case: case["frames"])
    models = list(dict.fromkeys(case["model"] for case in cases)) or ["nothing timed"]
    figure, axes = pyplot.subplots(1, len(models), figsize=(4 * len(models), 4), sharey=True, squeeze=False)
    names = list(dict.fromkeys(name for case in cases for name in case["kernels"]))
    for panel, model in zip(axes[0], models, strict=True):
        here = [case for case in cases if case["model"] == model]
        for name in names:
            points = [(case["frames"], case["kernels"][name]["overhead"]) for case in here if name in case["kernels"]]
            panel.plot([t for t, _ in points], [overhead for _, overhead in points], marker="o", label=name)
        panel.axhline(1, color="grey", linewidth=0.8)
        panel.axhline(TARGET, color="grey", linewidth=0.8, linestyle="--")
        panel.set(title=model, xlabel="latent frames", xticks=[case["frames"] for case in here])
    axes[0][0].set_ylabel("time / (density x dense)")
    axes[0][0].legend(fontsize="x-small")
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
