"""One video of a batch: all that decides it, the name of its files, and whether it is finished."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lvsa_vllm_omni.offline.images import ImageFile


@dataclass(frozen=True)
class VideoSettings:
    """All that decides a video. Sizes in pixels, `frames` in video frames; None: the engine's own default.

    `backend` is LVSA's kernel, or "dense" for the baseline without LVSA; `lvsa` the LVSA settings that differ from
    their defaults; `plan` what `lvsa_core.decide.decide` gets of them and of the preset, None for the baseline;
    `engine` further arguments of the engine; `request` the knobs of LVSA that this video brings. Where the engine keeps
    its weights and whether it compiles do not belong here.
    """

    model: str
    family: str
    preset: str
    prompt: str
    negative_prompt: str | None
    seed: int
    frames: int
    height: int
    width: int
    steps: int | None
    guidance: float | None
    fps: float
    flow_shift: float | None
    backend: str
    lvsa: Mapping[str, Any]
    plan: Mapping[str, Any] | None
    engine: Mapping[str, Any]
    images: tuple[ImageFile, ...] = ()
    request: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The settings as they are read back from JSON (tuples become lists), to be compared with a record.

        Images are their content's SHA-256, as the same image may lie elsewhere. Without images or knobs of the video's
        own these keys are left out.
        """
        settings = asdict(self)
        del settings["images"]
        if not self.request:
            del settings["request"]
        if self.images:
            settings["images"] = [image.sha256 for image in self.images]
        result: dict[str, Any] = json.loads(json.dumps(settings))
        return result

    def digest(self) -> str:
        """Eight hex digits that change with every setting."""
        canonical = json.dumps(self.as_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:8]


@dataclass(frozen=True)
class Job:
    """One video to make: `<name>.mp4` and `<name>.json` in a folder."""

    name: str
    settings: VideoSettings

    @classmethod
    def numbered(cls, index: int, settings: VideoSettings) -> Job:
        """Name a video by its place in the batch, its prompt's words and a digest of its settings."""
        return cls(f"{index:03d}-{slug(settings.prompt)}-{settings.digest()}", settings)

    def video(self, folder: Path) -> Path:
        """The mp4 of this video."""
        return folder / f"{self.name}.mp4"

    def record(self, folder: Path) -> Path:
        """The JSON beside the mp4. It is written last, so it says that the video is finished."""
        return folder / f"{self.name}.json"


def slug(text: str, length: int = 40) -> str:
    """The words of a prompt as a part of a file name: ASCII letters and digits, at most `length` characters."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii").lower()
    words = "-".join(re.findall(r"[a-z0-9]+", plain))
    if len(words) > length:
        words = words[: length + 1].rpartition("-")[0] or words[:length]
    return words or "video"


def is_finished(job: Job, folder: Path) -> bool:
    """Whether both files of a video are there and its record tells exactly these settings."""
    try:
        record = json.loads(job.record(folder).read_text(encoding="utf-8"))
        size = job.video(folder).stat().st_size
    except (OSError, ValueError):
        return False
    return size > 0 and isinstance(record, dict) and record.get("settings") == job.settings.as_json()
