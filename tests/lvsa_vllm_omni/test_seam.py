"""Hooks on classes: whose family a subclass is, and what is taken off again."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lvsa_vllm_omni import seam
from lvsa_vllm_omni.hooks import WAN, FamilySpec


class Layer:
    """The engine's attention layer, of which only the implementation is looked at."""

    attention = None


class Base:
    """A transformer."""

    def __init__(self) -> None:
        self.made = True

    def __call__(self) -> str:
        return "called"

    def forward(self, hidden_states: Any, timestep: Any) -> None: ...


class Derived(Base):
    """Another one, built on it."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the engine with both."""
    module = ModuleType("a_module_of_the_engine")
    vars(module).update(Base=Base, Derived=Derived, Layer=Layer)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def family(engine: ModuleType, name: str) -> FamilySpec:
    return replace(WAN, name=name.lower(), transformer=f"{engine.__name__}:{name}", attention=("Layer",))


@pytest.fixture
def adopted(engine: ModuleType) -> Iterator[list[tuple[str, str]]]:
    """What was adopted by which family, with hooks on both classes."""
    seen: list[tuple[str, str]] = []

    def adopt(spec: FamilySpec) -> Any:
        def noted(transformer: Any) -> Any:
            seen.append((type(transformer).__name__, spec.name))
            return SimpleNamespace(settled=False, call=lambda *_: pytest.MonkeyPatch.context())

        return noted

    undo = [seam.install(spec, adopt(spec)) for spec in (family(engine, "Base"), family(engine, "Derived"))]
    yield seen
    for step in undo:
        step()


def test_a_subclass_is_of_its_own_family(adopted: list[tuple[str, str]]) -> None:
    for cls in (Base, Derived):
        adopted.clear()
        assert cls()() == "called"
        assert adopted == [(cls.__name__, cls.__name__.lower())] * 2


def test_nothing_is_left_behind(engine: ModuleType) -> None:
    before = dict(vars(Base)), dict(vars(Derived))
    undo = [seam.install(family(engine, name), lambda _: None) for name in ("Base", "Derived")]
    assert Base.__call__ is not before[0]["__call__"]
    for step in undo:
        step()
    assert (dict(vars(Base)), dict(vars(Derived))) == before
