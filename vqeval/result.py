"""What an evaluation finds, as it stands in the JSON."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from pydantic import BaseModel, ConfigDict, Field


class Dimension(BaseModel):
    """One thing that was measured.

    Args:
        value: the measured quantity in ``unit``; None where there is no value, and then ``reason`` says why.
        score: 0 (bad) to 100; None where there is no value, or no scale without a reference.
        reason: why there is no value or no score.
        counted: whether the score goes into the composite.
        lag_seconds: of a loop, from a frame to the one that it repeats.
        failed: whether it was asked for and could not be computed.
        weights: of a learned dimension, which were used.
        details: numbers behind the value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None = None
    score: float | None = None
    unit: str = ""
    reason: str | None = None
    counted: bool = True
    lag_seconds: float | None = None
    failed: bool = False
    weights: str | None = None
    details: dict[str, float] = Field(default_factory=dict)


class VideoFacts(BaseModel):
    """The video that was measured: frames are those of the file, ``rate`` the frames a second that were compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str
    width: int
    height: int
    frames: int
    seconds: float
    rate: float
    variable_rate: bool


class Result(BaseModel):
    """All that was found in one video.

    Args:
        composite: 0 to 100, the geometric mean of the scores that ``composite_of`` names; None if ``composite_reason``.
        composite_of: the dimensions that went in, with their weights.
        dimensions: by name.
        alarms: sentences on a loop, a freeze or there-and-back.
        asked: what was asked for beyond the dimensions without weights; results that differ in it cannot be compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vqeval: str
    video: VideoFacts
    composite: float | None
    composite_reason: str | None
    composite_of: dict[str, float]
    dimensions: dict[str, Dimension]
    alarms: list[str]
    asked: dict[str, str] = Field(default_factory=dict)


def installed_version() -> str:
    """The version of the distribution that holds this package."""
    try:
        return version("lvsa-vllm-omni")
    except PackageNotFoundError:
        return "not installed"
