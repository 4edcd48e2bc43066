"""Copies and pickles of a module that has LVSA's hooks: they are those of an untouched one."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable
from typing import Any

#: Where ``torch.nn.Module`` keeps its hooks, and what it knows about each, by the hook's number.
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


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
        self._module = weakref.ref(module)
        original = module.__reduce_ex__

        def reduce(protocol: Any) -> Any:
            function, arguments, state, *rest = original(protocol)
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
