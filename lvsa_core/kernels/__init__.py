"""Kernels for dense attention with a log-sum-exp: the registry and the choice among them."""

from lvsa_core.kernels.registry import KERNELS, Kernel, KernelUnavailable, select

__all__ = ["KERNELS", "Kernel", "KernelUnavailable", "select"]
