"""What the sparse attention of the engine is given, and how far it is from the reference.

The only place of the tests that knows where the engine's seam calls the attention.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from lvsa_core import Pattern, TokenLayout, attend, reference_attend

#: How far the output of an attention call may be from the reference's, as a part of the largest output.
ROUNDING = {torch.float32: 1e-4, torch.float16: 6e-3, torch.bfloat16: 6e-2}


@dataclass(frozen=True)
class Call:
    """One layer's sparse call: the step that the pipeline publishes, the pattern, and what this rank holds."""

    step: int | None
    frames: int
    patches: int
    offset: int
    interval: int
    queries: int
    keys: int
    heads: int
    pattern: Pattern


def before_calls(patch: pytest.MonkeyPatch, note: Callable[..., None]) -> None:
    """Let ``note(forward, q, k)`` see every sparse call of a layer before it is computed, also one of a ring."""
    from lvsa_vllm_omni.backend import LvsaImpl, LvsaRing

    for kind in (LvsaImpl, LvsaRing):

        def watched(layer: Any, call: Any, q: Tensor, k: Tensor, *more: Any, sparse: Any = kind.sparse) -> Any:
            note(call, q, k)
            return sparse(layer, call, q, k, *more)

        patch.setattr(kind, "sparse", watched)


def watch_calls(patch: pytest.MonkeyPatch) -> list[Call]:
    """The sparse calls from now on, in a list that grows."""
    from lvsa_vllm_omni import compat

    seen: list[Call] = []

    def note(forward: Any, q: Tensor, k: Tensor) -> None:
        pattern, step = forward.pattern, compat.forward_context().denoise_step_idx
        place = (forward.video.frames, forward.video.patches, pattern.offset, pattern.keyframe_interval)
        seen.append(Call(step, *place, q.shape[1], k.shape[1], q.shape[2], pattern))

    before_calls(patch, note)
    return seen


def replace_attend(patch: pytest.MonkeyPatch, function: Callable[..., Tensor]) -> None:
    """Put another function in the place of ``attend`` in the engine's seam."""
    from lvsa_vllm_omni import backend

    patch.setattr(backend, "attend", function)


@dataclass(frozen=True)
class Attended:
    """A sparse attention call, and how far it and dense attention are from the reference, computed in float32.

    Attributes:
        heads: of queries and of keys. largest: of the reference's outputs, without sign.
    """

    pattern: Pattern
    layout: TokenLayout
    step: int | None
    batch: int
    tokens: int
    heads: tuple[int, int]
    dtype: torch.dtype
    largest: float
    error: float
    dense_error: float


def watch_attended(patch: pytest.MonkeyPatch) -> list[Attended]:
    """The sparse calls from now on, in a list that grows. One that is not the reference's ends its request."""
    from lvsa_vllm_omni import compat

    seen: list[Attended] = []

    def both(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, **options: Any) -> Tensor:
        out = attend(q, k, v, pattern, layout, **options)
        exact, scale = [tensor.float() for tensor in (q, k, v)], options.get("scale")
        wanted = reference_attend(*exact, pattern, layout, scale=scale)
        heads_first = (tensor.transpose(1, 2) for tensor in exact)
        dense = torch.nn.functional.scaled_dot_product_attention(*heads_first, scale=scale, enable_gqa=True)
        largest = float(wanted.abs().max())
        error, dense_error = (float((x.float() - wanted).abs().max()) for x in (out, dense.transpose(1, 2)))
        assert error < ROUNDING[q.dtype] * largest, (error, largest, pattern, layout)
        step = compat.forward_context().denoise_step_idx
        what = (step, *q.shape[:2], (q.shape[2], k.shape[2]), q.dtype)
        seen.append(Attended(pattern, layout, *what, largest, error, dense_error))
        return out

    replace_attend(patch, both)
    return seen
