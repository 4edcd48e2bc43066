"""LVSA as a backend of diffusers' attention dispatcher, opaque to torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lvsa_core.attention import attend
from lvsa_core.diffusers.ranks import Ranks
from lvsa_core.diffusers.run import Run
from lvsa_core.diffusers.shared import shared_attend
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


@dataclass(frozen=True)
class Call:
    """A transformer call whose attention is LVSA's: a sparse one, or any that ranks share.

    Args:
        pattern, tokens: of this call. kernel: that the user asked for. run: the pipeline's call it belongs to.
        surprise: told, as a reason and its detail, why a layer ran dense after all; where ranks share the sequence
            there is no such way out, and it raises.
        ranks: that share the sequence, None if there is one.
    """

    pattern: Pattern
    tokens: Tokens
    kernel: str
    run: Run
    surprise: Callable[[str, str], None]
    ranks: Ranks | None = None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, dense: str) -> Tensor:
        """Sparse attention of one layer; dense, with the padding masked, if the tokens are not those expected.

        Args:
            q: [B, S, H, D]. k, v: [B, Sk, Hkv, D]. scale: multiplies the scores.
            dense: diffusers' name of the dense backend, empty for its active one.
        """
        layouts, padding = self.tokens.layouts, self.tokens.padding
        assert len(layouts) in (1, len(q))
        try:
            if len(set(layouts)) == 1:
                return self._sparse(q, k, v, layouts[0], padding[0], scale)
            samples = (slice(i, i + 1) for i in range(len(q)))
            rows = zip(samples, layouts, padding, strict=True)
            return torch.cat([self._sparse(q[i], k[i], v[i], layout, padded, scale) for i, layout, padded in rows])
        except ValueError as error:
            if self.ranks is not None:
                raise
            self.surprise("the attention's tokens are not those expected", str(error))
        hidden = torch.tensor(padding, device=q.device)[:, None]
        mask = (torch.arange(k.shape[1], device=q.device) < k.shape[1] - hidden).expand(len(q), -1)
        return dense_attention(q, k, v, attn_mask=mask if any(padding) else None, scale=scale, backend=dense or None)

    def _sparse(self, q: Tensor, k: Tensor, v: Tensor, layout: TokenLayout, padding: int, scale: float) -> Tensor:
        """Attention of samples that share a layout; the rows of padding come out zero."""
        q, k, v = (x[:, : x.shape[1] - padding] for x in (q, k, v))
        if self.ranks is None:
            out = attend(q, k, v, self.pattern, layout, scale=scale, kernel=self.kernel)
        else:
            around = {"ahead": self.tokens.ahead, "behind": self.tokens.behind}
            out = shared_attend(q, k, v, self.pattern, layout, self.ranks, **around, scale=scale, kernel=self.kernel)
        if not self.pattern.is_dense:
            self.run.ran_sparse(self.pattern, select(self.kernel, q.device, q.dtype, q.shape[3]).name)
        return torch.nn.functional.pad(out, (0, 0, 0, 0, 0, padding)) if padding else out


#: The sparse call that is running. Read inside the operator, where torch.compile does not look.
running: ContextVar[Call | None] = ContextVar("lvsa_diffusers_call", default=None)


#: A CUDA graph would replay the step and the pattern of its capture; PyTorch leaves what has this tag out of graphs.
_tags: dict[str, Any] = {"tags": (tag,)} if (tag := getattr(torch.Tag, "cudagraph_unsafe", None)) is not None else {}


@torch.library.custom_op("lvsa_diffusers::attend", mutates_args=(), **_tags)
def lvsa_attend(q: Tensor, k: Tensor, v: Tensor, scale: float, dense: str) -> Tensor:
    """Sparse attention of the running call, opaque to torch.compile: step and geometry are read inside.

    Args:
        q: [B, S, H, D]. k, v: [B, Sk, Hkv, D]. scale: multiplies the scores. dense: see :meth:`Call.attend`.

    Returns:
        [B, S, H, D], contiguous.
    """
    call = running.get()
    assert call is not None, "an LVSA attention layer ran outside its transformer's call"
    with torch.autocast(q.device.type, enabled=False):
        return call.attend(q, k, v, scale, dense).contiguous()


@lvsa_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, dense: str) -> Tensor:
    return q.new_empty(q.shape)


def sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    dense: str = "",
    **rest: Any,
) -> Tensor:
    """What a layer of the video calls in a sparse call: causal attention is the text's own and stays dense.

    Args:
        q, k, v, scale, dense: as :meth:`Call.attend`; scale None: 1/sqrt(D).
        attn_mask: on the device "meta" if the layouts already tell what it masks; any other is honoured, by dense
            attention.
        rest: further arguments of diffusers' dispatcher, for the dense backend.
    """
    masked = attn_mask is not None and attn_mask.device.type != "meta"
    if masked:
        _report_mask()
    if masked or is_causal:
        return dense_attention(
            q, k, v, attn_mask=attn_mask, is_causal=is_causal, scale=scale, backend=dense or None, **rest
        )
    q, k, v = _autocast(q, k, v)
    out: Tensor = lvsa_attend(q, k, v, q.shape[-1] ** -0.5 if scale is None else scale, dense)
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
    if call is not None:
        call.surprise("the attention has a mask that LVSA does not know", "")


def dense_attention(q: Tensor, k: Tensor, v: Tensor, **arguments: Any) -> Tensor:
    """diffusers' own attention [B, S, H, D] of the backend that ``arguments`` names."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    out: Tensor = dispatch_attention_fn(q, k, v, enable_gqa=q.shape[2] != k.shape[2], **arguments)
    return out


@lru_cache
def backend_over(dense: str | None) -> Any:
    """The name by which diffusers' dispatcher finds LVSA with ``dense`` (None: the active backend) as its dense path.

    Target: ``diffusers.models.attention_dispatch``, the registry behind ``dispatch_attention_fn``.
    Why: it takes no backends from outside: a name must be an ``AttentionBackendName``, an enumeration without ours.
    How: an instance of that class which is not among its members; the dispatcher takes it as it is, users cannot
    choose it by mistake. The registry keeps it, harmlessly: only the processors of a sparse call name it.
    Remove when: diffusers lets packages register a backend.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    value = "lvsa" if dense is None else f"lvsa over {dense}"
    name: Any = str.__new__(AttentionBackendName, value)
    name._name_ = name._value_ = value

    def lvsa(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        scale: float | None = None,
        _parallel_config: Any = None,
    ) -> Tensor:
        return sparse_attention(
            query,
            key,
            value,
            attn_mask=attn_mask,
            is_causal=is_causal,
            scale=scale,
            dense=dense or "",
            parallel_config=_parallel_config,
        )

    _AttentionBackendRegistry.register(name)(lvsa)
    return name
