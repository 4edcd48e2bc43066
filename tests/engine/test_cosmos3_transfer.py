"""Cosmos 3 after control videos, by the pipeline's own transfer: in chunks, and with guidance by the controls."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint
from tests.support.attended import Attended
from tests.support.engine import start
from tests.support.families import FAMILIES
from tests.support.log import Log

FAMILY = FAMILIES["cosmos3"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """LVSA by name, which begins while the model is built; chunks of 9 latent frames are beyond the horizon."""
    folder = write_checkpoint("cosmos3", tmp_path_factory.mktemp("checkpoint") / "cosmos3")
    knobs = {"REFERENCE_LATENT_FRAMES": "4", "WINDOW_SIZE": "4", "AUTO_KEYFRAMES": "0", "KEY_FRAME_INTERVAL": "12"}
    settings = {f"LVSA_{name}": value for name, value in knobs.items()}
    by_name = {"per_role": {"self": {"backend": "LVSA"}}}
    with start(folder, settings, diffusion_attention_config=by_name, **FAMILY.options) as running:
        yield running


@pytest.mark.parametrize(("hints", "chunks"), [(("depth",), 2), (("depth", "seg"), 1)])
def test_transfer_in_chunks(
    engine: Any, attended: list[Attended], log: Log, hints: tuple[str, ...], chunks: int
) -> None:
    """By the pipeline itself: three branches of guidance, one without controls, all sparse; each chunk from step 0."""
    control = np.random.default_rng(7).integers(0, 255, (1 + 32 * chunks, 192, 320, 3), dtype=np.uint8)
    options = {"num_video_frames_per_chunk": 33, "control_guidance": 2.0, "resolution": "256"}
    engine.video(len(control), steps=2, extra_args={**{hint: {"control": control} for hint in hints}, **options})
    calls = [(call.pattern.offset, call.layout.q_before > 0) for call in attended]
    patches = attended[0].layout.grid.patches
    assert {call.layout.grid.frames for call in attended} == {9}
    assert {call.layout.q_before for call in attended} == {0, 9 * patches}
    full = [True] * FAMILY.blocks * len(hints)
    branches = [*full, *[False] * FAMILY.blocks, *full]
    assert calls == [(step, beside) for _chunk in range(chunks) for step in range(2) for beside in branches]
    assert len(log.starting("[LVSA] installed on")) == chunks
