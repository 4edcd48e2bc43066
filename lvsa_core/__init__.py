"""LVSA's pattern and attention on PyTorch tensors; needs nothing but torch."""

from lvsa_core.attention import attend
from lvsa_core.budget import keyframe_interval
from lvsa_core.decide import Decision
from lvsa_core.grid import FrameGrid, TokenLayout
from lvsa_core.pattern import Pattern, plan
from lvsa_core.placement import Placement
from lvsa_core.reference import reference_attend

__all__ = [
    "Decision",
    "FrameGrid",
    "Pattern",
    "Placement",
    "TokenLayout",
    "attend",
    "keyframe_interval",
    "plan",
    "reference_attend",
]
