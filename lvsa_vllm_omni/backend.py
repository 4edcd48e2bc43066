"""An attention layer under LVSA: the engine's dense implementation, and LVSA's attention in sparse calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from vllm_omni.diffusion.attention.backends.abstract import AttentionImpl, AttentionMetadata

from lvsa_core import attend
from lvsa_core.call import lvsa_attend, register
from lvsa_core.sharded.attention import sharded_attend
from lvsa_vllm_omni import compat, journal
from lvsa_vllm_omni.hooks import FamilySpec, LayoutMismatch
from lvsa_vllm_omni.scope import Forward, Scope


class _Adopted:
    """A layer that the operator knows by a number; a copy is a layer of its own."""

    number: Tensor

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.number = register(self)  # type: ignore[arg-type]  # its classes are layers


class LvsaImpl(_Adopted, AttentionImpl):
    """One attention layer: dense until a hooked transformer claims it, then sparse in that transformer's sparse calls.

    Args:
        dense: the implementation that the engine had chosen. softmax_scale: multiplies the scores.

    Attributes:
        whole: whether the layer takes no part in sequence parallelism.
    """

    def __init__(self, dense: AttentionImpl, softmax_scale: float) -> None:
        self.dense, self.softmax_scale = dense, softmax_scale
        self.scope: Scope | None = None
        self.whole = False
        self.number = register(self)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attn_metadata: AttentionMetadata | None = None
    ) -> Tensor:
        """Attention [B, S, H, D] of one layer; traced by torch.compile, so it reads one flag and no step."""
        scope = self.scope
        if scope is None:
            _report_unclaimed()
        if scope is None or not scope.sparse:
            return self.dense.forward(query, key, value, attn_metadata)
        if attn_metadata is not None and not is_plain(attn_metadata, scope.spec, query.shape[0]):
            _report_mask(scope, query.shape[1])
            return self.dense.forward(query, key, value, attn_metadata)
        out: Tensor = lvsa_attend(query, key, value, None, None, self.softmax_scale, self.number)
        return out

    def sparse(
        self, call: Forward, q: Tensor, k: Tensor, v: Tensor, text: tuple[Tensor, Tensor] | None, scale: float | None
    ) -> Tensor:
        """See :meth:`lvsa_core.call.SparseLayer.sparse`; the keys are whole, with the text among them.

        Raises:
            LvsaFallbackError: instead of running dense, if LVSA_STRICT=1.
        """
        scope, rows = call.scope, q.shape[1]
        place = compat.WHOLE if self.whole else scope.place
        padding = 0 if self.whole else getattr(compat.forward_context(), "sp_padding_size", 0) or 0
        with call.time.measured(q.device):
            try:
                layout = scope.spec.layout(call.video, rows, k.shape[1], padding, place.rank, place.ranks)
            except LayoutMismatch:
                scope.fallback("attention", "sequence-length", rows, **call.tokens(k), padding=padding)
                return self.dense.forward(q, k, v, None)
            q, k, v = q[:, : layout.q_tokens], k[:, : layout.kv_tokens], v[:, : layout.kv_tokens]
            try:
                out = attend(q, k, v, call.pattern, layout, scale=scale, **call.how)
            except torch.OutOfMemoryError:  # dense attention needs little less: let the engine handle it
                raise
            except (ValueError, RuntimeError) as error:
                scope.fallback("attention", "refused", q.shape[1], error=repr(str(error)))
                out = self.dense.forward(q, k, v, None)  # of a call with metadata that matters nothing gets here
            return out if rows == q.shape[1] else pad(out, (0, 0, 0, 0, 0, rows - q.shape[1]))


class LvsaRing(_Adopted):
    """Stands where an attention layer has the engine's ring, which bypasses the layer's implementation.

    Args:
        impl: the layer's implementation. dense: the engine's ring.
    """

    def __init__(self, impl: LvsaImpl, dense: Any) -> None:
        self.impl, self.dense = impl, dense
        self.number = register(self)

    def run_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_metadata: AttentionMetadata | None,
        softmax_scale: float | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Attention [B, rows + text, H, D] of this rank's rows; see :meth:`LvsaImpl.forward`."""
        scope = self.impl.scope
        if scope is None or not scope.sparse:
            return self.dense.run_attention(query, key, value, attn_metadata, softmax_scale, causal)
        if attn_metadata is not None and not is_plain(attn_metadata, scope.spec, query.shape[0]):
            _report_mask(scope, query.shape[1])
            return self.dense.run_attention(query, key, value, attn_metadata, softmax_scale, causal)
        text = (None, None) if attn_metadata is None else (attn_metadata.joint_key, attn_metadata.joint_value)
        out: Tensor = lvsa_attend(query, key, value, *text, self.impl.softmax_scale, self.number)
        return out

    def sparse(
        self, call: Forward, q: Tensor, k: Tensor, v: Tensor, text: tuple[Tensor, Tensor] | None, scale: float | None
    ) -> Tensor:
        """See :meth:`lvsa_core.call.SparseLayer.sparse`; every rank has only its own keys.

        Whatever fails after the layout has been found is an error: the other ranks are in the exchange.

        Raises:
            LvsaFallbackError: instead of running dense, if LVSA_STRICT=1.
        """
        scope, text_tokens = call.scope, 0 if text is None else text[0].shape[1]
        with call.time.measured(q.device):
            try:
                shards = scope.spec.shards(call.video, q.shape[1], k.shape[1], text_tokens, scope.place.ranks)
            except LayoutMismatch:
                details = {**call.tokens(k), "text": text_tokens, "ranks": scope.place.ranks}
                scope.fallback("ring", "sequence-length", q.shape[1], **details)
                metadata = compat.text_metadata(text, behind=scope.spec.text == "behind")
                return self.dense.run_attention(q, k, v, metadata, scale)
            return sharded_attend(q, k, v, call.pattern, shards, scope.place.group, text=text, scale=scale, **call.how)


#: What a call may carry that changes which keys a query sees; the video's layout is known from the request.
_SPANS = ("full_attn_spans", "packed_padding")
_SPAN_EXTRAS = ("valid_kv_length", "cu_seqlens_q", "cu_seqlens_k")


def is_plain(metadata: AttentionMetadata, spec: FamilySpec, batch: int) -> bool:
    """Whether every query of the call sees every key but padding, so that only the pattern decides.

    Args:
        spec: the family. batch: videos in the call.
    """
    if any(getattr(metadata, name, None) is not None for name in _SPANS):
        return False
    if any(name in metadata.extra for name in _SPAN_EXTRAS):
        return False
    if metadata.attn_mask is None and metadata.joint_attn_mask is None:
        return True
    apart = metadata.joint_key is not None  # text that sequence parallelism handles apart from the video
    return apart and (spec.masks_only_padding == "always" or (spec.masks_only_padding == "alone" and batch == 1))


@torch.compiler.assume_constant_result
def _report_unclaimed() -> None:
    """Said while a block is traced, or at each eager call, of which the journal prints the first."""
    journal.unclaimed()


@torch.compiler.disable
def _report_mask(scope: Scope, seq_len: int) -> None:
    scope.fallback("attention", "mask", seq_len)
