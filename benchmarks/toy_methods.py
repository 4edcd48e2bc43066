"""The ways to make a long video of Toy Wan that ``quality.py`` compares: keywords of ``enable_lvsa`` by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from lvsa_core.diffusers import handle
from lvsa_core.positions import Remap
from toy import world

#: A reference of this many frames keeps every video dense.
DENSE = 10**6
#: Among the knobs, what another group of frames and another shift are made of those that ``Remap`` chooses.
GROUPING = "grouping"
#: All options together, of which the methods named after it change one.
FULL = {"anchor_positions": "remap", "window_size": 16, "anchor_boost": 1.5, "rotate_after": 0.6}
#: By name, what of the length in multiples of the training length makes the knobs; None: no LVSA at all.
Method = Callable[[float], dict[str, Any]] | None
METHODS: dict[str, Method] = {
    "dense": None,
    "lvsa": lambda _: {},
    "no-rotation": lambda _: {"rotate_keyframes": False},
    "scale-0.5": lambda _: {"sparsity_scale": 0.5},
    "scale-0.75": lambda _: {"sparsity_scale": 0.75},
    "window": lambda _: {
        "n_first_frames": 0, "auto_keyframes": False, "key_frame_interval": 4 * 10**4, "window_size": 40,
        "expand_window": False, "rotate_keyframes": False,
    },
    "riflex": lambda times: {
        "reference_latent_frames": DENSE, "riflex_s": times, "riflex_train_len": world.LENGTH,
    },
    "lvsa+riflex": lambda times: {"riflex_s": times},
    "boost": lambda _: {"anchor_boost": 1.5},
    "held": lambda _: {"rotate_after": 0.6},
    "wide": lambda _: {"window_size": 16},
    "remap": lambda _: {"anchor_positions": "remap"},
    "remap+boost": lambda _: {"anchor_positions": "remap", "anchor_boost": 1.5},
    "remap+held": lambda _: {"anchor_positions": "remap", "rotate_after": 0.6},
    "boost+held": lambda _: {"anchor_boost": 1.5, "rotate_after": 0.6},
    "long": lambda _: {"recipe": "long"},
    "full": lambda _: FULL,
    "full-true": lambda _: FULL | {"anchor_positions": "true"},
    "full-boost-0": lambda _: FULL | {"anchor_boost": 0.0},
    "full-boost-1": lambda _: FULL | {"anchor_boost": 1.0},
    "full-boost-2": lambda _: FULL | {"anchor_boost": 2.0},
    "full-window-8": lambda _: FULL | {"window_size": 8},
    "full-window-12": lambda _: FULL | {"window_size": 12},
    "full-window-20": lambda _: FULL | {"window_size": 20},
    "full-rotating": lambda _: FULL | {"rotate_after": 0.0},
    "full-held-0.3": lambda _: FULL | {"rotate_after": 0.3},
    "full-still": lambda _: FULL | {"rotate_after": 1.0},
    "full-group-1": lambda _: FULL | {GROUPING: lambda group, shift: (max(1, group - 1), shift)},
    "full-group+3": lambda _: FULL | {GROUPING: lambda group, shift: (group + 3, shift)},
    "full-shift-0": lambda _: FULL | {GROUPING: lambda group, shift: (group, 0)},
}  # fmt: skip


#: Those of the table that is made if no others are asked for.
STANDARD = (
    "dense", "lvsa", "no-rotation", "scale-0.5", "scale-0.75", "window", "riflex", "lvsa+riflex", "remap", "long",
)  # fmt: skip


@dataclass(frozen=True)
class Regrouped(Remap):
    """Anchors in groups that :class:`Remap` would not choose; no kept pattern is taken for one of these."""

    changed: Callable[[int, int], tuple[int, int]] = lambda group, shift: (group, shift)

    def grouping(self, frames: int, window: int) -> tuple[int, int]:
        """See :meth:`Remap.grouping`."""
        return self.changed(*super().grouping(frames, window))


@contextmanager
def grouped(knobs: dict[str, Any]) -> Iterator[None]:
    """Let ``enable_lvsa`` place anchors in other groups, where a method says so, whose word for it is taken out."""
    if changed := knobs.pop(GROUPING, None):
        handle.Remap = partial(Regrouped, changed=changed)  # type: ignore[assignment,attr-defined]
    try:
        yield
    finally:
        handle.Remap = Remap  # type: ignore[attr-defined]
