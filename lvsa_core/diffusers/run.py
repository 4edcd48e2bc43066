"""One call of a pipeline: its denoising step, and what ran in it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from lvsa_core.grid import FrameGrid
from lvsa_core.pattern import Pattern


@dataclass(frozen=True)
class Report:
    """What ran in the latest call of the pipeline; ``str()`` is one line for people.

    Attributes:
        family: of the model. reference: latent frames that it was trained for.
        frames: latent frames T of the video. patches: tokens P of one of them. Both 0 before the first call.
        steps: denoising steps. sparse_steps: those in which LVSA's attention ran.
        density: attended pairs of frames over all pairs, in the latest of these; 1.0 if there was none.
        kernel: that computed them, None if there was none.
        reason: why the latest dense step was dense, empty if there was none.
        ranks: that made the video together.
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

    def __str__(self) -> str:
        if not self.steps:
            return f"LVSA on {self.family} (trained on {self.reference} latent frames): no step has run yet"
        sparse = f"density {self.density:.1%}, kernel {self.kernel}" if self.sparse_steps else ""
        dense = f"dense: {self.reason}" if self.reason else ""
        shared = f"shared by {self.ranks} ranks" if self.ranks > 1 else ""
        return (
            f"LVSA on {self.family} (trained on {self.reference} latent frames): {self.frames} latent frames of "
            f"{self.patches} patches, {self.sparse_steps} of {self.steps} steps sparse; "
            f"{'; '.join(part for part in (sparse, dense, shared) if part)}"
        )


class Run:
    """The running call of a pipeline, or the latest.

    A pipeline sets its scheduler's timesteps anew in every call: another ``scheduler.timesteps`` is another call,
    whatever became of the one before. Within a call, all transformer calls of a denoising step share one ``timestep``.

    Args:
        pipe: the pipeline; not kept alive.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = weakref.ref(pipe)
        self._schedule: Any = None
        self._begin()

    def _begin(self) -> None:
        self._timestep: Any = None
        self.step = -1
        self.grid: FrameGrid | None = None
        self.pattern: Pattern | None = None
        self.kernel: str | None = None
        self.reason = ""
        self.sparse_steps: set[int] = set()
        self.ranks = 1

    def advance(self, timestep: Any) -> int:
        """The denoising step of the transformer call that is about to run, from 0.

        Args:
            timestep: an object that the calls of a step share; it is kept, so that no other gets its address.
        """
        schedule = getattr(getattr(self._pipe(), "scheduler", None), "timesteps", None)
        if schedule is not self._schedule:
            self._schedule = schedule
            self._begin()
        if timestep is not self._timestep or self.step < 0:
            self._timestep, self.step = timestep, self.step + 1
        return self.step

    def ran_sparse(self, pattern: Pattern, kernel: str) -> None:
        """Note that a layer of this step ran sparse."""
        self.pattern, self.kernel = pattern, kernel
        self.sparse_steps.add(self.step)

    def report(self, family: str, reference: int) -> Report:
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
        )
