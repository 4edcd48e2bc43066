"""The JSON beside a video: what it was made with, how long that took, which pattern was planned, and how it ran."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lvsa_core import Pattern, show
from lvsa_core.decide import decide
from lvsa_vllm_omni.offline.events import ran_record
from lvsa_vllm_omni.offline.jobs import VideoSettings


def video_record(
    settings: VideoSettings,
    latent_frames: int,
    video: Mapping[str, Any],
    timings: Mapping[str, float],
    output: Any,
    events: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """All that is known of one finished video.

    Args:
        settings: what decided it.
        latent_frames: T.
        video: what `write_mp4` returned.
        timings: seconds by name.
        output: the engine's `OmniRequestOutput`: its durations (names and units are the engine's), and its peak memory
            in MiB, what the worker's allocator held of the device at most during this request.
        events: what LVSA counted meanwhile, by the names of its journal; None: nothing is known.
    """
    return {
        "settings": settings.as_json(),
        "digest": settings.digest(),
        "video": dict(video),
        "image_files": [str(image.path) for image in settings.images],
        "pattern": pattern_record(settings, latent_frames),
        "ran": ran_record(events or {}),
        "timings_s": {name: round(seconds, 3) for name, seconds in timings.items()},
        "engine_durations": {name: float(value) for name, value in (output.stage_durations or {}).items()},
        "peak_memory_mib": round(float(output.peak_memory_mb or 0.0), 1) or None,
        "versions": versions(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def pattern_record(settings: VideoSettings, latent_frames: int) -> dict[str, Any] | None:
    """The pattern that is planned for a video as JSON, in latent frames; None for the baseline without LVSA."""
    if settings.plan is None:
        return None
    arguments = settings.plan
    # The pattern of step 0 is the same however many there are.
    pattern, _ = decide(latent_frames, 0, arguments, steps=1, beyond_only=bool(settings.lvsa.get("auto")))
    after = arguments.get("rotate_after", 0.0)
    return {
        "latent_frames": pattern.frames,
        "window": pattern.window,
        "n_first": pattern.n_first,
        "keyframe_interval": pattern.keyframe_interval,
        "anchors_at_step_0": list(pattern.anchors),
        "attended_per_frame": pattern.attended_per_frame,
        "density": round(pattern.density, 4),
        "anchors": show.anchors(pattern, after) or None,
        "rotation": _rotation(pattern, arguments["rotate"], after),
    }


def _rotation(pattern: Pattern, rotate: bool, after: float) -> str:
    if pattern.is_dense:
        return "none: every frame attends to every frame"
    if not rotate:
        return "off: the anchors of step 0 in every denoising step"
    interval = pattern.keyframe_interval
    held = f"after {after:g} of the denoising steps " if after else ""
    return f"{held}the anchors move by one latent frame each denoising step and are back after {interval} steps"


def versions() -> dict[str, str | None]:
    """Versions of what makes a video; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("lvsa-vllm-omni", "vllm", "vllm-omni", "torch", "av"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
