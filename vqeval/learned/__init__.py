"""Dimensions that need weights: computed when asked for, with the weights that one names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from vqeval.errors import WeightsError
from vqeval.result import Dimension
from vqeval.traits import Picture

#: Pictures a second that learned dimensions look at, and the most of a video.
PICTURES_A_SECOND, MOST_PICTURES = 4.0, 128


@dataclass(frozen=True)
class Learned:
    """Which learned dimensions one asks for, by their weights; None: not asked for.

    Args:
        clip: CLIP, a folder or a name on the Hugging Face Hub: background_consistency, text_alignment, feature_loop.
        dino: DINOv2, the same: subject_consistency, feature_loop.
        image_quality: a metric of pyiqa such as "musiq", or "musiq=FILE" with its weights: image_quality.
        raft: RAFT of torchvision, a file of weights, or "small" or "large" for torchvision's own: raft_motion.
        prompt: asks for text_alignment.
        device: of PyTorch; None: an accelerator if there is one.
    """

    clip: str | None = None
    dino: str | None = None
    image_quality: str | None = None
    raft: str | None = None
    prompt: str | None = None
    device: str | None = None

    def asked(self) -> dict[str, str]:
        """What was asked for, as it stands in the result; the device changes nothing but rounding."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "device"}
        return {name: value for name, value in values.items() if value is not None}


Measure = Callable[[], dict[str, Dimension]]


def dimensions(path: Path, learned: Learned, reference: Path | None = None) -> dict[str, Dimension]:
    """The learned dimensions that were asked for; one that cannot be computed has ``failed`` and the reason."""
    found: dict[str, Dimension] = {}
    pictures = _Pictures(path)
    if learned.dino:
        names = ["subject_consistency", *([] if learned.clip else ["feature_loop"])]
        found |= _tried(names, lambda: _dino(pictures, learned))
    if learned.clip:
        names = ["background_consistency", "feature_loop", *(["text_alignment"] if learned.prompt else [])]
        found |= _tried(names, lambda: _clip(pictures, learned))
    elif learned.prompt:
        reason = "text alignment needs CLIP: give --clip with a folder or a name such as openai/clip-vit-base-patch32"
        found["text_alignment"] = Dimension(failed=True, reason=reason)
    if learned.image_quality:
        found |= _tried(["image_quality"], lambda: _image_quality(pictures, learned))
    if learned.raft:
        found |= _tried(["raft_motion"], lambda: _raft(path, learned, reference))
    return found


def _tried(names: list[str], measure: Measure) -> dict[str, Dimension]:
    try:
        found = measure()
    except WeightsError as error:
        return {name: Dimension(failed=True, reason=str(error)) for name in names}
    missing = {
        name: Dimension(failed=True, reason="it was not computed; please report this")
        for name in names
        if name not in found
    }
    return {**found, **missing}


class _Pictures:
    """Evenly spaced pictures of a video at full size, decoded at the first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: tuple[list[Picture], float] | None = None

    def read(self) -> tuple[list[Picture], float]:
        """The pictures [H, W, 3], and how many there are a second."""
        from vqeval.video import sample

        if self._found is None:
            self._found = sample(self.path, PICTURES_A_SECOND, MOST_PICTURES)
        return self._found


def _dino(pictures: _Pictures, learned: Learned) -> dict[str, Dimension]:
    from vqeval.learned import features

    assert learned.dino is not None
    found, rate = pictures.read()
    vectors, weights = features.dino(found, learned.dino, learned.device)
    result: Mapping[str, Dimension] = {"subject_consistency": features.consistency(vectors, weights)}
    return {**result, **({} if learned.clip else {"feature_loop": features.loop(vectors, rate, weights)})}


def _clip(pictures: _Pictures, learned: Learned) -> dict[str, Dimension]:
    from vqeval.learned import features

    assert learned.clip is not None
    found, rate = pictures.read()
    vectors, text, weights = features.clip(found, learned.prompt, learned.clip, learned.device)
    result = {
        "background_consistency": features.consistency(vectors, weights),
        "feature_loop": features.loop(vectors, rate, weights),
    }
    return {**result, **({} if text is None else {"text_alignment": features.alignment(vectors, text, weights)})}


def _image_quality(pictures: _Pictures, learned: Learned) -> dict[str, Dimension]:
    from vqeval.learned import quality

    assert learned.image_quality is not None
    return {"image_quality": quality.image_quality(pictures.read()[0], learned.image_quality, learned.device)}


def _raft(path: Path, learned: Learned, reference: Path | None) -> dict[str, Dimension]:
    from vqeval.learned import flow

    assert learned.raft is not None
    return {"raft_motion": flow.raft_motion(path, reference, learned.raft, learned.device)}
