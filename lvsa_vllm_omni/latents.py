"""Latents on the disk until their video is there: hours of denoising outlive a decoder that runs out of memory."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import count
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
        files: of the running requests, with the request of each.
    """

    folder: Path
    warn: Any
    files: dict[Path, str] = field(default_factory=dict)
    _requests: Sequence[Any] = ()

    def begin(self, requests: Sequence[Any]) -> None:
        """These requests are about to run together."""
        self._requests = [one for one in requests if not getattr(one, "is_dummy_run", bool)()]
        self.files = {}

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
                remedy = "; ".join(
                    f"lvsa decode {shlex.quote(str(file))} --model MODEL -o {file.stem}.mp4" for file in written
                )
                error.args = (f"{error}; its latents are kept, decode them later: {remedy}",)
            raise

    def end(self, failed: Collection[str]) -> None:
        """The requests are decoded, but for those that have failed: their files stay."""
        for file, request in self.files.items():
            if request not in failed:
                file.unlink(missing_ok=True)
        self.files, self._requests = {}, ()

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
                self.files[written[-1]] = str(getattr(request, "request_id", ""))
        except Exception as problem:  # whatever it is, the video is made
            self.warn(str(self.folder), problem)
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
        file = self._own(re.sub(r"[^\w-]", "_", name)[:120])
        draft = file.with_suffix(".part")
        try:
            save_file({LATENTS: latents.detach().cpu().contiguous()}, draft, {ABOUT: json.dumps(about)})
            os.replace(draft, file)
        except BaseException:
            for part in (draft, file):
                part.unlink(missing_ok=True)
            raise
        return file

    def _own(self, stem: str) -> Path:
        """A new file that is ours: other processes may share the folder, and a request may be decoded in parts."""
        for number in count(1):
            file = self.folder / (f"{stem}.safetensors" if number == 1 else f"{stem}-{number}.safetensors")
            with suppress(FileExistsError):
                file.touch(exist_ok=False)
                return file
        raise AssertionError


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
