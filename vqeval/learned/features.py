"""Features of pictures by CLIP and DINOv2 through transformers, and the dimensions that follow from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqeval import scores
from vqeval.errors import WeightsError, first_line
from vqeval.result import Dimension
from vqeval.traits import Picture

Vectors = NDArray[np.float64]

_BATCH = 16
#: A loop in features: the shortest run in pictures, and the shortest lag in seconds.
_RUN, _LEAST_LAG = 3, 1.0
#: CLIPScore (Hessel and others 2021) is this times the cosine, and 1 is about the best that there is.
_CLIP_SCORE = 2.5


@contextmanager
def weights_of(what: str, source: str, example: str) -> Iterator[None]:
    """Turn what goes wrong when weights are loaded into one sentence."""
    try:
        yield
    except ImportError as error:
        raise WeightsError(
            f"{what} needs a package that is missing ({error}): pip install torch transformers"
        ) from None
    except Exception as error:
        raise WeightsError(
            f"the weights of {what} could not be read from {source} ({first_line(error)}): give a folder that holds "
            f"them, such as what `hf download {example}` writes"
        ) from None


def device_of(name: str | None) -> Any:
    """The device by name; None: an accelerator if there is one."""
    import torch

    try:
        if name is not None:
            return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise WeightsError(f"--device {name} cannot be used: {first_line(error)}") from None
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def _named(source: str) -> str:
    """How the weights are named in the result: a folder by its last part, without the way to it on this machine."""
    return Path(source).resolve().name if Path(source).is_dir() else source


def dino(pictures: list[Picture], source: str, device: str | None) -> tuple[Vectors, str]:
    """[N, D] features of DINOv2, its class token, and the weights' name."""
    with weights_of("DINOv2", source, "facebook/dinov2-base"):
        from transformers import AutoImageProcessor, AutoModel

        processor = AutoImageProcessor.from_pretrained(source)
        model = AutoModel.from_pretrained(source).eval()
    model = model.to(device_of(device))
    return _batched(pictures, processor, model, lambda inputs: model(**inputs).last_hidden_state[:, 0]), _named(source)


def clip(
    pictures: list[Picture], prompt: str | None, source: str, device: str | None
) -> tuple[Vectors, Vectors | None, str]:
    """[N, D] features of CLIP, [D] those of the prompt, and the weights' name."""
    import torch

    with weights_of("CLIP", source, "openai/clip-vit-base-patch32"):
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        processor = AutoImageProcessor.from_pretrained(source)
        model: Any = CLIPModel.from_pretrained(source).eval()
        tokenizer = None if prompt is None else AutoTokenizer.from_pretrained(source)
    model = model.to(device_of(device))
    vectors = _batched(pictures, processor, model, lambda inputs: _tensor(model.get_image_features(**inputs)))
    if tokenizer is None:
        return vectors, None, _named(source)
    longest = model.config.text_config.max_position_embeddings
    words = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=longest).to(model.device)
    with torch.inference_mode():
        text = _tensor(model.get_text_features(**words))
    return vectors, _unit(text.float().cpu().numpy())[0], _named(source)


def _tensor(output: Any) -> Any:
    """Features as a tensor: newer releases of transformers return an object around it."""
    return getattr(output, "pooler_output", output)


def _batched(pictures: list[Picture], processor: Any, model: Any, features: Callable[[Any], Any]) -> Vectors:
    import torch

    found = []
    with torch.inference_mode():
        for start in range(0, len(pictures), _BATCH):
            inputs = processor(images=pictures[start : start + _BATCH], return_tensors="pt").to(model.device)
            found.append(features(inputs).float().cpu().numpy())
    return _unit(np.concatenate(found))


def _unit(vectors: NDArray[np.float32]) -> Vectors:
    wide = vectors.astype(np.float64)
    unit: Vectors = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return unit


def consistency(vectors: Vectors, weights: str) -> Dimension:
    """How much alike pictures are to the one before and to the first, as in VBench (arXiv 2311.17982)."""
    if len(vectors) < 2:
        return Dimension(reason="too short: one picture", weights=weights)
    before = np.clip((vectors[1:] * vectors[:-1]).sum(axis=1), 0, 1)
    first = np.clip(vectors[1:] @ vectors[0], 0, 1)
    value = float(((before + first) / 2).mean())
    return Dimension(value=value, score=100 * value, unit="cosine", weights=weights)


def alignment(vectors: Vectors, text: Vectors, weights: str) -> Dimension:
    """How well the pictures fit the prompt: the mean cosine; its score is CLIPScore."""
    value = float((vectors @ text).mean())
    return Dimension(value=value, score=scores.of_ratio(_CLIP_SCORE * value), unit="cosine", weights=weights)


def loop(vectors: Vectors, rate: float, weights: str) -> Dimension:
    """Pictures whose features, all along a run, are as near to earlier ones as neighbours are to each other.

    It also sees a loop whose pixels differ. It is not calibrated on real clips, so it stands beside the composite.

    Args:
        vectors: [N, D] of length 1. rate: pictures a second.
    """
    least, count = max(_RUN, round(_LEAST_LAG * rate)), len(vectors)
    unit = "share of pictures that repeat earlier ones in features"
    if count < least + _RUN:
        return Dimension(unit=unit, counted=False, reason="too short to repeat anything", weights=weights)
    distance = 1 - vectors @ vectors.T
    near = float(np.median(np.diag(distance, -1)))
    repeated, hits = np.zeros(count, bool), np.zeros(count, int)
    for lag in range(least, count - _RUN + 1):
        same = np.diag(distance, -lag) <= near
        runs = np.convolve(same, np.ones(_RUN), "valid") >= _RUN
        found = np.convolve(runs, np.ones(_RUN)) > 0.5
        repeated[lag:] |= found
        hits[lag] = int(found.sum())
    share = float(repeated.mean())
    lag_seconds = int(hits.argmax()) / rate if repeated.any() else None
    return Dimension(
        value=share, score=scores.of_share(share), unit=unit, counted=False, lag_seconds=lag_seconds, weights=weights
    )
