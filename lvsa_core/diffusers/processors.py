"""An attention layer's processor in a sparse call, made from the one it has."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lvsa_core.diffusers.dispatch import DenseBackend, dense_backend, sparse_attention
from lvsa_core.diffusers.seam import backend_over


def dispatched(processor: Any) -> Any:
    """The same processor, whose dispatcher finds LVSA over the backend that the user has chosen."""
    sparse = copy.copy(processor)
    chosen = processor._attention_backend
    sparse._attention_backend = backend_over(None if chosen is None else str(getattr(chosen, "value", chosen)))
    return sparse


@dataclass(frozen=True)
class Unmasked:
    """A HunyuanVideo 1.5 processor that makes no mask.

    The processor turns the text's mask into one of S x S, gigabytes for a long video. From a mask on the device "meta"
    it makes one without storage, and LVSA has trimmed the text to its valid rows instead.
    """

    processor: Any

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        mask = None if attention_mask is None else torch.empty_like(attention_mask, device="meta")
        return self.processor(attn, hidden_states, encoder_hidden_states, mask, image_rotary_emb)


def unmasked(processor: Any) -> Unmasked:
    """HunyuanVideo 1.5: through the dispatcher, without the mask of S x S."""
    return Unmasked(dispatched(processor))


@dataclass(frozen=True)
class CogVideoXProcessor:
    """CogVideoX's attention, whose own processors call SDPA themselves: the text, then the video.

    Args:
        fused: queries, keys and values come from one projection. layer: its dense attention.

    Source: diffusers, ``CogVideoXAttnProcessor2_0`` and ``FusedCogVideoXAttnProcessor2_0``.
    """

    fused: bool
    layer: DenseBackend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        from diffusers.models.embeddings import apply_rotary_emb

        text = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        if self.fused:
            projected = attn.to_qkv(tokens).chunk(3, dim=-1)
        else:
            projected = attn.to_q(tokens), attn.to_k(tokens), attn.to_v(tokens)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in projected)
        q, k = (x if norm is None else norm(x) for x, norm in ((q, attn.norm_q), (k, attn.norm_k)))
        if image_rotary_emb is not None:
            rotate: Any = apply_rotary_emb
            for x in (q, k):
                x[:, text:] = rotate(x[:, text:], image_rotary_emb, sequence_dim=1)
        out = sparse_attention(q, k, v, attn_mask=attention_mask, layer=self.layer)
        out = attn.to_out[1](attn.to_out[0](out.flatten(2)))
        return out[:, text:], out[:, :text]


def text_first(processor: Any) -> CogVideoXProcessor:
    """CogVideoX: by the processor, as an attention layer that was fused once says so for ever."""
    return CogVideoXProcessor(type(processor).__name__.startswith("Fused"), dense_backend(None))
