"""Giving a transformer to LVSA: its preset, its kernel, its layers."""

from __future__ import annotations

from typing import Any

import torch

from lvsa_core.kernels import KernelUnavailable, Selection, release, select
from lvsa_core.kernels.prefix_window import PrefixWindow
from lvsa_core.riflex import no_riflex
from lvsa_vllm_omni import compat, journal, parallelism, presets, ranks, seam
from lvsa_vllm_omni.hooks import FamilySpec, HookError
from lvsa_vllm_omni.model_class import attention_layers
from lvsa_vllm_omni.presets import Preset
from lvsa_vllm_omni.scope import Scope
from lvsa_vllm_omni.settings import LvsaSettings, Mode

#: Backends that are sparse themselves: two sparse patterns cannot share one layer.
_SPARSE_BACKENDS = ("FASTVIDEO_VSA", "RAINFUSION_ATTN")


def adopt(transformer: Any, spec: FamilySpec, settings: LvsaSettings, mode: Mode) -> Scope:
    """Make LVSA the video self-attention of a transformer; layers that are LVSA's already stay as they are.

    Raises:
        HookError: if the layers, the placement or the engine's options do not allow it.
        PresetError: if no preset fits. KernelUnavailable: if the kernel does not run on the engine's device.
    """
    try:
        return _adopt(transformer, spec, settings, mode)
    except (HookError, presets.PresetError, KernelUnavailable) as error:
        journal.refused(str(error))  # the engine wraps what stops its start-up into tracebacks of several processes
        raise


def _adopt(transformer: Any, spec: FamilySpec, settings: LvsaSettings, mode: Mode) -> Scope:
    blocks = attention_layers(transformer, spec)
    if not blocks and not _is_stage(transformer):
        raise HookError(f"{spec.setting}: {type(transformer).__name__} holds no {' or '.join(spec.attention)}")
    config = compat.diffusion_config()
    placement = compat.placement(config)
    scope = seam.scope_of(transformer)
    if scope is None:
        preset = _preset(transformer, spec, settings, config)
        kernel = _kernel(settings, config, _head_size(blocks))
        decision = placement.decide(spec.text, lse=hasattr(kernel.kernel, "attention"))
        if decision.verdict == "refused":
            raise HookError(
                f"LVSA cannot run here: {decision.reason} (LVSA_BACKEND={settings.backend} chose {kernel.name})"
            )
        joining = _joining(settings, config, kernel, blocks)
        scope = Scope(spec, preset, settings, mode, kernel, compat.sequence_rank(placement), joining)
        _retune(transformer, scope)
        _check_anchors(scope)
        seam.give_scope(transformer, scope)
        if shared := parallelism.titles(placement):
            journal.placed(shared, decision.verdict, decision.reason)
        if ranks.count() > 1 and (limit := parallelism.time_limit()):
            journal.logger.warning_once("[LVSA] %s", limit, scope="global")
        ranks.publish(settings, scope.arguments["reference_frames"])
    before = scope.blocks
    for layers in blocks:
        scope.blocks += any([_adopt_layer(layer, scope, ring=placement.ring > 1) for layer in layers])
    if scope.blocks != before:
        journal.hooked(
            type(transformer).__name__,
            scope.blocks,
            spec.name,
            scope.preset.name,
            scope.arguments["reference_frames"],
            scope.kernel,
            type(blocks[0][0].attention.dense).__name__,
        )
    return scope


def _adopt_layer(layer: Any, scope: Scope, *, ring: bool) -> bool:
    """Make a layer LVSA's; whether it was not before."""
    from lvsa_vllm_omni.backend import LvsaImpl

    _check_options(layer)
    whole = bool(getattr(layer, "skip_sequence_parallel", False))
    before = getattr(layer.attention, "scope", None)

    def lvsa(impl: Any) -> LvsaImpl:
        adopted = impl if isinstance(impl, LvsaImpl) else LvsaImpl(impl, layer.softmax_scale)
        adopted.whole, adopted.scope = whole, adopted.scope or scope
        return adopted

    seam.replace_attention(layer, lvsa)
    if ring and not whole:
        _adopt_ring(layer, scope.spec)
    return before is None


def _adopt_ring(layer: Any, spec: FamilySpec) -> None:
    """Put LVSA in the place of a layer's ring, which does not ask the layer's implementation."""
    from lvsa_vllm_omni.backend import LvsaRing

    runner: Any = getattr(layer, "ring_runner", None)
    if isinstance(runner, LvsaRing):
        return
    if not hasattr(runner, "run_attention"):
        raise HookError(
            f"{spec.setting}: this vLLM-Omni's attention layer has no ring that LVSA can replace: use Ulysses with the "
            f"same degree, or set {spec.setting}=0"
        )
    seam.replace_ring(layer, LvsaRing(layer.attention, runner))


