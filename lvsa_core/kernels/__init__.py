"""Kernels for the attention: the registry, the self-test and the choice among them."""

from lvsa_core.kernels.registry import KERNELS, Kernel, KernelUnavailable, Selection, candidates, release, select

__all__ = ["KERNELS", "Kernel", "KernelUnavailable", "Selection", "candidates", "release", "select"]
