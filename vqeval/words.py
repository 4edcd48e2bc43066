"""The names of the dimensions and their values as a person reads them, on pages and in the terminal."""

from __future__ import annotations

from vqeval.result import Dimension

#: What a dimension is, in a word or two and in a sentence.
TITLES = {
    "freeze": ("freeze", "how much of the video stands still"),
    "loop": ("loop", "how many frames repeat earlier ones"),
    "mirror": ("there and back", "how many frames repeat earlier ones backwards"),
    "return": ("return to the start", "how near the video comes to its first picture again; 1: no nearer than usual"),
    "motion": ("motion", "how much moves; it has a score only against a reference"),
    "flicker": ("flicker", "how much the brightness jumps from frame to frame"),
    "drift": ("drift", "how much sharpness, colour, contrast or brightness change from beginning to end"),
    "blur": ("blur", "how blurred the pictures are"),
    "noise": ("noise", "how much grain the pictures have"),
    "subject_consistency": ("subject consistency", "how alike the subject stays, by DINOv2"),
    "background_consistency": ("background consistency", "how alike the scene stays, by CLIP"),
    "text_alignment": ("text alignment", "how well the pictures fit the prompt, by CLIP"),
    "feature_loop": ("loop in features", "how many pictures repeat earlier ones for CLIP or DINOv2"),
    "image_quality": ("image quality", "how good single pictures look, by pyiqa"),
    "raft_motion": ("motion by RAFT", "how much moves, by RAFT"),
    "composite": ("composite", "all that counts in one number"),
}
#: Of units that are shares, so that they are read in per cent.
_SHARES = ("freeze", "loop", "mirror", "feature_loop")


def value_text(dimension: Dimension, name: str) -> str:
    """A value as a person reads it."""
    if dimension.value is None:
        return "none"
    if name in _SHARES:
        text = f"{100 * dimension.value:.1f} %"
        return text if dimension.lag_seconds is None else f"{text}, lag {dimension.lag_seconds:.2f} s"
    if name == "motion" or name == "raft_motion":
        return f"{dimension.value:.2f} %/s"
    return f"{dimension.value:.3g}"
