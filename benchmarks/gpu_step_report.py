"""What the benchmark of denoising steps says: whether a case meets its target, its description, table and figure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TARGETS = {("wan-1.3b", 321): 2.4, ("wan-1.3b", 481): 3.4}
EQUAL = 0.01  # allowed between the sides where both are dense


def judge(case: dict[str, Any]) -> tuple[str, bool | None]:
    """The target of a case in words, empty if it has none, and whether it is met; None: not judged."""
    if case["dense_pattern"]:
        wanted, met = f"within {EQUAL:.0%}", abs(case["ratio"] - 1) <= EQUAL
    elif least := TARGETS.get((case["model"], case["frames"])):
        wanted, met = f"at least {least}", case["ratio"] >= least
    else:
        return "", None
    return wanted, met if "FlashAttention-3" in case["dense_kernels"] else None


def describe(case: dict[str, Any]) -> str:
    """What a case ran on."""
    pattern = "dense pattern" if case["dense_pattern"] else f"density {case['density']:.3f}"
    kernels = [f"{name} {value * 1e3:.3g} ms a layer" for name, value in case["dense_kernels"].items()]
    kernels += [f"{name} failed: {reason}" for name, reason in case["dense_failed"].items()]
    blocks = "compiled" if case["compiled"] else "not compiled"
    return "\n".join(
        (
            f"{case['model']}, {case['frames']} frames: T={case['latent_frames']}, {case['tokens']} tokens, {pattern}, "
            f"{case['layers']} blocks, {case['repeats']} runs; dense {case['seconds']['dense']:.4g} s a step, "
            f"LVSA {case['seconds']['lvsa']:.4g} s",
            f"dense takes {case['dense']} ({'; '.join(kernels)})",
            f"LVSA takes {case['kernel']}",
            f"blocks {blocks}{': ' + case['not_compiled'] if case['not_compiled'] else ''}; "
            + ("all blocks share the weights of one" if case["shared_weights"] else "every block has its own weights"),
        )
    )


def table(cases: list[dict[str, Any]]) -> Iterator[str]:
    """All cases, a line each."""
    yield "| model | frames | dense | LVSA | ratio | attention: dense, LVSA | peak: dense, LVSA | target | met |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for case in cases:
        dense, sparse = (case["seconds"][side] for side in ("dense", "lvsa"))
        shares = ", ".join(f"{case['attention_share'][side]:.0%}" for side in ("dense", "lvsa"))
        peaks = ", ".join(f"{case['peak_bytes'][side] / 2**30:.1f}" for side in ("dense", "lvsa"))
        met = {True: "yes", False: "NO", None: "not judged"}[case["met"]] if case["target"] else ""
        yield (
            f"| {case['model']} | {case['frames']} | {dense:.4g} s | {sparse:.4g} s | {case['ratio']:.3f} | {shares} | "
            f"{peaks} GiB | {case['target']} | {met} |"
        )


def draw(cases: list[dict[str, Any]], file: Path) -> None:
    """Seconds a step by frames, a panel for each model, with the ratios."""
    try:
        import matplotlib
    except ImportError:
        print("No figure: matplotlib is not installed.", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = sorted(cases, key=lambda case: case["frames"])
    models = list(dict.fromkeys(case["model"] for case in cases)) or ["nothing timed"]
    figure, axes = pyplot.subplots(1, len(models), figsize=(4 * len(models), 4), squeeze=False)
    for panel, model in zip(axes[0], models, strict=True):
        here = [case for case in cases if case["model"] == model]
        frames = [case["frames"] for case in here]
        for side, label in (("dense", "dense"), ("lvsa", "LVSA")):
            panel.plot(frames, [case["seconds"][side] for case in here], marker="o", label=label)
        for case in here:
            place = (case["frames"], case["seconds"]["dense"])
            panel.annotate(f"{case['ratio']:.2f}x", place, xytext=(0, 6), textcoords="offset points", ha="center")
        panel.set(title=model, xlabel="frames", ylabel="seconds a step", xticks=frames, ylim=(0, None))
        panel.margins(x=0.1, y=0.15)
        panel.legend(fontsize="small", loc="upper left")
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
