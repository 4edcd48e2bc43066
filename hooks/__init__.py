"""Model families that LVSA can be installed on."""

from .cosmos3_hook import COSMOS3
from .dense import DENSE, DenseModel, dense_reason
from .families import (
    SPECS,
    FamilyUnavailable,
    check_names,
    family_names,
    forget_families,
    hook_field,
    load_family,
    package_of,
)
from .hunyuan_hook import HUNYUAN
from .spec import FamilySpec, HookError, ImpossibleRequest, LayoutMismatch, MissingModel, Rope, StaysDense, VideoTokens
from .wan_hook import WAN

__all__ = [
    "COSMOS3",
    "DENSE",
    "HUNYUAN",
    "SPECS",
    "WAN",
    "DenseModel",
    "FamilySpec",
    "FamilyUnavailable",
    "HookError",
    "ImpossibleRequest",
    "LayoutMismatch",
    "MissingModel",
    "Rope",
    "StaysDense",
    "VideoTokens",
    "check_names",
    "dense_reason",
    "family_names",
    "forget_families",
    "hook_field",
    "load_family",
    "package_of",
]
