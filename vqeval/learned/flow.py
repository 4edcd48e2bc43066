"""Motion by RAFT of torchvision, which sees more than the flow without weights."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vqeval import scores
from vqeval.errors import WeightsError, first_line
from vqeval.learned.features import device_of
from vqeval.result import Dimension
from vqeval.traits import Picture
from vqeval.video import resized, sample

#: Pairs of neighbouring pictures a second, as VBench's dynamic degree has, and the most of a video.
_RATE, _MOST = 8.0, 128
#: Longer side of the pictures, and what sides have to be a multiple of.
_SIDE, _MULTIPLE = 512, 8
_SMALLEST = 128


def raft_motion(path: Path, reference: Path | None, asked: str, device: str | None) -> Dimension:
    """Mean motion in per cent of the diagonal a second; scored against a reference only, as :func:`course.motion` is.

    Raises:
        WeightsError: torchvision or the weights are missing.
    """
    model, weights = _load(asked, device)
    unit, value = "per cent of the diagonal a second", _speed(path, model)
    if reference is None:
        reason = "motion has no scale of its own: give the video at the training length with --reference"
        return Dimension(value=value, unit=unit, counted=False, reason=reason, weights=weights)
    usual = _speed(reference, model)
    if usual <= 0:
        return Dimension(value=value, unit=unit, counted=False, reason="the reference does not move", weights=weights)
    details = {"reference": usual, "ratio": value / usual}
    return Dimension(value=value, score=scores.of_ratio(value / usual), unit=unit, details=details, weights=weights)


def _load(asked: str, device: str | None) -> tuple[Any, str]:
    """The network and the name of its weights."""
    try:
        import torch
        from torchvision.models import optical_flow
    except ImportError:
        raise WeightsError("RAFT needs torchvision, which is not installed: pip install torchvision") from None
    where = device_of(device)
    own = {"small": optical_flow.raft_small, "large": optical_flow.raft_large}
    try:
        if asked in own:
            return own[asked](weights="DEFAULT").eval().to(where), f"RAFT {asked}, the weights of torchvision"
        state = torch.load(asked, map_location="cpu", weights_only=True)
        for kind, network in own.items():
            model = network(weights=None)
            if model.state_dict().keys() == state.keys():
                model.load_state_dict(state)
                return model.eval().to(where), f"RAFT {kind}, {Path(asked).name}"
        raise ValueError("these are weights of another network")
    except Exception as error:
        raise WeightsError(
            f"the weights of RAFT could not be read from {asked} ({first_line(error)}): give --raft with the file "
            "of torchvision's raft_small or raft_large, or --raft small where it can be downloaded"
        ) from None


def _speed(path: Path, model: Any) -> float:
    import torch

    pictures, rate = sample(path, _RATE, _MOST)
    found = [_resized(picture) for picture in pictures]
    device = next(model.parameters()).device
    speeds = []
    with torch.inference_mode():
        for before, after in pairwise(found):
            pair = [torch.from_numpy(x).permute(2, 0, 1)[None].float().to(device) / 127.5 - 1 for x in (before, after)]
            flow = model(*pair)[-1]
            speeds.append(float(flow.norm(dim=1).mean()))
    return float(100 * rate * np.mean(speeds) / np.hypot(*found[0].shape[:2]))


def _resized(picture: Picture) -> Picture:
    """At most ``_SIDE`` pixels long, each side a multiple of eight and at least ``_SMALLEST``."""
    factor = min(1.0, _SIDE / max(picture.shape[:2]))
    height, width = (max(_SMALLEST, round(side * factor / _MULTIPLE) * _MULTIPLE) for side in picture.shape[:2])
    return resized(picture, width, height)
