"""One transformer under LVSA: what it is, how it is planned, and the forward that is running in it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from lvsa_core import Pattern, show
from lvsa_core.call import running
from lvsa_core.decide import Decision, StepsUnknown, decide
from lvsa_core.kernels import Selection
from lvsa_core.memory import HeadGroups
from lvsa_core.positions import Remap, TemporalAxis, check_remap
from lvsa_core.riflex import SlowedFrequency, no_riflex
from lvsa_vllm_omni import compat, diagnostics, journal, ranks, step
from lvsa_vllm_omni.hooks import FamilySpec, ImpossibleRequest, Rope, StaysDense, VideoTokens
from lvsa_vllm_omni.presets import Preset
from lvsa_vllm_omni.request_journal import DeviceTime
from lvsa_vllm_omni.request_knobs import chosen
from lvsa_vllm_omni.settings import LvsaSettings, Mode


@dataclass(frozen=True)
class Forward:
    """A transformer call that runs sparse; what its layers read, see :mod:`lvsa_core.call`."""

    scope: Scope
    video: VideoTokens
    pattern: Pattern
    head_groups: HeadGroups
    time: DeviceTime

    @property
    def how(self) -> dict[str, Any]:
        """By which kernel, and how many heads at a time."""
        return {"kernel": self.scope.settings.kernel, "head_groups": self.head_groups}

    def tokens(self, k: Tensor) -> dict[str, object]:
        """What tells why tokens are not the grid's."""
        return {"keys": k.shape[1], "frames": self.video.frames, "patches": self.video.patches}


class OfRequest(NamedTuple):
    """What holds for one request: the server's settings with the knobs that it brings.

    Args:
        arguments: of the pattern, see :meth:`LvsaSettings.plan_arguments`. mode: whether LVSA is on.
        remapped: whether anchors are seen at other positions.
        slowed: RIFLEx, None if it has none. head_groups: of its calls; memory is looked at anew in each request.
    """

    arguments: dict[str, Any]
    mode: Mode
    remapped: bool
    slowed: SlowedFrequency | None
    head_groups: HeadGroups


