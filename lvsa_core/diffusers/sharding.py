"""Where a transformer's sequence is divided among ranks and joined again, instead of diffusers' own hooks for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lvsa_core.diffusers.ranks import Ranks


@dataclass(frozen=True)
class Sharding:
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


def divide(transformer: Any, sharding: Sharding, ranks: Ranks, length: int, undo: ExitStack) -> None:
    """Let the blocks of a transformer's call run on this rank's part of the sequence.

    The first block divides what comes in; the rotary tables and what else is handed to every block whole, each does.

    Args:
        length: tokens of the sequence. undo: what takes it back.
    """
    for block in sharding.blocks(transformer):
        names = list(inspect.signature(type(block).forward).parameters)[1:]

        def before(block: Any, args: Any, kwargs: Any, names: list[str] = names) -> tuple[Any, Any]:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            parts = {name: _part(given[name], where, ranks, length) for name, where in _given(sharding, given)}
            positional = tuple(parts.get(name, value) for name, value in zip(names, args, strict=False))
            return positional, {name: parts.get(name, value) for name, value in kwargs.items()}

        undo.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)

    def join(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return ranks.whole(args[0], sharding.dim, length), *args[1:]

    undo.callback(getattr(transformer, sharding.joined).register_forward_pre_hook(join).remove)


def _given(sharding: Sharding, given: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, where) for name, where in sharding.rows.items() if given.get(name) is not None]


def _part(value: Any, where: Any, ranks: Ranks, length: int) -> Any:
    """The rank's part of a tensor, or of those of a tuple; of what is a part already, or holds no rows, the same."""
    if where is None:
        return value
    if not isinstance(value, Tensor):
        return tuple(_part(x, place, ranks, length) for x, place in zip(value, where, strict=True))
    ndim, dim = where
    return ranks.part(value, dim) if value.ndim == ndim and value.shape[dim] == length else value


def suspend_own_parallelism(transformer: Any, undo: ExitStack) -> None:
    """Keep diffusers from dividing the sequence, and its attention from exchanging it.

    Target: ``diffusers.hooks.context_parallel``'s hooks on a transformer's modules, and the attention processors'
    ``_parallel_config``, both set by ``enable_parallelism``.
    Why: these hooks have a plan for Wan alone, do not pad, and divide the rotary tables before RIFLEx sees them; the
    attention knows neither text that every rank has, nor grouped heads, nor rings without a kernel's log-sum-exp.
    How: hooks that are told to divide nothing, and processors that are told of no ranks, for one call.
    Remove when: diffusers divides the sequences of all families, of any length, through public functions.
    """
    from diffusers.hooks.context_parallel import ContextParallelGatherHook, ContextParallelSplitHook

    def put(owner: Any, name: str, value: Any) -> None:
        undo.callback(setattr, owner, name, getattr(owner, name))
        setattr(owner, name, value)

    for module in transformer.modules():
        processor = getattr(module, "processor", None)
        if getattr(processor, "_parallel_config", None) is not None:
            put(processor, "_parallel_config", None)
        for hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).values():
            if isinstance(hook, ContextParallelSplitHook):
                put(hook, "metadata", {})
            elif isinstance(hook, ContextParallelGatherHook):
                put(hook, "metadata", [None] * len(hook.metadata))
