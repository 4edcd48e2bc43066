"""What a user can choose about the pattern, checked once, and the arguments of ``plan`` that follow from it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from lvsa_core.budget import scaled_reference
from lvsa_core.grid import MOST_FRAMES, check_int
from lvsa_core.kernels import KernelUnavailable, candidates
from lvsa_core.pattern import check_boost
from lvsa_core.riflex import check_scale

#: Sets of knobs by name. They are the best that was found on toy models; on Wan nothing is measured.
RECIPES: dict[str, dict[str, Any]] = {
    "long": {"anchor_positions": "remap", "window_size": 16, "anchor_boost": 1.0, "rotate_after": 0.6},
}
#: Where anchors may be seen: where they are, or at distances that the model was trained on.
POSITIONS = ("true", "remap")
#: Video frames between anchors where the user asks for no automatic interval and names none.
DEFAULT_INTERVAL = 16


@dataclass(frozen=True)
class Knobs:
    """What a user may choose; the names and defaults are those of the plugin's settings.

    Args:
        window_size: half window, video frames.
        n_first_frames: leading frames that are always anchors, video frames.
        auto_keyframes: derive the distance between anchors from the training length.
        key_frame_interval: that distance in video frames, with ``auto_keyframes=False``; None: 16.
        rotate_keyframes: move the anchors by one latent frame each denoising step.
        expand_window: grow the window past anchors.
        sparsity_scale: multiplies the number of frames that a frame attends to.
        reference_latent_frames: latent frames that the model was trained for; None: known from the model.
        backend: kernel of the sparse attention: auto, a family (flash, flashinfer, sdpa), or the name of a kernel;
            ``auto,-NAME`` leaves one out.
        extra_memory: GB (1e9 bytes) that attention may take beside its inputs and output, where fewer heads at a time
            need less; None: nine tenths of what is free at the first step.
        riflex_s: factor s of RIFLEx for videos longer than its training length; None or 1: off.
        riflex_k: index of the temporal frequency that RIFLEx changes; None: the intrinsic one.
        riflex_train_len: latent frames L of RIFLEx's training length; None: the reference.
        anchor_positions: where anchors outside of a frame's window are seen: ``true``, where they are, or ``remap``, at
            distances that the model was trained on.
        anchor_boost: added to the scores of anchors; below 0 they count less.
        rotate_after: share of the denoising steps in which the anchors stand still before they rotate.

    Raises:
        ValueError: if a value is out of range, or would have no effect.
    """

    window_size: int = 12
    n_first_frames: int = 4
    auto_keyframes: bool = True
    key_frame_interval: int | None = None
    rotate_keyframes: bool = True
    expand_window: bool = True
    sparsity_scale: float = 1.0
    reference_latent_frames: int | None = None
    backend: str = "auto"
    extra_memory: float | None = None
    riflex_s: float | None = None
    riflex_k: int | None = None
    riflex_train_len: int | None = None
    anchor_positions: str = "true"
    anchor_boost: float = 0.0
    rotate_after: float = 0.0

    def __post_init__(self) -> None:
        optional = {"key_frame_interval": 1, "reference_latent_frames": 1, "riflex_k": 0, "riflex_train_len": 1}
        given = {name: least for name, least in optional.items() if getattr(self, name) is not None}
        for name, least in {"window_size": 0, "n_first_frames": 0, **given}.items():
            check_int(name, getattr(self, name), least, MOST_FRAMES)
        for name in ("auto_keyframes", "rotate_keyframes", "expand_window"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}")
        scaled_reference(1, sparsity_scale=self.sparsity_scale)
        if not isinstance(self.backend, str):
            raise ValueError(f"backend must be the name of a kernel, or auto, got {self.backend!r}")
        try:
            candidates(self.backend)
        except KernelUnavailable as error:
            raise ValueError(str(error)) from None
        if self.extra_memory is not None and not 0 <= self.extra_memory < math.inf:
            raise ValueError(f"extra_memory must be a number of GB from 0 on, got {self.extra_memory!r}")
        if self.auto_keyframes and self.key_frame_interval is not None:
            raise ValueError("key_frame_interval has an effect with auto_keyframes=False only: give both, or neither")
        if self.riflex_s is not None:
            check_scale(self.riflex_s)
        elif self.riflex_k is not None or self.riflex_train_len is not None:
            raise ValueError("riflex_k and riflex_train_len have an effect with riflex_s only: give that too")
        if self.anchor_positions not in POSITIONS:
            raise ValueError(f"anchor_positions must be one of {', '.join(POSITIONS)}, got {self.anchor_positions!r}")
        check_boost(self.anchor_boost)
        if isinstance(self.rotate_after, bool) or not 0 <= self.rotate_after <= 1:
            raise ValueError(f"rotate_after must be a share of the steps from 0 to 1, got {self.rotate_after!r}")
        if self.rotate_after and not self.rotate_keyframes:
            raise ValueError("rotate_after has an effect with rotate_keyframes only: leave one of both out")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Knobs:
        """The knobs of a call, which may name a recipe; what is given beside it goes before it.

        Raises:
            TypeError: if there is no knob of a name, with the nearest that there is.
            ValueError: if there is no such recipe, or a value is out of range.
        """
        given = with_recipe(given)
        if (recipe := given.pop("recipe", None)) is not None and recipe not in RECIPES:
            raise ValueError(f"there is no recipe {recipe!r}: there is {', '.join(RECIPES)}")
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                raise TypeError(f"enable_lvsa has no knob {name!r}; {nearest(name, names)}")
        return cls(**given)

    def plan_arguments(self, reference: int, factor: int, joined: int = 1) -> dict[str, Any]:
        """Arguments of :func:`lvsa_core.decide.decide`: of ``plan`` besides ``frames`` and ``step``, and two more.

        These are ``anchor_positions`` and ``rotate_after``, where they are not as LVSA without options has them.

        Args:
            reference: frames of tokens that the model was trained for, unless the user has named another number.
            factor: video frames of a latent frame.
            joined: latent frames of a frame of tokens; leading anchors that fill one in part are all of it.
        """
        both = factor * joined
        interval = None if self.auto_keyframes else max(1, (self.key_frame_interval or DEFAULT_INTERVAL) // both)
        return {
            "reference_frames": self.reference_latent_frames or reference,
            "window": self.window_size // both,
            "n_first": -(-(self.n_first_frames // factor) // joined),
            "sparsity_scale": self.sparsity_scale,
            "keyframe_interval": interval,
            "expand_window": self.expand_window,
            "rotate": self.rotate_keyframes,
            **({"anchor_boost": self.anchor_boost} if self.anchor_boost else {}),
            **({"anchor_positions": self.anchor_positions} if self.anchor_positions != "true" else {}),
            **({"rotate_after": self.rotate_after} if self.rotate_after else {}),
        }


def with_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs, or settings of their names, with those of the recipe that is named, where nothing else is given.

    A name that there is not is left in, for whoever checks the values. Anchors that never rotate need no share.
    """
    chosen = dict(RECIPES.get(str(given.get("recipe")), {}))
    if given.get("rotate_keyframes") is False:
        chosen.pop("rotate_after", None)
    return {**chosen, **given}


def nearest(name: str, names: Sequence[str]) -> str:
    """What to say of a name that is none of these."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}."
