"""Latents on the disk until their video is there: hours of denoising outlive a decoder that runs out of memory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

#: The name of the tensor in a file, and of its description in the file's metadata.
LATENTS, ABOUT = "latents", "lvsa"


class LatentsError(ValueError):
    """A file holds no latents that can be decoded; the message says which, and what it should be."""


@dataclass
class Keeper:
    """Keeps the latents of the requests that are running, as what the decoder is about to get.

    Args:
        folder: where. warn: told once why they cannot be written; the request goes on.

    Attributes:
        files: of the running requests, in the order of their decoding.
    """

    folder: Path
    warn: Any
    files: list[Path] = field(default_factory=list)
    _requests: Sequence[Any] = ()

    def begin(self, requests: Sequence[Any]) -> None:
        """These requests are about to run together."""
        self._requests = [one for one in requests if not getattr(one, "is_dummy_run", bool)()]
        self.files = []

    @contextmanager
    def decoding(self, vae: Any, latents: Tensor) -> Iterator[None]:
        """Around a call of the decoder: an error in it names the files.

        Args:
            latents: [B, channels, T, h, w], with as many videos of each request as of every other.
        """
        written = self._write(vae, latents)
        try:
            yield
        except Exception as error:
            if written:
                remedy = "; ".join(f"lvsa decode {file} --model MODEL -o {file.stem}.mp4" for file in written)
                error.args = (f"{error}; its latents are kept, decode them later: {remedy}",)
            raise

    def end(self, failed: bool) -> None:
        """The requests have their videos, or one of them has failed: then the files stay."""
        if not failed:
            for file in self.files:
                file.unlink(missing_ok=True)
        self.files, self._requests = [], ()

    def _write(self, vae: Any, latents: Tensor) -> list[Path]:
        """Write a file for each request; by the first of the processes of an engine."""
        if not self._requests or (dist.is_available() and dist.is_initialized() and dist.get_rank()):
            return []
        each, rest = divmod(latents.shape[0], len(self._requests))
        parts = latents.split(each) if each and not rest else [latents]
        written = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for request, part in zip(self._requests, parts, strict=False):
                written.append(self._write_one(request, vae, part))
        except Exception as problem:  # whatever it is, the video is made
            self.warn(str(self.folder), problem)
        self.files += written
        return written

    def _write_one(self, request: Any, vae: Any, latents: Tensor) -> Path:
        from safetensors.torch import save_file

        parameters = getattr(request, "sampling_params", None)
        name = str(getattr(request, "request_id", "") or "request")
        about = {
            "request": name,
            "vae": str(getattr(getattr(vae, "config", None), "_class_name", None) or type(vae).__name__),
            "fps": getattr(parameters, "resolved_frame_rate", None) or getattr(parameters, "fps", None),
            "seed": getattr(parameters, "seed", None),
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        stem = re.sub(r"[^\w-]", "_", name)[:120]
        file, number = self.folder / f"{stem}.safetensors", 1
        while file.exists():  # a request that is decoded in parts, or an earlier one of this name
            number += 1
            file = self.folder / f"{stem}-{number}.safetensors"
        draft = file.with_suffix(f".part{os.getpid()}")
        try:
            save_file({LATENTS: latents.detach().cpu().contiguous()}, draft, {ABOUT: json.dumps(about)})
            os.replace(draft, file)
        finally:
            draft.unlink(missing_ok=True)
        return file


def read(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """Latents [B, channels, T, h, w] as the decoder wants them, and what is known of them, from a kept file.

    Raises:
        LatentsError: there is no such file, or it holds something else.
    """
    from safetensors import SafetensorError, safe_open

    wanted = "give a file that LVSA_KEEP_LATENTS has left"
    try:
        with safe_open(path, framework="pt") as file:
            if ABOUT not in (file.metadata() or {}) or LATENTS not in file.keys():  # noqa: SIM118  # no mapping
                raise LatentsError(f"{path} holds no latents of a video; {wanted}")
            latents, about = file.get_tensor(LATENTS), json.loads(file.metadata()[ABOUT])
    except FileNotFoundError:
        raise LatentsError(f"{path}: no such file; {wanted}") from None
    except (OSError, SafetensorError, ValueError) as error:
        if isinstance(error, LatentsError):
            raise
        raise LatentsError(f"{path} cannot be read ({str(error).splitlines()[0]}); {wanted}") from None
    if latents.ndim != 5 or not isinstance(about, dict):
        raise LatentsError(f"{path} holds a tensor of shape {tuple(latents.shape)}, latents have five axes; {wanted}")
    return latents, about
