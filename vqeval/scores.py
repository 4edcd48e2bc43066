"""From measured quantities to scores of 0 to 100, and from scores to one number."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vqeval.errors import InputError
from vqeval.result import Dimension

#: Share of frames from which on one is told of a freeze, a loop, a there-and-back. Real clips stay below.
ALARM = {"freeze": 0.25, "loop": 0.05, "mirror": 0.05}
#: (up to here 100, and then a factor of 1/e for each) by dimension, in its unit.
_TOLERANCE = {"flicker": (0.6, 1.5), "drift": (0.3, 0.7), "blur": (0.6, 0.2), "noise": (3.0, 10.0)}

#: The six dimensions of the method's own evaluator with their published weights (its documentation; arXiv 2605.31057),
#: and which of ours measure the same thing.
PAPER: dict[str, tuple[float, tuple[str, ...]]] = {
    "spatial quality": (0.20, ("blur", "image_quality")),
    "temporal coherence": (0.25, ("flicker", "subject_consistency", "background_consistency")),
    "repetition": (0.15, ("loop", "mirror", "feature_loop")),
    "artifacts": (0.20, ("noise", "drift")),
    "dynamic quality": (0.10, ("freeze", "motion", "raft_motion")),
    "text alignment": (0.10, ("text_alignment",)),
}
PROFILES = ("equal", "paper")

#: The composite or None, why there is none, and the weights of the dimensions that went in.
Composite = tuple[float | None, str | None, dict[str, float]]


def of_share(share: float) -> float:
    """Score of a share of bad frames: 100 for none, 32 for a quarter, 6 for a half, 0 for all."""
    return 100 * (1 - share) ** 4


def of_amount(name: str, value: float) -> float:
    """Score of an amount of something bad: 100 up to what is usual, then less and less."""
    usual, scale = _TOLERANCE[name]
    return 100 * math.exp(-max(0.0, value - usual) / scale)


def of_ratio(ratio: float) -> float:
    """Score of a ratio to a reference: 100 at the reference or above it."""
    return 100 * min(1.0, max(0.0, ratio))


def composite(
    dimensions: Mapping[str, Dimension], weights: Mapping[str, float] | None = None, profile: str = "equal"
) -> Composite:
    """The scores in one number.

    Args:
        weights: by name; a dimension without one does not count. None: every dimension that counts has weight 1.
        profile: "equal": the weighted geometric mean, in which one bad dimension cannot be made up for by good ones;
            "paper": see :data:`PAPER`.

    Raises:
        InputError: a weight names no dimension, or is negative; there is no such profile.
    """
    if profile not in PROFILES:
        raise InputError(f"--profile {profile}: there are {' and '.join(PROFILES)}")
    for name, weight in (weights or {}).items():
        if name not in dimensions:
            raise InputError(f"--weights: no dimension is called {name!r}; there are {', '.join(dimensions)}")
        if not (weight >= 0 and math.isfinite(weight)):
            raise InputError(f"--weights: {name} has weight {weight}; a weight is 0 or more")
    failed = [f"{name}: {found.reason}" for name, found in dimensions.items() if found.failed]
    if failed:
        return None, f"a dimension that was asked for failed; {failed[0]}", {}
    scores = {name: found.score for name, found in dimensions.items() if found.counted and found.score is not None}
    if profile == "paper":
        return _paper(scores)
    if weights is None:
        weights = dict.fromkeys(scores, 1.0)
    used = {name: weight for name, weight in weights.items() if weight > 0 and name in scores}
    if not used:
        return None, "no dimension with a weight has a score", {}
    if min(scores[name] for name in used) <= 0:
        return 0.0, None, used
    total = sum(weight * math.log(scores[name]) for name, weight in used.items())
    return min(100.0, math.exp(total / sum(used.values()))), None, used  # rounding can pass it


def _paper(scores: Mapping[str, float]) -> Composite:
    """The weighted arithmetic mean of six groups; the weight of a group without a score goes to the others."""
    groups = {}
    for weight, members in PAPER.values():
        there = [name for name in members if name in scores]
        groups.update({name: weight / len(there) for name in there})
    if not groups:
        return None, "no dimension with a weight has a score", {}
    total = sum(groups.values())
    used = {name: weight / total for name, weight in groups.items()}
    return sum(weight * scores[name] for name, weight in used.items()), None, used
