"""Evaluate one video: decode it once, measure, and put the result together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vqeval import learned as learned_dimensions
from vqeval import scores
from vqeval.analysis import Analysis
from vqeval.learned import Learned
from vqeval.result import Dimension, Result, VideoFacts, installed_version
from vqeval.video import Progress, read


@dataclass(frozen=True)
class Settings:
    """How videos are evaluated.

    Args:
        learned: the learned dimensions that are asked for.
        weights, profile: of the composite, see :func:`vqeval.scores.composite`.
    """

    learned: Learned = field(default_factory=Learned)
    weights: Mapping[str, float] | None = None
    profile: str = "equal"


def evaluate(
    path: str | Path,
    *,
    reference: str | Path | None = None,
    prompt: str | None = None,
    clip: str | None = None,
    dino: str | None = None,
    image_quality: str | None = None,
    raft: str | None = None,
    device: str | None = None,
    weights: Mapping[str, float] | None = None,
    profile: str = "equal",
) -> Result:
    """Measure a video.

    Args:
        path: a file in any container that FFmpeg reads.
        reference: the video of the same prompt and seed at the training length, for motion.
        prompt, clip, dino, image_quality, raft, device: what learned dimensions are asked for, and their weights; see
            :class:`vqeval.learned.Learned`.
        weights: weights of the dimensions in the composite, by name. profile: "equal" or "paper".

    Raises:
        VideoError: the video or the reference cannot be judged; one sentence. InputError: a weight cannot be used.
    """
    asked = Learned(clip, dino, image_quality, raft, prompt, device)
    return evaluate_with(path, Settings(asked, weights, profile), reference)[0]


def evaluate_with(
    path: str | Path,
    settings: Settings,
    reference: str | Path | Analysis | None = None,
    progress: Progress | None = None,
) -> tuple[Result, Analysis]:
    """As :func:`evaluate`; also what the pictures of the page are drawn from.

    Args:
        reference: a video, or one that is measured already. progress: see :func:`vqeval.video.read`.
    """
    analysis = Analysis.of(read(path, progress))
    if reference is not None and not isinstance(reference, Analysis):
        reference = Analysis.of(read(reference))
    dimensions = analysis.dimensions(reference)
    asked = settings.learned.asked()
    if asked:
        source = None if reference is None else reference.video.path
        dimensions |= learned_dimensions.dimensions(Path(path), settings.learned, source)
    if reference is not None:
        asked["reference"] = reference.video.digest
    composite, reason, used = scores.composite(dimensions, settings.weights, settings.profile)
    result = Result(
        vqeval=installed_version(),
        video=_facts(analysis),
        composite=composite,
        composite_reason=reason,
        composite_of=used,
        dimensions=dimensions,
        alarms=alarms(dimensions),
        asked=asked,
    )
    return result, analysis


def _facts(analysis: Analysis) -> VideoFacts:
    video = analysis.video
    return VideoFacts(
        path=str(video.path),
        sha256=video.digest,
        width=video.width,
        height=video.height,
        frames=video.decoded,
        seconds=video.seconds,
        rate=video.rate,
        variable_rate=video.variable,
    )


def alarms(dimensions: Mapping[str, Dimension]) -> list[str]:
    """Sentences on what somebody who generates videos has to know at once."""
    found = []
    for name, sentence in (
        ("freeze", "stands still for {share:.0f} % of its length"),
        ("loop", "is a loop: {share:.0f} % of the frames repeat those {lag:.2f} s earlier"),
        ("mirror", "goes there and back: {share:.0f} % of the frames repeat earlier ones backwards"),
    ):
        dimension = dimensions[name]
        if dimension.value is not None and dimension.value > scores.ALARM[name]:
            found.append(sentence.format(share=100 * dimension.value, lag=dimension.lag_seconds or 0.0))
    return found
