"""Where LVSA meets classes of diffusers and PyTorch: attention, parallelism, rotary embeddings, copies."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from functools import cache, partial
from typing import Any

from lvsa_core.diffusers.dispatch import dense_backend, sparse_attention
from lvsa_core.diffusers.generation import Generation
from lvsa_core.riflex import SlowedFrequency

#: Where ``torch.nn.Module`` keeps its hooks, and what it knows about each, by the hook's number.
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


@cache
def backend_over(dense: str | None) -> Any:
    """The name by which diffusers' dispatcher finds LVSA with ``dense`` (None: the active backend) as its dense path.

    Target: ``diffusers.models.attention_dispatch``, the registry behind ``dispatch_attention_fn``.
    Why: it takes no backends from outside: a name must be an ``AttentionBackendName``, an enumeration without ours.
    How: an instance of that class which is not among its members; the dispatcher takes it as it is, users cannot
    choose it by mistake. The registry keeps it, harmlessly: only the processors of a sparse call name it.
    Remove when: diffusers lets packages register a backend.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    value = "lvsa" if dense is None else f"lvsa over {dense}"
    name: Any = str.__new__(AttentionBackendName, value)
    name._name_ = name._value_ = value
    _AttentionBackendRegistry.register(name)(partial(sparse_attention, layer=dense_backend(dense)))
    return name


def _put(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until ``undo`` closes."""
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def replace_processors(layers: Iterable[Any], sparse: Callable[[Any], Any], undo: ExitStack) -> None:
    """Let LVSA compute the attention of layers, until ``undo`` closes.

    Target: ``processor`` of attention layers.
    Why: it is what diffusers has to change a layer's attention, and one that stays would change other calls too.
    How: on the instance, for one call; the processor is a copy of the layer's own, or does what that does.
    Remove when: a call can choose the attention of its layers.

    Args:
        sparse: gives the processor of a sparse call for a layer's own.
    """
    for layer in layers:
        _put(undo, layer, "processor", sparse(layer.processor))


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

    put = partial(_put, undo)
    for module in transformer.modules():
        processor = getattr(module, "processor", None)
        if getattr(processor, "_parallel_config", None) is not None:
            put(processor, "_parallel_config", None)
        for hook in getattr(getattr(module, "_diffusers_hook", None), "hooks", {}).values():
            if isinstance(hook, ContextParallelSplitHook):
                put(hook, "metadata", {})
            elif isinstance(hook, ContextParallelGatherHook):
                put(hook, "metadata", [None] * len(hook.metadata))


def retune_rope(transformer: Any, slowed: SlowedFrequency, generation: Generation) -> Any:
    """RIFLEx: slow one temporal frequency in the tables of videos beyond its training length.

    Target: one transformer's rotary embedding.
    Why: its tables are made inside the transformer, and ranks divide them afterwards.
    How: a forward hook, which makes new tables. They may hold more frames than the video, whose number ``generation``
        knows: VACE's reference images stand before it.
    Remove when: diffusers has an option for it.

    Returns:
        The hook's handle.
    """

    def retune(rope: Any, args: Any, table: Any) -> Any:
        if generation.grid is None or slowed.in_video(generation.grid.frames) is None:
            return None
        return slowed.applied(table, table[0].numel() // table[0].shape[-1] // generation.grid.patches)

    return transformer.rope.register_forward_hook(retune)


def leave_out_of_copies(hooks: Iterable[Any], transformers: Iterable[Any]) -> list[CopiedUntouched]:
    """Leave these hooks, wherever transformers and their modules have them, out of copies and pickles.

    Returns:
        What ends that, by ``remove()``, as it does a hook.
    """
    numbers = {hook.id for hook in hooks}
    modules = (module for transformer in transformers for module in transformer.modules())
    return [CopiedUntouched(x, numbers) for x in modules if numbers & {*x._forward_pre_hooks, *x._forward_hooks}]


class CopiedUntouched:
    """One module, whose copies and pickles are without some of its hooks.

    Target: ``__reduce_ex__`` of the module, which ``copy`` and ``pickle`` call; on the instance.
    Why: a module's hooks are copied with it, and with them the handle that they belong to: the copy would run sparse
    for ever, with nothing that could end it.
    How: the state that the class itself gives, without these hooks and without this attribute.
    Remove when: PyTorch lets a hook say that it is not to be copied.

    Args:
        hooks: their numbers, as ``RemovableHandle.id`` has them.
    """

    def __init__(self, module: Any, hooks: Collection[int]) -> None:
        self._module = reference = weakref.ref(module)  # weakly: a module that is dropped frees its memory at once

        def reduce(protocol: Any) -> Any:
            held: Any = reference()
            kind: Any = type(held)
            function, arguments, state, *rest = kind.__reduce_ex__(held, protocol)
            state = {name: value for name, value in state.items() if name != "__reduce_ex__"}
            for name in _HOOKS:
                kept = ((number, value) for number, value in state[name].items() if number not in hooks)
                state[name] = type(state[name])(kept)
            return function, arguments, state, *rest

        module.__reduce_ex__ = reduce

    def remove(self) -> None:
        """End it. May be called more than once."""
        module = self._module()
        if module is not None:
            vars(module).pop("__reduce_ex__", None)
