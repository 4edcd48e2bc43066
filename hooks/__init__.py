"""Model families that LVSA can be installed on."""

from .spec import FamilySpec, HookError, ImpossibleRequest, LayoutMismatch
from .wan_hook import WAN

#: Every family of this version, by name.
SPECS: dict[str, FamilySpec] = {spec.name: spec for spec in (WAN,)}

__all__ = ["SPECS", "WAN", "FamilySpec", "HookError", "ImpossibleRequest", "LayoutMismatch"]
