"""The class of a family's transformer in the installed engine: whether it fits, what its calls and its layers are."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from lvsa_vllm_omni.compat import INSTALL_TESTED
from lvsa_vllm_omni.hooks import FamilySpec, HookError, MissingModel


def resolve(spec: FamilySpec) -> Any:
    """The transformer class, if all that the hook relies on is there.

    Raises:
        MissingModel: if the installed engine has no such class. HookError: if it does not fit.
    """
    module_name, _, class_name = spec.transformer.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise MissingModel(f"{spec.setting}: this vLLM-Omni has no {module_name} ({error}); {_remedy(spec)}") from None
    cls = getattr(module, class_name, None)
    if cls is None:
        raise MissingModel(f"{spec.setting}: {module_name} has no class {class_name}; {_remedy(spec)}")
    missing = [name for name in spec.forward_parameters if name not in inspect.signature(cls.forward).parameters]
    if missing:
        raise HookError(
            f"{spec.setting}: {class_name}.forward{inspect.signature(cls.forward)} lacks {', '.join(missing)}; "
            f"{_remedy(spec)}"
        )
    for name in spec.attention:
        if not hasattr(module, name):
            raise HookError(f"{spec.setting}: {module_name} has no class {name}; {_remedy(spec)}")
    return cls


def attention_layers(transformer: Any, spec: FamilySpec) -> list[list[Any]]:
    """The engine's attention layers of a transformer that are the video's self-attention, for each of its blocks.

    Raises:
        HookError: if a block has no engine layer where the family says.
    """
    blocks = []
    for name, module in transformer.named_modules():
        if not any(cls.__name__ in spec.attention for cls in type(module).__mro__):
            continue
        first, *others = (getattr(module, attribute, None) for attribute in spec.attention_layers)
        if not hasattr(first, "attention"):
            raise HookError(
                f"{spec.setting}: {name} ({type(module).__name__}) should hold the engine's attention layer as "
                f"{spec.attention_layers[0]!r}, found {type(first).__name__}; {_remedy(spec)}"
            )
        blocks.append([first, *(layer for layer in others if hasattr(layer, "attention"))])
    return blocks


def read_arguments(cls: type, spec: FamilySpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a transformer's call that the family reads, by name; one that was not given is left out."""
    positions = _positions(cls)
    found = {}
    for name in (*spec.forward_parameters, *spec.optional_parameters):
        position = positions.get(name, len(args))
        if name in kwargs:
            found[name] = kwargs[name]
        elif position < len(args):
            found[name] = args[position]
    return found


@functools.lru_cache(maxsize=64)
def _positions(cls: Any) -> dict[str, int]:
    """Where each parameter of a class's ``forward`` stands, without ``self``."""
    names = list(inspect.signature(cls.forward).parameters)[1:]
    return {name: position for position, name in enumerate(names)}


def _remedy(spec: FamilySpec) -> str:
    return f"{INSTALL_TESTED}, or set {spec.setting}=0"
