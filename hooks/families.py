"""Which families there are: those of this version, and those that installed packages register."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from .cosmos3_hook import COSMOS3
from .hunyuan_hook import HUNYUAN
from .spec import FamilySpec, HookError
from .wan_hook import WAN

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: Group of entry points, each of which names a family as it names itself and points at its :class:`FamilySpec`.
GROUP = "lvsa.families"

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")

#: Every family of this version, by name.
SPECS: dict[str, FamilySpec] = {spec.name: spec for spec in (WAN, HUNYUAN, COSMOS3)}


class FamilyUnavailable(HookError):
    """The package that registers a family cannot be imported."""


def hook_field(family: str) -> str:
    """Name of the setting that switches a family on: ``wan_hook``; as a variable ``LVSA_WAN_HOOK``."""
    return f"{family.lower().replace('-', '_')}_hook"


def family_names() -> tuple[str, ...]:
    """Every family's name, the shipped ones first, without what :func:`check_names` refuses. Imports no package."""
    fields: dict[str, str] = {}
    for name in (*SPECS, *filter(_NAME.fullmatch, _registered())):
        fields.setdefault(hook_field(name), name)
    return tuple(fields.values())


def package_of(family: str) -> str:
    """The package that registers a family, empty for a shipped one."""
    found = () if family in SPECS else _registered().get(family, ())
    return ", ".join(package_name(entry_point) for entry_point in found)


def check_names() -> None:
    """Refuse a registered name that is no name, or is taken.

    Raises:
        HookError: naming the package.
    """
    taken = {hook_field(name): "LVSA itself" for name in SPECS}
    for name, found in _registered().items():
        for package in map(package_name, found):
            who = f"the package {package} registers the family {name!r}"
            if not _NAME.fullmatch(name):
                raise HookError(f"{who}: a name is lower case letters, digits and - or _ between them")
            if hook_field(name) in taken:
                raise HookError(
                    f"{who}, but LVSA_{hook_field(name).upper()} is taken by {taken[hook_field(name)]}: rename it or "
                    f"uninstall {package}"
                )
            taken[hook_field(name)] = package


@cache
def load_family(name: str) -> FamilySpec:
    """The specification of a family, one of :func:`family_names`; its package is imported.

    Raises:
        FamilyUnavailable: if the package cannot be imported. HookError: if it registers something else.
    """
    if name in SPECS:
        return SPECS[name]
    (entry_point, *_) = _registered()[name]
    package = package_name(entry_point)
    try:
        spec = entry_point.load()
    except Exception as error:  # whatever a foreign module raises while it is imported
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise FamilyUnavailable(
            f"the family {name!r} of the package {package} cannot be imported from {entry_point.value!r} ({reason}): "
            f"repair or uninstall {package}"
        ) from None
    who = f"the package {package} registers as the family {name!r}"
    if not isinstance(spec, FamilySpec):
        raise HookError(f"{who} {entry_point.value!r}, which is no FamilySpec but {type(spec).__name__}")
    if spec.name != name:
        raise HookError(f"{who} a FamilySpec whose name is {spec.name!r}: give both the same name")
    return spec


def forget_families() -> None:
    """Look again for packages at the next question, as a new process does."""
    _registered.cache_clear()
    load_family.cache_clear()


def package_name(entry_point: EntryPoint) -> str:
    """Name of the package that an entry point belongs to."""
    return entry_point.dist.name if entry_point.dist is not None else entry_point.value.partition(":")[0]


@lru_cache(maxsize=1)
def _registered() -> dict[str, tuple[EntryPoint, ...]]:
    """Entry points by family name; more than one of a name is for :func:`check_names` to refuse."""
    from importlib.metadata import entry_points

    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry_point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, package_name(point))):
        found[entry_point.name] = (*found.get(entry_point.name, ()), entry_point)
    return found
