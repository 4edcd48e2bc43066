"""What `lvsa show` tells: the numbers, and the numbers as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from lvsa_core import Pattern, show
from lvsa_vllm_omni.cli.request import Request
from lvsa_vllm_omni.cli.tables import scaled, table
from lvsa_vllm_omni.measure import cost


def numbers(
    request: Request,
    step: int,
    rates: tuple[float, float] | None = None,
    *,
    all_steps: bool = False,
    rows: bool = False,
) -> dict[str, Any]:
    """Everything that is printed, in FLOP, bytes and seconds.

    Args:
        step: denoising step that is shown; the means and ``largest_speedup`` are over one rotation of the anchors.
        rates: FLOP and bytes a second of a device, for the least times.
        all_steps: also the anchors of each step of a rotation. rows: also the letters of each frame.
    """
    shape, grid, rotation = request.model.shape, request.grid, request.rotation()
    pattern, decision = request.at(step)
    lvsa = cost.lvsa_attention(shape, grid, pattern, budget=request.extra_memory)
    sides = {"dense": cost.dense_attention(shape, grid), "lvsa": lvsa}
    linear, cross = cost.linear_flop(shape, grid), cost.cross_flop(shape, grid)
    result = {
        "summary": f"{show.summary(pattern, request.rotate_after)} offset={pattern.offset}",
        "request": request.describe(),
        "model": request.model.title,
        "shape": asdict(shape),
        "frames": request.frames,
        "size": [request.width, request.height],
        "latent_frames": grid.frames,
        "tokens_per_frame": grid.patches,
        "tokens": grid.tokens,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "step": step,
        **_anchors(pattern),
        "window": _window(pattern),
        "anchor_boost": pattern.bias,
        "held_steps": request.held if request.rotate_after else None,
        "distances": _distances(pattern),
        "steps_of_rotation": len(rotation),
        "mean_density": sum(each.density for each in rotation) / len(rotation),
        **{name: _side(side, shape.blocks, rates) for name, side in sides.items()},
        "linear_flop": linear,
        "cross_attention_flop": cross,
        "head_groups": cost.head_groups(
            cost.call_size(shape, grid, moved=pattern.grouping is not None),
            None if pattern.is_dense else request.extra_memory,
        ),
        "attention_share": sides["dense"].flop / (sides["dense"].flop + linear + cross),
        "largest_speedup": cost.largest_speedup(shape, grid, rotation),
    }
    if all_steps:
        result["steps"] = [{"step": request.first_step(i), **_anchors(each)} for i, each in enumerate(rotation)]
        result["steps_as_anchor"] = [sum(f in each.anchors for each in rotation) for f in range(grid.frames)]
    if rows:
        result["rows"] = show.rows(pattern)
    return result


def text(result: dict[str, Any]) -> Iterator[str]:
    """The numbers for people."""
    yield result["summary"]
    yield result["request"]
    yield f"{result['verdict']}: {result['reason']}"
    if result["verdict"] == "sparse":
        yield f"anchors at step {result['step']}: {_listed(result['anchors'])}"
        yield f"window: {result['window']}"
        for frame, pairs in result["distances"].items():
            yield f"frame {frame} sees anchors outside of its window at: {_pairs(pairs)}"
        if result["anchor_boost"]:
            which = "these" if result["distances"] else "the"
            yield f"{result['anchor_boost']:g} is added to the scores of {which} anchors."
        if result["held_steps"]:
            yield "The anchors stand still in the first {} of {} denoising steps.".format(*result["held_steps"])
        steps, mean = result["steps_of_rotation"], result["mean_density"]
        yield f"density: {result['density']:.1%}, on average over the {steps} steps of a rotation {mean:.1%}"
    yield from ("", *table(_rows(result)), "")
    if result["head_groups"] > 1:
        yield f"Attention works in {result['head_groups']} groups of heads, as LVSA_EXTRA_MEMORY asks."
    yield (
        f"Attention is {result['attention_share']:.0%} of the FLOP of a dense block; a step runs "
        f"{result['shape']['blocks']} blocks, with guidance twice."
    )
    yield (
        f"End to end at most {result['largest_speedup']:.2f} times as fast as dense, over a rotation: with one FLOP "
        f"rate for attention\nand linear layers, and no time for anything else."
    )
    if "steps" in result:
        yield from ("", *_steps(result))
    if "rows" in result:
        yield from ("", *result["rows"])


def _rows(result: dict[str, Any]) -> list[list[str]]:
    """The table of dense against LVSA; a ratio where one is of use."""
    names = {
        "flop": "FLOP of the attention, one layer",
        "flop_all_layers": f"FLOP of the attention, {result['shape']['blocks']} layers",
        "bytes": "bytes it moves, one layer",
        "flop_per_byte": "FLOP for every byte",
        "memory": "bytes beyond inputs and output",
        "seconds_at_least": "least seconds, one layer",
    }
    rows = [["one sequence in bfloat16", "dense", "LVSA", "LVSA/dense"]]
    for key, name in names.items():
        if key in result["dense"]:
            dense, lvsa = result["dense"][key], result["lvsa"][key]
            ratio = f"{lvsa / dense:.3f}" if key not in ("flop_per_byte", "memory") else ""
            rows.append([name, scaled(dense), scaled(lvsa), ratio])
    linear = scaled(result["linear_flop"])
    return [*rows, ["FLOP of the block's linear layers", linear, linear, f"{1:.3f}"]]


def _side(side: cost.Cost, blocks: int, rates: tuple[float, float] | None) -> dict[str, float]:
    """One column of the table."""
    column = {
        "flop": side.flop,
        "flop_all_layers": side.flop * blocks,
        "bytes": side.moved,
        "flop_per_byte": side.intensity,
        "memory": side.memory,
    }
    return column if rates is None else {**column, "seconds_at_least": side.floor(*rates)}


def _anchors(pattern: Pattern) -> dict[str, Any]:
    """What differs between the steps of a request; ``attended`` is the largest count of a frame."""
    return {
        "offset": pattern.offset,
        "keyframe_interval": pattern.keyframe_interval,
        "anchors": list(pattern.anchors),
        "attended": pattern.attended_per_frame,
        "density": pattern.density,
    }


def _window(pattern: Pattern) -> str:
    """What a frame attends to besides the anchors."""
    width = min(2 * pattern.window + 1, pattern.frames)
    if width == 1:
        return "the frame itself"
    if not pattern.expand_window:
        return f"the {width} frames around each, anchors among them"
    return f"{min(width, pattern.frames - len(pattern.anchors))} frames around each, not counting anchors"


def _distances(pattern: Pattern) -> dict[int, list[tuple[int, int]]]:
    """Three frames' anchors that are seen at other positions than where they are, and at which distance."""
    frames = (0, pattern.frames // 2, pattern.frames - 1)
    return {} if pattern.grouping is None else {frame: show.distances(pattern, frame) for frame in frames}


def _pairs(pairs: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{anchor} at {distance:+d}" for anchor, distance in pairs)


def _steps(result: dict[str, Any]) -> Iterator[str]:
    """The anchors of each step, and how often each frame is one."""
    for facts in result["steps"]:
        anchors = facts["anchors"]
        yield f"step {facts['step']}: {len(anchors)} anchors, density {facts['density']:.1%}: {_listed(anchors)}"
    counts = result["steps_as_anchor"]
    if never := counts.count(0):
        yield f"The anchors do not move: {never} of {len(counts)} frames never are one."
    elif result["verdict"] == "sparse":
        yield (
            f"Within these {len(result['steps'])} steps every frame is an anchor, {counts.count(1)} of {len(counts)} "
            f"exactly once."
        )


def _listed(frames: Sequence[int]) -> str:
    return " ".join(map(str, frames))
