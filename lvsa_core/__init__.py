"""LVSA's pattern and attention on PyTorch tensors; needs nothing but torch.

A name is imported when it is first used: who only plans, such as the command line, does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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

#: Where each name stands.
_PLACES = {
    "Decision": "decide",
    "FrameGrid": "grid",
    "Pattern": "pattern",
    "Placement": "placement",
    "TokenLayout": "grid",
    "attend": "attention",
    "keyframe_interval": "budget",
    "plan": "pattern",
    "reference_attend": "reference",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
