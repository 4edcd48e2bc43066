"""The attention backend: the engine's dense implementation, and LVSA's operator where the running call is sparse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm_omni.diffusion.attention.backends.abstract import AttentionBackend, AttentionImpl, AttentionMetadata

from lvsa_vllm_omni import compat, journal
from lvsa_vllm_omni.hooks import FamilySpec
from lvsa_vllm_omni.scope import Scope, running_forward

#: A CUDA graph would replay the step and the pattern of its capture: torch.compile leaves these operators out of them.
_TAGS = tuple(tag for tag in [getattr(torch.Tag, "cudagraph_unsafe", None)] if tag is not None)


@torch.library.custom_op("lvsa::attend", mutates_args=(), tags=_TAGS)
def lvsa_attend(q: Tensor, k: Tensor, v: Tensor, scale: float, whole: bool) -> Tensor:
    """Sparse attention of the running call, opaque to torch.compile: step and geometry are read inside.

    Args:
        q: [B, S, H, D]. k, v: [B, S, Hkv, D]. scale: multiplies the scores.
        whole: whether the layer takes no part in sequence parallelism.

    Returns:
        [B, S, H, D], contiguous.
    """
    return running_forward().attend(q, k, v, scale, whole).contiguous()


@lvsa_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, whole: bool) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op("lvsa::attend_ring", mutates_args=(), tags=_TAGS)
def lvsa_attend_ring(
    q: Tensor, k: Tensor, v: Tensor, text_k: Tensor | None, text_v: Tensor | None, scale: float
) -> Tensor:
    """As ``lvsa::attend``, where every rank has only its own part of the sequence.

    Args:
        q: [B, rows + text queries, H, D]. k, v: [B, rows, Hkv, D]. text_k, text_v: [B, text, Hkv, D], on every rank.
        scale: multiplies the scores.

    Returns:
        As ``q``, contiguous.
    """
    text = None if text_k is None or text_v is None else (text_k, text_v)
    return running_forward().attend_ring(q, k, v, text, scale).contiguous()


@lvsa_attend_ring.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, text_k: Tensor | None, text_v: Tensor | None, scale: float) -> Tensor:
    return q.new_empty(q.shape)


class LvsaImpl(AttentionImpl):
    """One attention layer: dense until a hooked transformer claims it, then sparse in that transformer's sparse calls.

    Args:
        dense: the implementation the engine had chosen; None (the engine builds this class because the user named it):
            the one it would choose without a name.

    The other arguments are the engine's (:class:`AttentionImpl`); later versions add more, all are handed on.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        softmax_scale: float,
        causal: bool = False,
        num_kv_heads: int | None = None,
        *,
        dense: AttentionImpl | None = None,
        **engine_arguments: Any,
    ) -> None:
        self.softmax_scale = softmax_scale
        self.scope: Scope | None = None
        self.whole = False  # whether the layer takes no part in sequence parallelism
        if dense is None:
            from lvsa_vllm_omni.plugin import activate_by_name

            activate_by_name()
            backend, named = compat.default_backend(head_size)
            dense = backend.get_impl_cls()(
                num_heads=num_heads,
                head_size=head_size,
                softmax_scale=softmax_scale,
                causal=causal,
                num_kv_heads=num_kv_heads,
                **{**engine_arguments, **named},
            )
        self.dense = dense

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
        return lvsa_attend(query, key, value, self.softmax_scale, self.whole)


class LvsaRing:
    """Stands where an attention layer has the engine's ring, which bypasses the layer's implementation.

    Args:
        impl: the layer's implementation. dense: the engine's ring.
    """

    def __init__(self, impl: LvsaImpl, dense: Any) -> None:
        self.impl, self.dense = impl, dense

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
        return lvsa_attend_ring(query, key, value, *text, self.impl.softmax_scale)


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
    sharded = metadata.joint_key is not None  # text that sequence parallelism handles apart from the video
    return sharded and (spec.masks_only_padding == "always" or (spec.masks_only_padding == "alone" and batch == 1))


@torch.compiler.assume_constant_result
def _report_unclaimed() -> None:
    """Said while a block is traced, or at each eager call, of which the journal prints the first."""
    journal.unclaimed()


@torch.compiler.disable
def _report_mask(scope: Scope, seq_len: int) -> None:
    scope.fallback("attention", "mask", seq_len)


class LvsaBackend(AttentionBackend):
    """The backend behind the name ``LVSA``."""

    accept_output_buffer = True

    @staticmethod
    def get_name() -> str:
        return compat.BACKEND_NAME

    @staticmethod
    def get_impl_cls() -> type[LvsaImpl]:
        return LvsaImpl

    @staticmethod
    def get_metadata_cls() -> type[AttentionMetadata]:
        return AttentionMetadata

    @staticmethod
    def get_builder_cls() -> None:
        return None

    @staticmethod
    def get_supported_head_sizes() -> list[int]:
        return []  # any: what the sparse kernel cannot do runs dense

    @classmethod
    def supports_attention_mask(cls, attention_spec: object | None = None) -> bool:
        """As the dense backend: a call with a mask is its."""
        return bool(compat.default_backend(-1)[0].supports_attention_mask(None))
