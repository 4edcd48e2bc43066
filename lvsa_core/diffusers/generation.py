"""One call of a pipeline: its denoising step, and what ran in it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch

from lvsa_core import show
from lvsa_core.grid import FrameGrid
from lvsa_core.memory import HeadGroups
from lvsa_core.pattern import Pattern
from lvsa_core.steps import noisiest

#: Why there is nothing to report of a pipeline that was given another transformer.
REPLACED = "the pipeline has another transformer since: call disable(), then enable_lvsa() again"


@dataclass(frozen=True)
class Report:
    """What ran in the latest call of the pipeline; ``str()`` is one line for people.

    Attributes:
        family: of the model. reference: latent frames that it was trained for.
        frames: latent frames T of the video. patches: tokens P of one of them. Both 0 before the first call.
        steps: denoising steps. sparse_steps: those in which LVSA's attention ran.
        density: attended pairs of frames over all pairs, in the latest of these; 1.0 if there was none.
        kernel: that computed them, None if there was none.
        reason: why the latest dense step was dense, or why there is nothing to tell; empty if neither.
        ranks: that made the video together.
        anchors: how they were seen in the latest sparse step, empty if as LVSA without options sees them.
    """

    family: str
    reference: int
    frames: int = 0
    patches: int = 0
    steps: int = 0
    sparse_steps: int = 0
    density: float = 1.0
    kernel: str | None = None
    reason: str = ""
    ranks: int = 1
    anchors: str = ""

    def __str__(self) -> str:
        if not self.steps:
            what = self.reason or "no step has run yet"
            return f"LVSA on {self.family} (trained on {self.reference} latent frames): {what}"
        anchors = f", {self.anchors}" if self.anchors else ""
        sparse = f"density {self.density:.1%}, kernel {self.kernel}{anchors}" if self.sparse_steps else ""
        dense = f"dense: {self.reason}" if self.reason else ""
        shared = f"shared by {self.ranks} ranks" if self.ranks > 1 else ""
        return (
            f"LVSA on {self.family} (trained on {self.reference} latent frames): {self.frames} latent frames of "
            f"{self.patches} patches, {self.sparse_steps} of {self.steps} steps sparse; "
            f"{'; '.join(part for part in (sparse, dense, shared) if part)}"
        )


class Generation:
    """The running call of a pipeline, or the latest.

    A pipeline sets its scheduler's timesteps anew in every call: another ``scheduler.timesteps`` is another call,
    whatever became of the one before, and so is what comes after the last of them. Within a call the scheduler counts
    the steps, where it has a ``step_index``: a scheduler of second order steps at each of its evaluations. Where the
    scheduler stands still (it does not count, or a loop uses another one, or none), another timestep is another step,
    and a larger one another call. Most pipelines give all transformer calls of a step the same object, modular ones an
    equal one each.

    Args:
        pipe: the pipeline; not kept alive, but its scheduler is, which pipelines made of its parts use on.
        head_groups: makes the groups of heads of a call: free memory is looked at anew in each.
    """

    def __init__(self, pipe: Any, head_groups: Callable[[], HeadGroups] = HeadGroups) -> None:
        self._pipe, self._new_head_groups = weakref.ref(pipe), head_groups
        self._scheduler: Any = None
        self._schedule: Any = None
        self._position: int | None = 0
        self._begin()

    def _begin(self) -> None:
        self._timestep: Any = None
        self._value: Any = None  # of the timestep, which may change in place
        self._version: int | None = None
        self.step = -1
        self.grid: FrameGrid | None = None
        self.pattern: Pattern | None = None
        self.kernel: str | None = None
        self.reason = ""
        self.sparse_steps: set[int] = set()
        self.head_groups = self._new_head_groups()
        self.ranks = 1

    def advance(self, timestep: Any) -> int:
        """The denoising step of the transformer call that is about to run, from 0.

        Args:
            timestep: equal in the calls of a step; it is kept, so that no other gets its address. Only where it is
                another object or may have been changed in place, and the scheduler stands still, is its value read, for
                which the host waits.
        """
        self._scheduler = getattr(self._pipe(), "scheduler", self._scheduler)
        schedule = getattr(self._scheduler, "timesteps", None)
        position = 0 if schedule is None else _position(self._scheduler)
        if schedule is not self._schedule or (position is None and self._position is not None):
            self._schedule = schedule
            self._begin()
        if self.step < 0 or position != self._position:
            self.step += 1
        elif (
            timestep is not self._timestep
            or _version(timestep) != self._version
            or self._changes_unseen(timestep, position)
        ):
            new, old = noisiest(timestep), noisiest(self._value)
            if new > old:
                self._begin()
            self.step += new != old
        self._timestep, self._version, self._position = timestep, _version(timestep), position
        self._value = timestep.clone() if isinstance(timestep, torch.Tensor) else timestep
        return self.step

    def _changes_unseen(self, timestep: Any, position: int | None) -> bool:
        """Whether the timestep may change in place without a trace, and no scheduler counts the steps.

        One that a loop leaves in the middle of its schedule is taken to count.
        """
        counts = position is not None and getattr(self._scheduler, "step_index", None) is not None
        return isinstance(timestep, torch.Tensor) and timestep.is_inference() and not counts

    @property
    def steps(self) -> int | None:
        """How many steps the call has, None if its scheduler does not tell."""
        if getattr(self._scheduler, "num_inference_steps", None) is None or self._schedule is None:
            return None  # the timesteps of its training may stand where a call's will be
        return len(self._schedule) - (getattr(self._scheduler, "begin_index", None) or 0)

    def ran_sparse(self, pattern: Pattern, kernel: str) -> None:
        """Note that a layer of this step ran sparse."""
        self.pattern, self.kernel = pattern, kernel
        self.sparse_steps.add(self.step)

    def still_has(self, transformers: Collection[Any], count: int) -> bool:
        """Whether the pipeline still has all these transformers, of which there were so many, or is gone itself."""
        components = getattr(self._pipe(), "components", {})
        here = {id(getattr(model, "_orig_mod", model)) for model in components.values()}
        return not components or len(here.intersection(map(id, transformers))) == count

    def report(self, family: str, reference: int, rotate_after: float = 0.0) -> Report:
        """What ran so far."""
        return Report(
            family,
            reference,
            frames=self.grid.frames if self.grid else 0,
            patches=self.grid.patches if self.grid else 0,
            steps=self.step + 1,
            sparse_steps=len(self.sparse_steps),
            density=self.pattern.density if self.pattern else 1.0,
            kernel=self.kernel,
            reason=self.reason,
            ranks=self.ranks,
            anchors=show.anchors(self.pattern, rotate_after) if self.pattern else "",
        )


def _version(timestep: Any) -> int | None:
    """How often a tensor has been changed in place, where PyTorch counts it."""
    return timestep._version if isinstance(timestep, torch.Tensor) and not timestep.is_inference() else None


def _position(scheduler: Any) -> int | None:
    """The step of its schedule that a scheduler will take next, None after the last one."""
    index = getattr(scheduler, "step_index", None)
    if index is None:  # up to the first step it knows at most where it is to begin
        index = getattr(scheduler, "begin_index", None) or 0
    return int(index) if index < len(scheduler.timesteps) else None
