"""Model families that LVSA can be installed on."""

from .cosmos3_hook import COSMOS3
from .hunyuan_hook import HUNYUAN
from .spec import FamilySpec, HookError, ImpossibleRequest, LayoutMismatch, MissingModel, StaysDense
from .wan_hook import WAN

#: Every family of this version, by name.
SPECS: dict[str, FamilySpec] = {spec.name: spec for spec in (WAN, HUNYUAN, COSMOS3)}

__all__ = [
    "COSMOS3",
    "HUNYUAN",
    "SPECS",
    "WAN",
    "FamilySpec",
    "HookError",
    "ImpossibleRequest",
    "LayoutMismatch",
    "MissingModel",
    "StaysDense",
]
