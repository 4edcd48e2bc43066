"""On which tiny models the engine has run on the CPU: one row for each model that `lvsa models` lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class CpuRun(NamedTuple):
    """What stands for one model on a CPU.

    Args:
        kinds: of `lvsa tiny-checkpoint`, each of which every test of the engine's families runs.
        tests: functions in the repository that run a variant which only they build, as `file::function`.
        missing: what of the model has not run; empty: nothing.
    """

    kinds: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    missing: str = ""


#: Name of a preset, or title of a model that stays dense -> what has run.
CPU_RUNS: Mapping[str, CpuRun] = {
    "wan2.1-1.3b": CpuRun(("wan",)),
    "wan2.1-14b": CpuRun(("wan", "wan-i2v")),
    "wan2.2-a14b": CpuRun(("wan-a14b",), missing="i2v"),
    "wan2.2-ti2v-5b": CpuRun(("wan-ti2v",)),
    "wan": CpuRun(
        tests=(
            "tests/engine/test_wan_variants.py::test_vace",
            "tests/engine/test_wan_variants.py::test_dmd_takes_few_steps_without_guidance",
        )
    ),
    "Wan 2.2 S2V": CpuRun(tests=("tests/engine/test_speech_to_video.py::test_it_stays_dense",)),
    "hunyuan-video-1.5": CpuRun(("hunyuan", "hunyuan-i2v")),
    "cosmos3": CpuRun(("cosmos3",), missing="Edge"),
}
