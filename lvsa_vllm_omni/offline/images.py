"""The images of a prompt: read before the engine starts, known by their content."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Pipelines as model_index.json names them that make no video without an image.
NEEDS_ONE = frozenset({"WanImageToVideoPipeline", "WanI2VDMD2Pipeline", "HunyuanVideo15ImageToVideoPipeline"})
#: Those that would not look at one, the Wan ones unless their index says `expand_timesteps`, as that of TI2V-5B does.
TEXT_ALONE = frozenset({"WanPipeline", "WanDMDPipeline", "WanT2VDMD2Pipeline", "HunyuanVideo15Pipeline"})
#: Those that take several.
REFERENCES = frozenset({"WanVACEPipeline"})


@dataclass(frozen=True)
class ImageFile:
    """An image on the disk.

    Args:
        path: of its file.
        sha256: of the file's bytes, in hex digits.
    """

    path: Path
    sha256: str

    @classmethod
    def read(cls, path: Path) -> ImageFile:
        """Look at a file.

        Raises:
            ValueError: it cannot be read, or is no image.
        """
        data = _bytes(path)
        _decoded(path, data)
        return cls(path, hashlib.sha256(data).hexdigest())

    def load(self) -> Any:
        """The PIL image in RGB, as the engine makes it of a file.

        Raises:
            ValueError: the file cannot be read any more, or holds something else now.
        """
        data = _bytes(self.path)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ValueError(f"{self.path}: the image has changed since the batch began")
        return _decoded(self.path, data)


def check_number(pipeline: str, index: Mapping[str, Any], images: int) -> None:
    """Refuse a number of images that a pipeline of the engine cannot use; one that is not known here may take any.

    Args:
        pipeline: its class, as model_index.json names it. index: of the checkpoint.

    Raises:
        ValueError: too few or too many.
    """
    if pipeline in NEEDS_ONE and not images:
        raise ValueError(f"{pipeline} makes a video from an image: name it with --image, or as image in a JSON line")
    if pipeline in TEXT_ALONE and images and not index.get("expand_timesteps"):
        raise ValueError(f"{pipeline} makes a video from text alone: leave the image out")
    if images > 1 and pipeline not in REFERENCES:
        raise ValueError(f"{pipeline} takes one image, and there are {images}")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot read the image: {error.strerror or error}") from None


def _decoded(path: Path, data: bytes) -> Any:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except Exception as error:  # what a decoder raises depends on the format
        reason = "it is in no format that PIL knows" if isinstance(error, Image.UnidentifiedImageError) else error
        raise ValueError(f"{path}: cannot read the image: {reason}") from None
