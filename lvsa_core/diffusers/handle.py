"""``enable_lvsa``: LVSA on a pipeline, what ran in it, and the way back."""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lvsa_core.call import running
from lvsa_core.consensus import meet
from lvsa_core.decide import StepsUnknown, decide
from lvsa_core.diffusers.dispatch import Call
from lvsa_core.diffusers.divide import divide
from lvsa_core.diffusers.families import FAMILIES, family_of
from lvsa_core.diffusers.family import Family
from lvsa_core.diffusers.generation import REPLACED, Generation, Report
from lvsa_core.diffusers.groups import SequenceGroups
from lvsa_core.diffusers.seam import leave_out_of_copies, replace_processors, retune_rope, suspend_own_parallelism
from lvsa_core.facts import temporal_axis
from lvsa_core.grid import FrameGrid
from lvsa_core.knobs import Knobs
from lvsa_core.memory import HeadGroups
from lvsa_core.positions import Remap, TemporalAxis, check_remap
from lvsa_core.riflex import SlowedFrequency, no_riflex

logger = logging.getLogger(__name__)

#: Caches that look at the video to decide what to skip.
RANKWISE_CACHES = ("FirstBlockCacheConfig",)

#: Seconds to wait for what the other ranks say at a call's first step; loading the model may take one longer.
WAIT = 120.0

#: Transformers under LVSA.
_enabled: weakref.WeakSet[Any] = weakref.WeakSet()


def enable_lvsa(pipe: Any, **knobs: Any) -> Lvsa:
    """Let a diffusers video pipeline make videos longer than those its model was trained on, by sparse attention.

    Args:
        pipe: a pipeline of Wan 2.1 or 2.2, HunyuanVideo 1.5, Cosmos 3 or CogVideoX.
        knobs: see :class:`lvsa_core.knobs.Knobs`; ``recipe="long"`` is a set of them, see
            :data:`lvsa_core.knobs.RECIPES`.

    Returns:
        The handle: ``report()`` says what ran, ``disable()`` gives the untouched pipeline back.

    Raises:
        ValueError: if the pipeline has no video transformer that LVSA knows, LVSA is on already, or a knob's value is
            out of range. TypeError: if there is no knob of a name.
    """
    chosen = Knobs.of(knobs)
    components = getattr(pipe, "components", None)
    models = [getattr(model, "_orig_mod", model) for model in (components or {}).values()]
    found = [(model, family) for model in models if (family := family_of(model)) is not None]
    if not found:
        known = ", ".join(name for family in FAMILIES for name in family.transformers)
        raise ValueError(
            f"{type(pipe).__name__} has no video transformer that LVSA knows: "
            f"give a diffusers pipeline with one of {known}"
        )
    if any(model in _enabled for model, _ in found):
        raise ValueError(
            "LVSA is already on for this pipeline's transformer: call disable() on what enable_lvsa() returned, "
            "then enable it with other knobs"
        )
    return Lvsa(pipe, [model for model, _ in found], found[0][1], chosen)


