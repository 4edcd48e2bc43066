"""How often the measure finds fault with videos that are known to be good: its false alarms, on one's own clips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from vqeval import scores
from vqeval.result import Result

#: Dimensions that are a share or an amount of something bad, so that one can say above which level few good clips are.
NAMES = ("freeze", "loop", "mirror", "flicker", "drift", "blur", "noise")


class Level(BaseModel):
    """One dimension on good clips.

    Args:
        clips: with a value. usual: their median. high: the value that one good clip in twenty exceeds. highest: of all.
        alarm: the value above which one is told, None where one is not. false_alarms: good clips above it.
        lost: points of score that good clips lose on average.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    clips: int
    usual: float
    high: float
    highest: float
    highest_in: str
    alarm: float | None
    false_alarms: int
    lost: float


def levels(results: Sequence[Result]) -> list[Level]:
    """The levels of all dimensions that some clip has a value of."""
    found = []
    for name in NAMES:
        there = [(result.dimensions[name], result.video.path) for result in results]
        known = [(d.value, d.score, path) for d, path in there if d.value is not None and d.score is not None]
        if not known:
            continue
        values = np.array([value for value, _, _ in known])
        alarm = scores.ALARM.get(name)
        found.append(
            Level(
                name=name,
                clips=len(known),
                usual=float(np.median(values)),
                high=float(np.quantile(values, 0.95)),
                highest=float(values.max()),
                highest_in=known[int(values.argmax())][2],
                alarm=alarm,
                false_alarms=0 if alarm is None else int((values > alarm).sum()),
                lost=100 - float(np.mean([score for _, score, _ in known])),
            )
        )
    return found
