"""Image quality by a metric of pyiqa."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from vqeval.errors import WeightsError, first_line
from vqeval.learned.features import device_of
from vqeval.result import Dimension
from vqeval.traits import Picture

#: The mean of so many pictures is the video's.
_PICTURES = 16


def image_quality(pictures: list[Picture], asked: str, device: str | None) -> Dimension:
    """The mean of a metric without reference over evenly spaced pictures; its score is its place in the metric's range.

    Args:
        asked: the metric's name, or "name=FILE" with its weights.

    Raises:
        WeightsError: pyiqa or the weights are missing, or the metric needs a reference or has no range.
    """
    name, _, file = asked.partition("=")
    try:
        import pyiqa
        import torch
    except ImportError:
        raise WeightsError("image quality needs pyiqa, which is not installed: pip install pyiqa") from None
    options = {"pretrained_model_path": file} if file else {}
    try:
        metric = pyiqa.create_metric(name, device=device_of(device), **options)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(
            f"{name} of pyiqa could not be loaded ({first_line(error)}): give --image-quality {name}=FILE with its "
            "weights, or one of the names that `python -c 'import pyiqa; print(pyiqa.list_models())'` prints"
        ) from None
    ends = [float(end) for end in re.findall(r"-?\d+(?:\.\d+)?", str(getattr(metric, "score_range", "")))]
    if metric.metric_mode != "NR" or len(ends) != 2:
        raise WeightsError(f"{name} of pyiqa needs a reference or has no range of values: take another, such as musiq")
    chosen = np.unique(np.linspace(0, len(pictures) - 1, _PICTURES).round().astype(int))
    values = []
    with torch.inference_mode():
        for number in chosen:
            tensor = torch.from_numpy(pictures[number].copy()).permute(2, 0, 1)[None].float() / 255
            values.append(float(metric(tensor).mean()))
    value = float(np.mean(values))
    place = min(1.0, max(0.0, (value - ends[0]) / (ends[1] - ends[0])))
    weights = f"{name}, {Path(file).name if file else 'the weights of pyiqa'}"
    return Dimension(value=value, score=100 * (1 - place if metric.lower_better else place), unit=name, weights=weights)
