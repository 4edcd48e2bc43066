"""The page of `lvsa show --html`: one file, nothing from the network, the patterns of all steps in it."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lvsa_core import Pattern
from lvsa_vllm_omni.cli.request import Request


def page(request: Request, result: dict[str, Any], step: int) -> str:
    """The page as HTML.

    Args:
        request: what is shown. result: its numbers, from :func:`lvsa_vllm_omni.cli.show_report.numbers`.
        step: the denoising step that is shown first.
    """
    rotation = request.rotation()
    steps = max(request.model.preset.steps or 0, len(rotation), step + 1)
    counts = [pattern.attended_count(frame) for pattern in rotation for frame in range(pattern.frames)]
    environment = Environment(
        loader=PackageLoader("lvsa_vllm_omni.cli"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("pattern.html").render(
        result=result,
        rotation=rotation,
        first_steps=[*map(request.first_step, range(len(rotation)))],
        fewest=min(counts),
        most=max(counts),
        steps=steps,
        data={
            "frames": request.grid.frames,
            "steps": steps,
            "step": step,
            "patterns": [*map(_packed, rotation)],
            "rotated": [*map(request.rotated, range(steps))],
        },
    )


def _packed(pattern: Pattern) -> dict[str, Any]:
    """What the page needs to draw a step: anchors, and of every frame its window and how many frames it attends to."""
    return {
        "offset": pattern.offset,
        "density": pattern.density,
        "anchors": pattern.anchors,
        "low": [low for low, _ in pattern.windows],
        "high": [high for _, high in pattern.windows],
        "counts": [pattern.attended_count(frame) for frame in range(pattern.frames)],
    }
