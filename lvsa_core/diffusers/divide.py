"""Where a transformer's sequence is divided among ranks and joined again, instead of diffusers' own hooks for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lvsa_core.diffusers.groups import SequenceGroups


@dataclass(frozen=True)
class SequencePlan:
    """Where a family's transformer holds the sequence ``[ahead | video | behind]``.

    Args:
        blocks: ``transformer -> its blocks``.
        rows: parameters of a block's ``forward`` that hold the sequence: the dimensions of a tensor and the one of the
            sequence; for a tuple, one such pair for each element, None for those of other tokens.
        joined: name of the transformer's module after the blocks, whose first argument is the whole sequence again.
        dim: the sequence's dimension there.
    """

    blocks: Callable[[Any], Iterable[Any]]
    rows: Mapping[str, tuple[int, int] | tuple[tuple[int, int] | None, ...]]
    joined: str
    dim: int = 1


def divide(transformer: Any, plan: SequencePlan, groups: SequenceGroups, length: int, undo: ExitStack) -> None:
    """Let the blocks of a transformer's call run on this rank's part of the sequence.

    The first block divides what comes in; the rotary tables and what else is handed to every block whole, each does.

    Args:
        length: tokens of the sequence. undo: what takes it back.
    """
    for block in plan.blocks(transformer):
        names = list(inspect.signature(type(block).forward).parameters)[1:]

        def before(block: Any, args: Any, kwargs: Any, names: list[str] = names) -> tuple[Any, Any]:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            parts = {name: _part(given[name], where, groups, length) for name, where in _given(plan, given)}
            positional = tuple(parts.get(name, value) for name, value in zip(names, args, strict=False))
            return positional, {name: parts.get(name, value) for name, value in kwargs.items()}

        undo.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)

    def join(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return groups.whole(args[0], plan.dim, length), *args[1:]

    undo.callback(getattr(transformer, plan.joined).register_forward_pre_hook(join).remove)


def _given(plan: SequencePlan, given: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, where) for name, where in plan.rows.items() if given.get(name) is not None]


def _part(value: Any, where: Any, groups: SequenceGroups, length: int) -> Any:
    """The rank's part of a tensor, or of those of a tuple; of what is a part already, or holds no rows, the same."""
    if where is None:
        return value
    if not isinstance(value, Tensor):
        return tuple(_part(x, place, groups, length) for x, place in zip(value, where, strict=True))
    ndim, dim = where
    return groups.part(value, dim) if value.ndim == ndim and value.shape[dim] == length else value
