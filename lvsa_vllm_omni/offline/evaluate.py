"""VQeval's result in the JSON of a video: `--evaluate` of the examples."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from lvsa_vllm_omni.offline.files import write_json

#: What VQeval needs besides what the examples need anyway; the extra `vqeval` brings all of it.
PACKAGES = ("vqeval", "cv2", "av")
HELP = "measure freezes, loops and more, and write the result into the JSON; warn of a loop or a freeze"


def missing_packages() -> list[str]:
    """Which of its packages are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def evaluated(video: Path) -> tuple[dict[str, Any], list[str]]:
    """VQeval's result of a video as it stands in the JSON, and the sentences to warn with.

    A video that cannot be judged has an ``error`` instead; it is finished all the same.
    """
    from vqeval import VideoError, evaluate

    try:
        result = evaluate(video)
    except VideoError as error:
        return {"error": str(error)}, [f"the video could not be judged: {error}"]
    found: dict[str, Any] = json.loads(result.model_dump_json())
    # The record lies beside the video, and both may be moved together.
    found["video"]["path"] = video.name
    return found, [f"the video {alarm}" for alarm in result.alarms]


def add_to_record(video: Path, record: Path) -> list[str] | None:
    """Evaluate a finished video whose record has no result yet; returns the warnings, None if it has one."""
    made = json.loads(record.read_text(encoding="utf-8"))
    if "vqeval" in made:
        return None
    made["vqeval"], warnings = evaluated(video)
    write_json(record, made)
    return warnings