class Scope:
    """LVSA on one transformer.

    Attributes:
        sparse: whether the running call is sparse. A plain bool that compiled blocks guard on: one graph with the
            engine's dense attention, one with LVSA's opaque operator, whatever the step or the length.
        agreed: whether the other ranks are known to have the same settings.
        blocks: how many attention layers are LVSA's.
        settled: whether all layers of the transformer have been looked at, which its first call makes sure of.
        joining: the kernel that joins parts of the keys, for anchors that are boosted or seen at other positions; None:
            there is none here.
        place: of this process among those whose attention holds parts of one sequence.
        rope: the transformer's rotary embedding, if its family tells of it; without its module.
        slowed: what RIFLEx changes in the tables of the running call; None: nothing.
    """

    def __init__(
        self,
        spec: FamilySpec,
        preset: Preset,
        settings: LvsaSettings,
        mode: Mode,
        kernel: Selection,
        place: compat.SequenceRank = compat.WHOLE,
        joining: Selection | None = None,
    ) -> None:
        self.spec, self.preset, self.settings, self.mode, self.kernel = spec, preset, settings, mode, kernel
        self.joining = joining
        self.place = place
        self.rope: Rope | None = None
        self.slowed: SlowedFrequency | None = None
        self.arguments = settings.plan_arguments(preset)
        self.sparse = False
        self.settled = self.agreed = False
        self.blocks = 0
        self._of: weakref.WeakKeyDictionary[step.Request, OfRequest] = weakref.WeakKeyDictionary()

    def choose(self, asked: Any) -> OfRequest:
        """What holds for a request that brings these knobs; None: none.

        Raises:
            ValueError: with the sentence for the client.
        """
        settings, enabled = chosen(self.settings, asked)
        arguments, scale, slowed = settings.plan_arguments(self.preset), settings.riflex_scale, None
        if scale not in (None, 1):
            if self.rope is None:
                raise ValueError(no_riflex(self.spec.name, "riflex_scale"))
            length = arguments["reference_frames"]
            slowed = SlowedFrequency.of(self.rope.channels, self.rope.theta, length=length, scale=scale)
        remapped = "anchor_positions" in arguments
        if remapped:
            check_remap(self.spec.name, self.rope, arguments["reference_frames"], arguments["window"])
        if (remapped or settings.anchor_boost) and self.joining is None:
            raise ValueError(
                f"LVSA_BACKEND={settings.kernel} knows neither anchor_boost nor anchor_positions on this device: leave "
                f"them out, or let the server choose the kernel"
            )
        mode: Mode = self.mode if enabled is None else "always" if enabled else "off"
        groups = HeadGroups(self.settings.extra_memory, journal.grouped)
        return OfRequest(arguments, mode, remapped, slowed, groups)

    def running(self) -> OfRequest:
        """What holds for the running request."""
        request = step.running_request()
        if request not in self._of:
            self._of[request] = self.choose(request.asked)
        return self._of[request]

    @contextmanager
    def call(self, transformer: Any, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Around one call of the transformer: work out grid, step and pattern, and let the layers run sparse or dense.

        Args:
            arguments: the arguments of the call that the family reads, by name.
        """
        if not self.agreed:
            ranks.check()
            self.agreed = True
        request = step.running_request()
        step.advance(request, arguments.get(self.spec.step_parameter))
        forward = self._plan(transformer, arguments, request)
        diagnostics.before_call(self.settings, request, forward.pattern if forward else None)
        before, self.sparse = self.sparse, forward is not None
        token = running.set(forward)
        try:
            yield
        except BaseException:
            diagnostics.failed_call(request)
            raise
        finally:
            running.reset(token)
            self.sparse = before
        diagnostics.after_call(self.settings, request)

    def _plan(self, transformer: Any, arguments: Mapping[str, Any], request: step.Request) -> Forward | None:
        """The sparse call, or None for a dense one; says which, once a request."""
        grid = self.slowed = None
        own = self.running()
        try:
            video = self.spec.video(transformer, arguments)
            grid = video.grid
            self.slowed = own.slowed.in_video(grid.frames) if own.slowed else None
            if own.mode == "off":
                raise StaysDense("the request asks for it (lvsa.enabled is false)")
            planned, steps = {**own.arguments, **self._positions(own)}, step.steps(request)
            beyond_only = own.mode == "beyond"
            pattern, decision = decide(grid.frames, request.step, planned, steps=steps, beyond_only=beyond_only)
        except StaysDense as reason:
            decision = Decision("dense", str(reason))
        except ImpossibleRequest as error:
            raise compat.client_error(str(error)) from error
        except StepsUnknown as error:
            raise compat.client_error(
                f"lvsa.{error}, which neither the request nor the pipeline tells: give num_inference_steps, or leave "
                f"rotate_after out"
            ) from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            request.ran.call(request.step, None, "the grid is unknown")
            self.fallback("grid", "layout", 0, error=repr(str(error)))
            return None
        new = self._once(request, (id(self), decision.verdict, grid))
        if decision.verdict == "sparse":
            request.ran.call(request.step, video.grid, decision.reason, pattern)
            kernel = self.kernel if pattern.plain or self.joining is None else self.joining
            request.ran.family, request.ran.kernel = self.spec.name, kernel.name
            after = own.arguments.get("rotate_after", 0.0)
            request.ran.anchors = show.anchors(pattern, after)
            if new:
                journal.engaged(self.blocks, video.grid, pattern, self.spec.name, kernel.name, after)
            return Forward(self, video, pattern, own.head_groups, request.ran.attention)
        request.ran.call(request.step, grid, decision.reason)
        request.ran.family = self.spec.name
        if new:
            journal.dense(grid, decision.reason)
        return None

    def _positions(self, own: OfRequest) -> dict[str, Remap]:
        """Where the anchors of the running call are seen."""
        if not own.remapped or self.rope is None:
            return {}
        axis = TemporalAxis.of(self.rope.channels, self.rope.theta, self.slowed)
        return {"remap": Remap(own.arguments["reference_frames"], axis)}

    @staticmethod
    def _once(request: step.Request, what: object) -> bool:
        """Whether this is the first time in the request."""
        new = what not in request.reported
        request.reported.add(what)
        return new

    def fallback(self, origin: str, reason: str, seq_len: int, **details: object) -> None:
        """Report a surprise, once a request, or raise it as LVSA_STRICT asks."""
        strict, request = self.settings.strict, step.running_request()
        request.ran.fallbacks[reason] += 1
        warn = self.settings.warn_fallback and self._once(request, (origin, reason))
        journal.fallback(origin, reason, seq_len, strict=strict, warn=warn, family=self.spec.name, **details)
