"""Where LVSA meets diffusers' own classes: its attention registry, its context parallelism, its rotary embeddings."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cache
from typing import Any

from torch import Tensor

from lvsa_core.diffusers.dispatch import dense_backend, sparse_attention
from lvsa_core.diffusers.generation import Generation
from lvsa_core.riflex import SlowedFrequency


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
    layer = dense_backend(dense)
    name: Any = str.__new__(AttentionBackendName, value)
    name._name_ = name._value_ = value

    def lvsa(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        scale: float | None = None,
        _parallel_config: Any = None,
    ) -> Tensor:
        return sparse_attention(
            query,
            key,
            value,
            attn_mask=attn_mask,
            is_causal=is_causal,
            scale=scale,
            layer=layer,
            parallel_config=_parallel_config,
        )

    _AttentionBackendRegistry.register(name)(lvsa)
    return name


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


def retune_rope(transformer: Any, slowed: SlowedFrequency, generation: Generation) -> Any:
    """RIFLEx: slow one temporal frequency in the tables of videos beyond its training length.

    Target: one transformer's rotary embedding.
    Why: its tables are made inside the transformer, and ranks divide them afterwards.
    How: a forward hook, which makes new tables. They may hold more frames than the video, which ``generation`` knows: VACE's
        reference images stand before it.
    Remove when: diffusers has an option for it.

    Returns:
        The hook's handle.
    """

    def retune(rope: Any, args: Any, table: Any) -> Any:
        if generation.grid is None or generation.grid.frames <= slowed.length:
            return None
        return slowed.applied(table, table[0].numel() // table[0].shape[-1] // generation.grid.patches)

    return transformer.rope.register_forward_hook(retune)