class Lvsa:
    """LVSA on one pipeline.

    Before each call of a transformer it works out the grid, the denoising step and the pattern. If these make the call
    sparse, the video's self-attention layers get sparse processors for the time of the call; all other calls are the
    untouched pipeline's. Where ranks share the sequence, all calls have them, as LVSA divides it itself.

    Attributes:
        family: name of the model's family. reference_latent_frames: up to which calls are dense, at scale 1.
    """

    def __init__(self, pipe: Any, transformers: list[Any], family: Family, knobs: Knobs) -> None:
        self._family, self._knobs = family, knobs
        first = transformers[0]
        self.family = family.name
        self.reference_latent_frames = knobs.reference_latent_frames or family.reference(first)
        factor = getattr(pipe, "vae_scale_factor_temporal", family.temporal_factor)
        joined = getattr(first.config, "patch_size_t", None) or 1
        self._arguments = knobs.plan_arguments(self.reference_latent_frames, factor, joined)
        self._generation = Generation(pipe, partial(HeadGroups, knobs.extra_memory, partial(logger.info, "LVSA: %s")))
        self._undo = ExitStack()  # what the running call has changed
        self._surprises: set[str] = set()
        self._groups: SequenceGroups | None = None  # of the running call
        self._transformers = weakref.WeakSet(transformers)  # weakly: a pipeline that is dropped frees its memory
        self._count = len(self._transformers)
        self._slowed = slowed = self._slowed_frequency(first)
        self._axis = self._temporal_axis(first)
        self._hooks = [retune_rope(transformer, slowed, self._generation) for transformer in transformers if slowed]
        for transformer in transformers:
            signature = inspect.signature(type(transformer).forward)
            self._hooks += [
                transformer.register_forward_pre_hook(partial(self._before, signature), with_kwargs=True),
                transformer.register_forward_hook(self._after, always_call=True),
            ]
            _enabled.add(transformer)
        self._hooks += leave_out_of_copies(self._hooks, transformers)

    def _slowed_frequency(self, transformer: Any) -> SlowedFrequency | None:
        """What RIFLEx changes, None if it is off.

        Raises:
            ValueError: if RIFLEx does not know the family, or a knob is out of range for it.
        """
        knobs, axis = self._knobs, temporal_axis(self.family, transformer.config)
        if knobs.riflex_s is None:
            return None
        if axis is None or not self._family.own_tables:
            raise ValueError(no_riflex(self.family, "riflex_s"))
        length = knobs.riflex_train_len or self.reference_latent_frames
        slowed = SlowedFrequency.of(*axis, length=length, scale=knobs.riflex_s, k=knobs.riflex_k)
        return None if knobs.riflex_s == 1 else slowed

    def _temporal_axis(self, transformer: Any) -> tuple[int, float] | None:
        """Channels and theta of the axis along which anchors move, None if they stay where they are.

        Raises:
            ValueError: see :func:`lvsa_core.positions.check_remap`.
        """
        if self._knobs.anchor_positions == "true":
            return None
        found = temporal_axis(self.family, transformer.config)
        check_remap(self.family, found, self.reference_latent_frames, self._arguments["window"])
        return found

    def _remap(self, axis: tuple[int, float], frames: int) -> Remap:
        """Positions of the anchors of a video; its tables have RIFLEx's frequency where :func:`retune_rope` puts it."""
        slowed = self._slowed.in_video(frames) if self._slowed else None
        return Remap(self.reference_latent_frames, TemporalAxis.of(*axis, slowed))

    def report(self) -> Report:
        """What ran in the latest call of the pipeline."""
        if not self._generation.still_has(self._transformers, self._count):
            return Report(self.family, self.reference_latent_frames, reason=REPLACED)
        return self._generation.report(self.family, self.reference_latent_frames, self._knobs.rotate_after)

    def disable(self) -> None:
        """Give the untouched pipeline back. May be called more than once."""
        self._after()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        _enabled.difference_update(self._transformers)
        self._transformers.clear()
        self._count = 0

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before(self, signature: inspect.Signature, transformer: Any, args: Any, kwargs: Any) -> None:
        """Before a transformer's call: let its layers run sparse, or leave them alone."""
        self._after()  # a call that KeyboardInterrupt ended has not cleaned up
        arguments = signature.bind_partial(transformer, *args, **kwargs).arguments
        self._generation.advance(arguments.get(self._family.timestep))
        call = self._plan(transformer, arguments)
        layers = list(self._family.attention(transformer)) if call else []
        other = {type(layer.processor).__name__ for layer in layers} - {*self._family.processors}
        if other:
            self._surprise("the attention has processors of its own", ", ".join(sorted(other)))
            return
        running.set(call)
        if call and call.groups:
            suspend_own_parallelism(transformer, self._undo)
            divide(transformer, self._family.sequence, call.groups, call.tokens.length, self._undo)
        replace_processors(layers, self._family.sparse, self._undo)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after(self, *_: Any) -> None:
        """After a transformer's call, also a failed one: everything as it was before."""
        self._undo.close()
        running.set(None)

    def _plan(self, transformer: Any, arguments: Mapping[str, Any]) -> Call | None:
        """The call that LVSA's attention computes, or None for the untouched pipeline's."""
        self._groups = groups = SequenceGroups.of(transformer)
        try:
            video = self._family.video(transformer, arguments)
            self._generation.grid = grid = video.grid
            remap = {} if self._axis is None else {"remap": self._remap(self._axis, grid.frames)}
            now = self._generation.step
            pattern, decision = decide(grid.frames, now, {**self._arguments, **remap}, steps=self._generation.steps)
            if pattern.is_dense:
                self._generation.reason = decision.reason
                if groups is None:
                    return None
            tokens = video.tokens()
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            self._surprise("the transformer's arguments are not those of a video", repr(error))
            return None
        except StepsUnknown as error:
            raise ValueError(
                f"{error}, which this pipeline's scheduler does not tell: call disable(), then enable_lvsa() without it"
            ) from None
        if groups:
            self._meet(groups, transformer, grid, self._family.latents(arguments))
        return Call(pattern, tokens, self._knobs.backend, self._generation, self._surprise, groups)

    def _meet(self, groups: SequenceGroups, transformer: Any, grid: FrameGrid, latents: Tensor) -> None:
        """At a call's first step, compare knobs and noise with the other ranks."""
        cache = type(getattr(transformer, "_cache_config", None)).__name__
        if cache in RANKWISE_CACHES:
            raise ValueError(
                f"{cache} lets each rank decide by its own part of the video what to skip, and ranks would wait for "
                f"each other: call transformer.disable_cache() under context parallelism"
            )
        if self._generation.ranks > 1:
            return
        shared = {"reference_latent_frames": self.reference_latent_frames, "(ulysses, ring)": groups.degrees}
        size = {"latent frames": grid.frames, "patches": grid.patches, "the latents' shape": list(latents.shape)}
        decisive = {name: value for name, value in asdict(self._knobs).items() if name != "extra_memory"}
        sample = latents.detach().flatten()[:: max(1, latents.numel() // 64)].float().tolist()
        meet(
            "diffusers",
            groups.members,
            {**decisive, **shared, **size},
            sample,
            WAIT,
            silent="rank {silent} does not run LVSA, or has failed, while rank {rank} waits for it: call enable_lvsa, "
            "and the pipeline, on every rank",
            differ="every rank needs the same knobs of enable_lvsa and the same arguments of the pipeline's call",
            noise="give the pipeline's call generator=torch.Generator().manual_seed(...) of the same seed on every "
            "rank",
        )
        self._generation.ranks = groups.count

    def _surprise(self, reason: str, detail: str = "") -> None:
        """Say why a call, or a layer of it, runs dense; once a reason, whatever its details.

        Raises:
            ValueError: if ranks share the sequence, which LVSA alone can divide.
        """
        said = f"{reason} ({detail})" if detail else reason
        if self._groups is not None:
            raise ValueError(f"LVSA cannot share this call among ranks: {said}; run it on one, or call disable()")
        self._generation.reason = said
        if reason not in self._surprises:
            self._surprises.add(reason)
            logger.warning("LVSA runs dense: %s", said)
