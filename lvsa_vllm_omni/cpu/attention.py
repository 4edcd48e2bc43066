"""PyTorch's scaled dot-product attention as a backend of vLLM-Omni on the CPU."""

import torch
from vllm_omni.diffusion.attention.backends.abstract import AttentionMetadata
from vllm_omni.diffusion.attention.backends.sdpa import SDPABackend, SDPAImpl


class CpuSdpaImpl(SDPAImpl):
    """vLLM-Omni's SDPA, which dispatches by platform and knows no branch for one from outside its tree."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_metadata: AttentionMetadata | None = None,
    ) -> torch.Tensor:
        """Attend; query [B, Sq, H, D], key and value [B, Sk, Hkv, D], result as query."""
        return self._forward_impl(query, key, value, attn_metadata, mask_mode="broadcast_k")


class CpuSdpaBackend(SDPABackend):
    """The platform's default backend. It keeps the name SDPA, by which ring attention chooses its own kernel."""

    @staticmethod
    def get_impl_cls() -> type[CpuSdpaImpl]:
        """Return the implementation with a CPU branch."""
        return CpuSdpaImpl
