"""The masked dense reference: what ``attend`` must equal. Slow and obvious on purpose."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lvsa_core.checks import check_call
from lvsa_core.grid import TokenLayout
from lvsa_core.memory import HeadGroups
from lvsa_core.pattern import Pattern
from lvsa_core.positions import TemporalAxis


def token_mask(pattern: Pattern, layout: TokenLayout) -> Tensor:
    """Boolean mask [Sq, Sk], True where a query token may attend to a key token; padded query rows are all False."""
    frames, patches = layout.grid.frames, layout.grid.patches
    allowed = torch.tensor([[pattern.allows(q, k) for k in layout.held_frames] for q in range(frames)]).view(frames, -1)
    row = torch.arange(layout.q_offset, layout.q_offset + layout.video_rows)
    video = allowed[(row // patches).clamp(max=frames - 1)].repeat_interleave(patches, 1)

    mask = torch.ones(layout.q_before + layout.video_rows + layout.q_after, layout.kv_tokens).bool()
    first_q, first_k = layout.q_before, layout.kv_before
    mask[first_q : first_q + layout.video_rows, first_k : first_k + layout.kv_rows] = video
    mask[:, first_k + layout.kv_rows : first_k + layout.kv_rows + layout.pad] = False
    mask[first_q : first_q + layout.video_rows][row >= layout.grid.tokens] = False
    return mask


def _of_pairs(layout: TokenLayout, value: Callable[[int, int], float]) -> Tensor:
    """A number for every pair of tokens [Sq, Sk] in float64: of a query and a key that are video, that of their frames.

    It is 0 where one of them is another token or padding.
    """
    frames, patches = layout.grid.frames, layout.grid.patches
    values = torch.tensor([[value(q, k) for k in layout.held_frames] for q in range(frames)]).double().view(frames, -1)
    row = torch.arange(layout.q_offset, layout.q_offset + layout.real_rows)
    pairs = torch.zeros(layout.q_tokens, layout.kv_tokens, dtype=torch.float64)
    first_q, first_k = layout.q_before, layout.kv_before
    video = values[row // patches].repeat_interleave(patches, 1)
    pairs[first_q : first_q + layout.real_rows, first_k : first_k + layout.kv_rows] = video
    return pairs


def _turned(x: Tensor, positions: float, axis: TemporalAxis) -> Tensor:
    """``x`` [.., D] as the rotary embedding makes it for so many positions more."""
    angles = positions * torch.tensor(axis.frequencies, dtype=torch.float64, device=x.device)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., : axis.channels : 2], x[..., 1 : axis.channels : 2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    return torch.cat([turned, x[..., axis.channels :]], -1)


@torch.no_grad()
def reference_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    layout: TokenLayout,
    *,
    scale: float | None = None,
    kernel: str = "auto",
    head_groups: HeadGroups | None = None,
) -> Tensor:
    """Same as :func:`lvsa_core.attend`, computed with a full mask in float32 (float64 for float64 inputs).

    Args:
        q: queries [B, Sq, H, D]. k, v: keys and values [B, Sk, Hkv, D], Hkv dividing H.
        pattern, layout, scale: as for ``attend``. kernel, head_groups: ignored.

    Returns:
        [B, Sq, H, D] in the dtype of ``q``; rows of padding are zero.

    Raises:
        ValueError: as ``attend``.
    """
    scale = check_call(q, k, v, pattern, layout, scale)
    wide = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[2] // k.shape[2]
    queries = q.to(wide).transpose(1, 2)
    keys, values = (x.to(wide).transpose(1, 2).repeat_interleave(group, 1) for x in (k, v))

    mask = token_mask(pattern, layout).to(q.device)
    scores = queries @ keys.transpose(-1, -2)
    if pattern.grouping is not None and pattern.remap is not None:
        moved = _of_pairs(layout, lambda query, key: pattern.distance(query, key) - (query - key)).to(q.device)
        for delta in {*moved.flatten().tolist()}:
            turned = _turned(queries, delta, pattern.remap.axis)
            scores = torch.where(moved == delta, turned @ keys.transpose(-1, -2), scores)
    scores = scores * scale
    if pattern.bias:
        scores = scores + _of_pairs(layout, pattern.boost).to(q.device, wide)
    scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, -1).nan_to_num(0.0)  # a padded row has no keys: its softmax is 0/0, its output 0
    return (weights @ values).transpose(1, 2).to(q.dtype)
