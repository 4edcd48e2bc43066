"""The numeric self-test: small calls that use every feature, compared with the masked dense reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lvsa_core.grid import FrameGrid, TokenLayout
from lvsa_core.kernels.prefix_window import Arriving, PrefixWindow
from lvsa_core.pattern import Pattern
from lvsa_core.positions import Remap, TemporalAxis
from lvsa_core.reference import reference_attend
from lvsa_core.sharded.exchange import Shards, exchange

#: Overlapping windows, text on both sides, padding. A frame takes several of a kernel's tiles, the last in part.
PATTERN = Pattern(9, window=1, n_first=1, keyframe_interval=4, offset=2)
#: The same with anchors that are boosted and seen at other positions, for kernels that know them; two channels turn.
MOVED = replace(PATTERN, anchor_boost=1.0, remap=Remap(5, TemporalAxis.of(2, 256.0)))
LAYOUT = TokenLayout(FrameGrid(9, 150), kv_before=3, kv_after=21, q_before=3, q_after=21, pad=5)


class Call(NamedTuple):
    """A call of the self-test, with two heads of queries."""

    pattern: Pattern
    layout: TokenLayout
    ready: int = 0  # number of keys that are there from the start; 0: all
    kv_heads: int = 1
    far: bool = False  # keys and values lie further apart than numbers of 32 bits count
    part: bool = False  # a kernel that can write its result somewhere does, to some heads of a larger tensor


def _ring_call() -> Call:
    """The third of four ranks: its rows begin and end within a frame.

    It holds one anchor itself, which stands before those of other ranks. The keys lack frames before and after the
    windows.
    """
    pattern, text = Pattern(15, window=1, n_first=1, keyframe_interval=4, offset=2), 21
    plan = exchange(pattern, Shards(FrameGrid(15, 150), 4, pad=2))
    return Call(pattern, plan.layout(2, text), text + plan.local_rows(2))


def _frame_call() -> Call:
    """Two anchors and windows of whole frames of 480p, for rows of two of them; as many heads of keys as of queries."""
    return Call(
        Pattern(6, window=1, n_first=1, keyframe_interval=4, offset=2),
        TokenLayout(FrameGrid(6, 1560), q_offset=4 * 1560 - 150, q_rows=400),
        kv_heads=2,
        part=True,
    )


CALLS = (Call(PATTERN, LAYOUT), _ring_call(), _frame_call(), _ring_call()._replace(far=True), Call(MOVED, LAYOUT))

#: How many numbers lie between the first key and the last of a call that is far.
FAR = 2**31

#: The largest difference from the reference that is allowed. Outputs have size 1; a wrong key changes them that much.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-3, torch.float16: 2e-2, torch.bfloat16: 6e-2}


def self_test(kernel: Any, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
    """None if the kernel computes the pattern correctly there, else what is wrong.

    Anything that the kernel raises counts as a failure: its library may not fit the device or the driver.
    """
    tolerance = TOLERANCE.get(dtype, 5e-2)
    with torch.device("cpu"):  # an engine builds models under another default device, such as meta
        for call in CALLS:
            try:
                if call.far and not _has_room(device, dtype):
                    continue
                if call.pattern is MOVED and not (isinstance(kernel, PrefixWindow) and head_size > 1):
                    continue
                difference = _difference(kernel, call, device, dtype, head_size)
                if call.far:
                    torch.cuda.empty_cache()
            except Exception as error:
                sentence = str(error).strip().partition("\n")[0]
                return f"its self-test raised {type(error).__name__}: {sentence}"
            if not difference <= tolerance:  # also for NaN
                return f"its self-test is off by {difference:.2g}, allowed is {tolerance:.2g}"
    return None


def _difference(kernel: Any, call: Call, device: torch.device, dtype: torch.dtype, head_size: int) -> float:
    """The largest difference from the reference, among rows that are not padding.

    If the kernel can begin with the keys that are ready, the others are NaN until it waits for them.
    """
    layout = call.layout
    *inputs, expected = _inputs(call, dtype, head_size)
    q, k, values = (x.to(device, copy=True) for x in inputs)
    v = values[:, :, call.kv_heads :]
    if call.far:
        k, v = _far(k, v)
    options: dict[str, Any] = {}
    if call.ready and isinstance(kernel, PrefixWindow):
        options["arriving"] = Arriving(call.ready, _hidden(k[:, call.ready :], v[:, call.ready :]))
    if call.part and isinstance(kernel, PrefixWindow):
        options["out"] = q.new_full((1, q.shape[1], 3 * q.shape[2], head_size), torch.nan)[:, :, 1 : 1 + q.shape[2]]
    out = kernel.attend(q, k, v, call.pattern, layout, head_size**-0.5, **options).to("cpu", torch.float64)
    rows = torch.ones(layout.q_tokens, dtype=torch.bool, device="cpu")
    rows[layout.q_before + layout.real_rows : layout.q_before + layout.video_rows] = False
    return float((out - expected)[:, rows].abs().max())


def _has_room(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a call that is far can be tried: on a CUDA device that has three times the memory free.

    It is no use elsewhere: there it would take a page of memory for every key.
    """
    return device.type == "cuda" and torch.cuda.mem_get_info(device)[0] > 3 * FAR * dtype.itemsize


def _far(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Copies of tensors [1, S, H, D] of one shape, side by side in memory, whose first and last row are far apart.

    The memory between the rows is never touched.
    """
    _, rows, heads, size = tensors[0].shape
    width = heads * size
    step = max(len(tensors) * width, -(-FAR // (rows - 1) // 64) * 64)
    memory = tensors[0].new_empty((rows - 1) * step + len(tensors) * width)
    strides = (memory.numel(), step, size, 1)
    places = [memory.as_strided(x.shape, strides, i * width) for i, x in enumerate(tensors)]
    return tuple(place.copy_(x) for place, x in zip(places, tensors, strict=True))


def _hidden(*tensors: Tensor) -> Callable[[], None]:
    """Set all numbers to NaN, and return a function that restores them."""
    kept = [x.clone() for x in tensors]
    for x in tensors:
        x.fill_(torch.nan)

    def bring_back() -> None:
        for x, numbers in zip(tensors, kept, strict=True):
            x.copy_(numbers)

    return bring_back


@lru_cache(maxsize=16)
def _inputs(call: Call, dtype: torch.dtype, head_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and the expected output, all on the CPU.

    The values have twice the heads, and the call uses the second half, so that they lie in memory with gaps, like parts
    of a fused projection.
    """
    noise = torch.Generator(device="cpu").manual_seed(0)  # its own generator: the user's random numbers do not change

    def normal(tokens: int, heads: int, size: float) -> Tensor:
        shape = (1, tokens, heads, head_size)
        return (torch.randn(shape, generator=noise, dtype=torch.float32, device="cpu") * size).to(dtype)

    # With scores of size 3 each output depends on a few keys.
    layout, heads = call.layout, call.kv_heads
    q, k = normal(layout.q_tokens, 2, 3.0), normal(layout.kv_tokens, heads, 1.0)
    values = normal(layout.kv_tokens, 2 * heads, 1.0)
    v = values[:, :, heads:]
    expected = reference_attend(q.double(), k.double(), v.double(), call.pattern, layout, scale=head_size**-0.5)
    return q, k, values, expected
