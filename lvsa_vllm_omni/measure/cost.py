"""FLOP, bytes and memory of one layer's attention and of the rest of its block: formulas, nothing measured.

Units: FLOP counts a multiplication and an addition as two. V video tokens and L joined text tokens, H query heads and
Hkv key heads of size D, one sequence. Source of the attention's count: FlashAttention's benchmarks, 4 Sq Sk H D for the
two products; of the rest: two FLOP for every weight and token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lvsa_core import FrameGrid, Pattern, TokenLayout
from lvsa_core.memory import GB, CallSize
from lvsa_vllm_omni.shape import Shape

#: Log-sum-exps are float32.
LSE_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """What the attention of one layer takes.

    Args:
        flop: of the two matrix products.
        moved: bytes read and written, each operand of each call once: what tiles read again comes from the cache.
        memory: bytes held at most beyond inputs and output.
    """

    flop: int
    moved: int
    memory: int

    @property
    def intensity(self) -> float:
        """FLOP for every byte moved; below the device's FLOP rate over its bandwidth, memory is the limit."""
        return self.flop / self.moved

    def floor(self, flop_rate: float, bandwidth: float) -> float:
        """Least seconds on a device of that many FLOP and bytes a second: the roofline."""
        return max(self.flop / flop_rate, self.moved / bandwidth)


class Linear(NamedTuple):
    """A matrix of weights [inputs, outputs]."""

    inputs: int
    outputs: int


def dense_attention(shape: Shape, grid: FrameGrid, itemsize: int = 2) -> Cost:
    """Every token attends to every token: 4 (V + L)^2 H D FLOP, one pass over Q, K, V and the output.

    Args:
        itemsize: bytes of a number, 2 for bfloat16.
    """
    tokens = grid.tokens + shape.text_tokens
    q, kv, lse = _bytes(shape, tokens, itemsize)
    return Cost(_flop(shape, tokens**2), 2 * q + 2 * kv + lse, lse)


def lvsa_attention(
    shape: Shape, grid: FrameGrid, pattern: Pattern, itemsize: int = 2, budget: float | None = None
) -> Cost:
    """The pattern as a prefix and windows: 4 H D FLOP for every attended pair of tokens.

    Frames attend by the pattern; text attends to everything and is attended by everything. K and V are copied into the
    order of the prefix (read and written), the prefix and the windows each read Q and their part of K and V and write
    an output and log-sum-exps, and the merge reads both and writes one. With joined text, boosted anchors are one more
    call and merge. Anchors at other positions are that too, without text but a merge into zeros. Instead of all keys
    they alone are copied, twice, and Q; what the rotary embedding turns of these is read and written once more, with
    two copies in float32 between, and the windows read all keys. Memory: see :meth:`lvsa_core.memory.CallSize.extra`.

    Args:
        itemsize: bytes of a number. budget: GB that attention may take beside inputs and output, None: as it needs.
    """
    if pattern.is_dense:
        return dense_attention(shape, grid, itemsize)
    layout = TokenLayout(grid, kv_after=shape.text_tokens, q_after=shape.text_tokens)
    q, kv, lse = _bytes(shape, layout.q_tokens, itemsize)
    copies, calls, merge = 4 * kv, 4 * q + 2 * kv + 2 * lse, 3 * q + 2 * lse
    moved = copies + calls + merge
    if shape.text_tokens and (pattern.bias or pattern.grouping):
        moved += 2 * q + lse + merge
    if pattern.grouping and pattern.remap:
        anchors = kv * len(pattern.anchors) * grid.patches // layout.kv_tokens
        turned = (2 + 16 // itemsize) * (q + 2 * anchors) * pattern.remap.axis.channels // shape.head_size
        moved += 2 * q + turned + (8 + 4) * anchors - copies + (0 if shape.text_tokens else q + merge)
    size = call_size(shape, grid, itemsize, moved=pattern.grouping is not None)
    memory = size.extra(head_groups(size, budget))
    return Cost(_flop(shape, attended_pairs(pattern, layout)), moved, memory)


def call_size(shape: Shape, grid: FrameGrid, itemsize: int = 2, moved: bool = False) -> CallSize:
    """Sizes of the attention of one layer, for one video; ``moved``: with anchors at other positions."""
    tokens = grid.tokens + shape.text_tokens
    return CallSize(1, tokens, tokens, shape.heads, shape.kv_heads, shape.head_size, itemsize, moved)


def head_groups(size: CallSize, budget: float | None) -> int:
    """Groups of heads under a budget in GB; without one, all heads at once."""
    return 1 if budget is None else size.groups_within(budget * GB)


def attended_pairs(pattern: Pattern, layout: TokenLayout) -> int:
    """Pairs of query and key tokens that a call computes, for a whole video without padding.

    Frames attend by the pattern to frames, and to all other keys; other queries attend to all keys. With L tokens of
    text joined to V of video that is density V^2 + 2 V L + L^2.
    """
    video = pattern.attended_pairs * layout.grid.patches**2 + layout.grid.tokens * (layout.kv_before + layout.kv_after)
    return video + (layout.q_before + layout.q_after) * layout.kv_tokens


def linear_layers(shape: Shape) -> list[Linear]:
    """The block's matrices that every token passes: of both attentions (their text's aside) and the feed-forward."""
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layers = [Linear(shape.hidden, queries + 2 * keys), Linear(queries, shape.hidden)]
    if shape.cross_tokens:
        layers += [Linear(shape.hidden, queries), Linear(queries, shape.hidden)]
    layers += [Linear(shape.hidden, shape.ffn)] * (shape.ffn_matrices - 1)
    return [*layers, Linear(shape.ffn, shape.hidden)]


def linear_flop(shape: Shape, grid: FrameGrid) -> int:
    """FLOP of the linear layers of one block: for Wan, (4 d^2 + 2 d^2 + 2 d ffn) weights, twice, for every token."""
    weights = sum(layer.inputs * layer.outputs for layer in linear_layers(shape))
    return 2 * weights * (grid.tokens + shape.text_tokens)


def cross_flop(shape: Shape, grid: FrameGrid) -> int:
    """FLOP of the attention to the text outside the video's sequence; its keys and values are negligible."""
    return _flop(shape, (grid.tokens + shape.text_tokens) * shape.cross_tokens)


def largest_speedup(shape: Shape, grid: FrameGrid, patterns: Sequence[Pattern]) -> float:
    """Time of a dense block over that of an LVSA block, if both attentions and the rest ran at one FLOP rate.

    Nothing else counts: norms, rotary positions, communication, text encoder and VAE cost the same with LVSA and make
    the true number smaller.

    Args:
        patterns: of the denoising steps to average over.
    """
    rest = linear_flop(shape, grid) + cross_flop(shape, grid)
    lvsa = sum(lvsa_attention(shape, grid, pattern).flop for pattern in patterns) / len(patterns)
    return (dense_attention(shape, grid).flop + rest) / (lvsa + rest)


def _flop(shape: Shape, pairs: int) -> int:
    """FLOP of the scores and of the weighted sum."""
    return 4 * pairs * shape.heads * shape.head_size


def _bytes(shape: Shape, tokens: int, itemsize: int) -> tuple[int, int, int]:
    """Bytes of Q, of K (V is as large), and of the log-sum-exps."""
    row = tokens * shape.head_size * itemsize
    return row * shape.heads, row * shape.kv_heads, tokens * shape.heads * LSE_BYTES
