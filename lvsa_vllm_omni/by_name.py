"""The backend that the name ``LVSA`` chooses in the engine's attention configuration."""

from __future__ import annotations

import inspect
from typing import Any

from vllm_omni.diffusion.attention.backends.abstract import AttentionBackend, AttentionMetadata

from lvsa_vllm_omni import compat
from lvsa_vllm_omni.backend import LvsaImpl
from lvsa_vllm_omni.plugin import activate_by_name


class NamedImpl(LvsaImpl):
    """A layer that the engine builds by this name; its dense implementation is the one that the engine would choose.

    The arguments are the engine's (:class:`AttentionImpl`); later versions add more, all are handed on.
    """

    def __init__(
        self,
        num_heads: int,
        head_size: int,
        softmax_scale: float,
        causal: bool = False,
        num_kv_heads: int | None = None,
        **engine_arguments: Any,
    ) -> None:
        activate_by_name()
        backend, chosen = compat.default_backend(head_size)
        named = {name: value for name, value in chosen.items() if name in engine_arguments}  # older releases: fewer
        dense = backend.get_impl_cls()(
            num_heads=num_heads,
            head_size=head_size,
            softmax_scale=softmax_scale,
            causal=causal,
            num_kv_heads=num_kv_heads,
            **{**engine_arguments, **named},
        )
        super().__init__(dense, softmax_scale)


class LvsaBackend(AttentionBackend):
    """The backend behind the name ``LVSA``."""

    accept_output_buffer = True

    @staticmethod
    def get_name() -> str:
        return compat.BACKEND_NAME

    @staticmethod
    def get_impl_cls() -> type[NamedImpl]:
        return NamedImpl

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
        ask = compat.default_backend(-1)[0].supports_attention_mask
        return bool(ask(None) if inspect.signature(ask).parameters else ask())
