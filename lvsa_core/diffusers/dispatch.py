"""What diffusers' attention layers do in a call that is LVSA's, and their way back to diffusers' own attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lvsa_core.attention import attend
from lvsa_core.call import lvsa_attend, register, running
from lvsa_core.diffusers.generation import Generation
from lvsa_core.diffusers.groups import SequenceGroups
from lvsa_core.diffusers.ulysses import take_heads
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
        self.name, self.number = name, register(self)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Tensor:
        """Dense attention [B, S, H, D]; arguments are those of diffusers' dispatcher."""
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        name: Any = self.name  # the dispatcher takes its enumeration's values too
        out: Tensor = dispatch_attention_fn(q, k, v, backend=name, enable_gqa=q.shape[2] != k.shape[2], **arguments)
        return out

    def sparse(
        self, call: Call, q: Tensor, k: Tensor, v: Tensor, text: tuple[Tensor, Tensor] | None, scale: float | None
    ) -> Tensor:
        """See :meth:`lvsa_core.call.SparseLayer.sparse`; text stands among the keys, and rows of padding come out zero.

        Samples whose layouts differ are computed one after the other. Dense, the padding is masked.
        """
        layouts, padding = call.tokens.layouts, call.tokens.padding
        assert len(layouts) in (1, len(q))
        samples = [slice(i, i + 1) for i in range(len(q))] if len(set(layouts)) > 1 else [slice(None)]
        how: dict[str, Any] = {"scale": scale, "kernel": call.kernel, "head_groups": call.generation.head_groups}
        divided: dict[str, Any] = {"ahead": call.tokens.ahead, "behind": call.tokens.behind}
        outs = []
        try:
            for i, layout, padded in zip(samples, layouts, padding, strict=False):  # one if all share it
                query, key, value = (x[i, : x.shape[1] - padded] for x in (q, k, v))
                if call.groups is None:
                    out = attend(query, key, value, call.pattern, layout, **how)
                else:
                    own = take_heads(query, key, value, call.pattern, layout, call.groups, **divided)
                    out = own.as_rows(own.attention(**how))
                    del own  # its copies of the sequence
                outs.append(torch.nn.functional.pad(out, (0, 0, 0, 0, 0, padded)) if padded else out)
            if not call.pattern.is_dense:
                chosen = select(call.kernel, q.device, q.dtype, q.shape[3], call.pattern.plain)
                call.generation.ran_sparse(call.pattern, chosen.name)
            return outs[0] if len(outs) == 1 else torch.cat(outs)
        except ValueError as error:
            if call.groups is not None:
                raise
            call.surprise("the attention's tokens are not those expected", str(error))
        hidden = torch.tensor(padding, device=q.device)[:, None]
        mask = (torch.arange(k.shape[1], device=q.device) < k.shape[1] - hidden).expand(len(q), -1)
        return self.attention(q, k, v, attn_mask=mask if any(padding) else None, scale=scale)


@cache
def dense_backend(name: str | None) -> DenseBackend:
    """The one of a name."""
    return DenseBackend(name)


@dataclass(frozen=True)
class Call:
    """A transformer call whose attention is LVSA's: a sparse one, or any that ranks share.

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


def sparse_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    _parallel_config: Any = None,
    *,
    layer: DenseBackend,
) -> Tensor:
    """What a layer of the video calls in a sparse call: causal attention is the text's own and stays dense.

    Its parameters have the names by which diffusers' dispatcher gives them.

    Args:
        query: [B, S, H, D]. key, value: [B, Sk, Hkv, D]. scale: multiplies the scores; None: 1/sqrt(D).
        attn_mask: on the device "meta" if the layouts already tell what it masks; any other is honoured, by dense
            attention.
        layer: from :func:`dense_backend`, called where torch.compile does not trace.
    """
    masked = attn_mask is not None and attn_mask.device.type != "meta"
    if masked:
        _report_mask()
    if masked or is_causal:
        how = {"attn_mask": attn_mask, "is_causal": is_causal, "scale": scale, "parallel_config": _parallel_config}
        return layer.attention(query, key, value, **how)
    out: Tensor = lvsa_attend(*_autocast(query, key, value), None, None, scale, layer.number)
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
