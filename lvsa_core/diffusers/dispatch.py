"""What diffusers' attention layers do in a call that is LVSA's, and their way back to diffusers' own attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lvsa_core.attention import attend
from lvsa_core.call import handle, lvsa_attend, running
from lvsa_core.diffusers.generation import Generation
from lvsa_core.diffusers.groups import SequenceGroups
from lvsa_core.diffusers.ulysses import ulysses_attend
from lvsa_core.grid import TokenLayout
from lvsa_core.kernels import select
from lvsa_core.pattern import Pattern


class Tokens(NamedTuple):
    """Where the tokens stand in the video's attention.

    Args:
        layouts: one for all samples of a batch, or one each.
        padding: for each layout, the rows of padded text at the end of queries and keys, which are never attended.
        ahead, behind: of the tokens before and after the video, those that are of one sequence with it, and divided
            among ranks together.
    """

    layouts: tuple[TokenLayout, ...]
    padding: tuple[int, ...] = (0,)
    ahead: int = 0
    behind: int = 0

    @property
    def length(self) -> int:
        """Tokens of the sequence that ranks divide."""
        return self.ahead + self.layouts[0].grid.tokens + self.behind


class DenseBackend:
    """What a layer was before a sparse call: diffusers' attention of one backend.

    Args:
        name: of the backend, None for diffusers' active one.
    """

    def __init__(self, name: str | None) -> None:
        self.name, self.handle = name, handle(self)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Tensor:
        """Dense attention [B, S, H, D]; arguments are those of diffusers' dispatcher."""
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        name: Any = self.name  # the dispatcher takes its enumeration's values too
        out: Tensor = dispatch_attention_fn(q, k, v, backend=name, enable_gqa=q.shape[2] != k.shape[2], **arguments)
        return out


@cache
def dense_backend(name: str | None) -> DenseBackend:
    """The one of a name."""
    return DenseBackend(name)


@dataclass(frozen=True)
class Call:
    """A transformer call whose attention is LVSA's: a sparse one, or any that ranks share.

    It is diffusers' :class:`lvsa_core.call.SparseCall`.

    Args:
        pattern, tokens: of this call. kernel: that the user asked for. generation: the pipeline's call it belongs to.
        surprise: told, as a reason and its detail, why a layer ran dense after all; where ranks share the sequence
            there is no such way out, and it raises.
        groups: of the ranks that divide the sequence, None if there is one.
    """

    pattern: Pattern
    tokens: Tokens
    kernel: str
    generation: Generation
    surprise: Callable[[str, str], None]
    groups: SequenceGroups | None = None

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, text: tuple[Tensor, Tensor] | None, scale: float, layer: DenseBackend
    ) -> Tensor:
        """See :meth:`lvsa_core.call.SparseCall.attend`; text stands among the keys. Dense, it masks the padding."""
        layouts, padding = self.tokens.layouts, self.tokens.padding
        assert len(layouts) in (1, len(q))
        try:
            if len(set(layouts)) == 1:
                return self._sparse(q, k, v, layouts[0], padding[0], scale)
            samples = (slice(i, i + 1) for i in range(len(q)))
            rows = zip(samples, layouts, padding, strict=True)
            return torch.cat([self._sparse(q[i], k[i], v[i], layout, padded, scale) for i, layout, padded in rows])
        except ValueError as error:
            if self.groups is not None:
                raise
            self.surprise("the attention's tokens are not those expected", str(error))
        hidden = torch.tensor(padding, device=q.device)[:, None]
        mask = (torch.arange(k.shape[1], device=q.device) < k.shape[1] - hidden).expand(len(q), -1)
        return layer.attention(q, k, v, attn_mask=mask if any(padding) else None, scale=scale)

    def _sparse(self, q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout, padding: int, scale: float) -> Tensor:
        """Attention of samples that share a layout; the rows of padding come out zero."""
        q, k, v = (x[:, : x.shape[1] - padding] for x in (q, k, v))
        how: dict[str, Any] = {"scale": scale, "kernel": self.kernel, "head_groups": self.generation.head_groups}
        if self.groups is None:
            out = attend(q, k, v, self.pattern, layout, **how)
        else:
            around: dict[str, Any] = {"ahead": self.tokens.ahead, "behind": self.tokens.behind}
            out = ulysses_attend(q, k, v, self.pattern, layout, self.groups, **around, **how)
        if not self.pattern.is_dense:
            chosen = select(self.kernel, q.device, q.dtype, q.shape[3], self.pattern.plain)
            self.generation.ran_sparse(self.pattern, chosen.name)
        return torch.nn.functional.pad(out, (0, 0, 0, 0, 0, padding)) if padding else out


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    layer: DenseBackend,
    **rest: Any,
) -> Tensor:
    """What a layer of the video calls in a sparse call: causal attention is the text's own and stays dense.

    Args:
        q: [B, S, H, D]. k, v: [B, Sk, Hkv, D]. scale: multiplies the scores; None: 1/sqrt(D).
        layer: from :func:`dense_backend`, called where torch.compile does not trace.
        attn_mask: on the device "meta" if the layouts already tell what it masks; any other is honoured, by dense
            attention.
        rest: further arguments of diffusers' dispatcher, for the dense backend.
    """
    masked = attn_mask is not None and attn_mask.device.type != "meta"
    if masked:
        _report_mask()
    if masked or is_causal:
        return layer.attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal, scale=scale, **rest)
    q, k, v = _autocast(q, k, v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out: Tensor = lvsa_attend(q, k, v, None, None, scale, layer.handle)
    return out


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """What ``torch.autocast`` makes of the arguments of PyTorch's own attention: all of its dtype, float64 apart."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x if x.dtype == torch.float64 else x.to(dtype) for x in tensors)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _report_mask() -> None:
    call = running.get()
    if isinstance(call, Call):
        call.surprise("the attention has a mask that LVSA does not know", "")