def _retune(transformer: Any, scope: Scope) -> None:
    """RIFLEx for requests that ask for it, and for all if the settings do."""
    scale, spec = scope.settings.riflex_scale, scope.spec
    if spec.rope is None:
        if scale not in (None, 1):
            raise HookError(no_riflex(spec.name, f"LVSA_RIFLEX_SCALE={scale:g}"))
        return
    rope = spec.rope(transformer)
    scope.rope = rope._replace(module=None)  # a scope holds no modules: weights move
    seam.retune_rope(rope, lambda: scope.slowed)
    if scale and (slowed := scope.choose(None).slowed):
        journal.retuned(slowed.k, rope.channels // 2, slowed.length, scale)


def _preset(transformer: Any, spec: FamilySpec, settings: LvsaSettings, config: Any) -> Preset:
    """The preset the user names, else the one that fits the transformer."""
    if settings.preset:
        preset = presets.load_preset(settings.preset)
        if preset.family != spec.name:
            raise presets.PresetError(f"LVSA_PRESET={settings.preset} is for {preset.family}, the model is {spec.name}")
        return preset
    found = getattr(transformer, "config", {})
    values = dict(found) if isinstance(found, dict) else {name: getattr(found, name) for name in dir(found)}
    values = {**compat.transformer_config(config), **values}  # many transformers of the engine have no config
    facts = presets.model_facts(spec.transformer_class, values, compat.pipeline_index(config))
    return presets.match_preset(facts, spec.name)


def _check_anchors(scope: Scope) -> None:
    """Stop start-up where the settings ask of anchors what cannot be done with this model or kernel."""
    try:
        scope.choose(None)
    except ValueError as error:
        names = ", ".join(f"LVSA_{name.upper()}" for name in ("anchor_positions", "anchor_boost", "recipe"))
        raise HookError(f"{error} ({names})") from None


def _head_size(blocks: list[list[Any]]) -> int:
    """Channels of a head; a stage without blocks has none to ask."""
    return compat.head_size(blocks[0][0]) if blocks else 128


def _joining(settings: LvsaSettings, config: Any, kernel: Selection, blocks: list[list[Any]]) -> Selection | None:
    """The kernel for anchors that are boosted or seen at other positions, None if there is none."""
    if isinstance(kernel.kernel, PrefixWindow):
        return kernel
    try:
        return _kernel(settings, config, _head_size(blocks), plain=False)
    except KernelUnavailable:
        return None


def _kernel(settings: LvsaSettings, config: Any, head_size: int, plain: bool = True) -> Selection:
    """The kernel that will run, or KernelUnavailable."""
    dtype = getattr(config, "dtype", None)
    dtype = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
    try:
        selection = select(settings.kernel, compat.device(), dtype, head_size, plain)
    except KernelUnavailable as error:
        raise KernelUnavailable(f"LVSA_BACKEND={settings.kernel}: {error}") from None
    release()  # the self-test's workspaces; not after a failure, as a broken device cannot even do that
    return selection


def _check_options(layer: Any) -> None:
    """Refuse what the sparse attention would silently drop."""
    spec = getattr(layer, "attn_spec", None)
    for option in ("skip_softmax", "quant", "block_sparse"):
        if getattr(spec, option, None):
            raise HookError(
                f"LVSA cannot do the {option} that the attention configuration asks for: leave out one of both"
            )
    quantised = getattr(layer, "_kv_cache_dtype", None)
    if quantised not in (None, "auto", "float"):
        raise HookError(
            f"LVSA reads keys and values unquantised, but diffusion_kv_cache_dtype is {quantised!r}: "
            f"set it to 'auto', or switch LVSA off"
        )
    backend = getattr(layer, "attn_backend", None)
    name = backend.get_name() if backend is not None else "custom attention"
    if name in _SPARSE_BACKENDS or backend is None or layer.causal:
        raise HookError(
            f"LVSA cannot replace {'causal attention' if layer.causal else name}, which is no plain dense attention: "
            f"choose one of the two"
        )


def _is_stage(transformer: Any) -> bool:
    """Whether a pipeline-parallel stage holds only part of the blocks (it may hold none)."""
    return hasattr(transformer, "start_layer") and transformer.start_layer == transformer.end_layer
