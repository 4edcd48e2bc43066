"""One block of a model on a device: dense attention, LVSA and the linear layers, timed in turns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from lvsa_core import FrameGrid, Pattern, TokenLayout, attend, reference_attend
from lvsa_core.kernels import KernelUnavailable, Selection
from lvsa_core.kernels.selftest import TOLERANCE
from lvsa_vllm_omni.cli.request import Request
from lvsa_vllm_omni.measure import cost, dense
from lvsa_vllm_omni.measure.timing import interleaved, medians, normal
from lvsa_vllm_omni.shape import Shape

#: The case that is checked: overlapping windows, a last tile that is not full.
CHECKED = Pattern(12, window=2, n_first=1, keyframe_interval=4, offset=1)
CHECKED_GRID = FrameGrid(12, 37)


@dataclass(frozen=True)
class Bench:
    """What is measured, and how.

    Args:
        full: the model's shape, with ``full_patches`` tokens a frame. shape, patches: what is measured of it.
        kernel: LVSA's. repeats, patience: as for :func:`lvsa_vllm_omni.measure.timing.interleaved`.
    """

    full: Shape
    full_patches: int
    shape: Shape
    patches: int
    device: torch.device
    dtype: torch.dtype
    kernel: Selection
    repeats: int
    patience: float = 0.0

    @property
    def scaled_down(self) -> bool:
        """Whether less than the model is measured."""
        return (self.shape, self.patches) != (self.full, self.full_patches)


def narrowed(shape: Shape, heads: int, share: float) -> Shape:
    """A model of fewer heads, as narrow as they are fewer, with a share of the text."""
    group = shape.heads // shape.kv_heads
    return replace(
        shape,
        heads=heads,
        kv_heads=heads // group if heads % group == 0 else 1,
        hidden=max(1, shape.hidden * heads // shape.heads),
        ffn=max(1, shape.ffn * heads // shape.heads),
        text_tokens=math.ceil(shape.text_tokens * share),
    )


def flash3(bench: Bench) -> Any:
    """A build of FlashAttention-3 that runs there, None if none does."""
    try:
        return dense.flash3(bench.device, bench.dtype, bench.shape.head_size)
    except KernelUnavailable:
        return None


def dense_choice(bench: Bench) -> str:
    """What PyTorch takes for dense attention on this device, dtype and head size."""
    q, k, v = (x.transpose(1, 2) for x in _inputs(bench, 256))
    chosen = SDPBackend(torch._fused_sdp_choice(q, k, v, enable_gqa=q.shape[1] != k.shape[1]))
    return f"PyTorch's attention ({chosen.name})"


def check(bench: Bench) -> str | None:
    """None if ``attend`` agrees with the reference on a small case, else by how much it does not."""
    grid, text = CHECKED_GRID, 5 if bench.shape.text_tokens else 0
    layout = TokenLayout(grid, kv_after=text, q_after=text)
    q, k, v = _inputs(bench, layout.q_tokens)
    q = q * 3  # so that a handful of keys decide about each output, and a wrong one shows
    out = attend(q, k, v, CHECKED, layout, kernel=bench.kernel.kernel.name)
    off = (out.float() - reference_attend(q.float(), k.float(), v.float(), CHECKED, layout)).abs().max().item()
    allowed = TOLERANCE[bench.dtype]
    return None if off <= allowed else f"attend is off by {off:.2g} from the reference, allowed is {allowed:.2g}"


@torch.no_grad()
def time_block(bench: Bench, request: Request) -> dict[str, Any]:
    """Median seconds of each side for one length, and what follows from them."""
    pattern, decision = request.at(0)
    shape, grid = bench.shape, FrameGrid(request.grid.frames, bench.patches)
    layout = TokenLayout(grid, kv_after=shape.text_tokens, q_after=shape.text_tokens)
    q, k, v = _inputs(bench, layout.q_tokens)
    sides: dict[str, Callable[[], Any]] = {"dense": lambda: dense.pytorch(q, k, v, shape.head_size**-0.5)}
    if (fa3 := flash3(bench)) is not None:
        sides["dense_fa3"] = lambda: fa3.attention(q, k, v, shape.head_size**-0.5)
    if decision.verdict == "sparse":
        sides["lvsa"] = lambda: attend(q, k, v, pattern, layout, kernel=bench.kernel.kernel.name)
    sides["linear"] = _linear(bench, layout.q_tokens)
    times, quiet = interleaved(sides, bench.device, bench.repeats, bench.patience)
    found = medians(times)
    fastest = min(found[name] for name in ("dense", "dense_fa3") if name in found)
    lvsa = found.get("lvsa", fastest)
    return {
        "frames": request.frames,
        "latent_frames": grid.frames,
        "tokens": grid.tokens,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "density": pattern.density,
        "seconds": found,
        "ratio": lvsa / fastest,
        "overhead": lvsa / fastest / pattern.density,
        "end_to_end": _end_to_end(bench, pattern, fastest, lvsa, found["linear"]),
        "quiet": quiet or bench.device.type == "cuda",  # what other programs do to the processors does not show there
    }


def _end_to_end(bench: Bench, pattern: Pattern, dense: float, lvsa: float, linear: float) -> float:
    """Time of a dense block of the full model over that of an LVSA block, from times of what was measured of it."""
    whole, part = (FrameGrid(pattern.frames, patches) for patches in (bench.full_patches, bench.patches))
    dense *= cost.dense_attention(bench.full, whole).flop / cost.dense_attention(bench.shape, part).flop
    lvsa *= cost.lvsa_attention(bench.full, whole, pattern).flop / cost.lvsa_attention(bench.shape, part, pattern).flop
    linear *= cost.linear_flop(bench.full, whole) / cost.linear_flop(bench.shape, part)
    return (dense + linear) / (lvsa + linear)


def _inputs(bench: Bench, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Q, K and V [1, tokens, heads, D]."""
    shape, noise = bench.shape, torch.Generator(bench.device).manual_seed(tokens)

    def heads(count: int) -> Tensor:
        return normal(1, tokens, count, shape.head_size, dtype=bench.dtype, device=bench.device, noise=noise)

    return heads(shape.heads), heads(shape.kv_heads), heads(shape.kv_heads)


def _linear(bench: Bench, tokens: int) -> Callable[[], None]:
    """The matrix products of the block's linear layers, one after the other."""
    layers = cost.linear_layers(bench.shape)
    weights = [normal(*layer, dtype=bench.dtype, device=bench.device) * layer.inputs**-0.5 for layer in layers]
    inputs = {
        width: normal(tokens, width, dtype=bench.dtype, device=bench.device)
        for width in {layer.inputs for layer in layers}
    }

    def products() -> None:
        for layer, weight in zip(layers, weights, strict=True):
            inputs[layer.inputs] @ weight

    return products
