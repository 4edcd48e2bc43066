"""Wan's other pipelines: VACE, whose transformer is a subclass with blocks of its own, and DMD with its few steps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lvsa_core import FrameGrid, TokenLayout
from lvsa_vllm_omni import hooks
from tests.support.attended import Attended
from tests.support.capabilities import has_pipeline
from tests.support.engine import start
from tests.support.vace import write_vace

LONG = 97  # video frames of 25 latent frames; the training horizon is 21


def variant(checkpoint: Path, folder: Path, pipeline: str) -> Path:
    """The tiny Wan checkpoint under the name of another pipeline."""
    shutil.copytree(checkpoint, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": pipeline}))
    return folder


def test_dmd_takes_few_steps_without_guidance(checkpoint: Path, tmp_path: Path, attended: list[Attended]) -> None:
    if not has_pipeline("WanDMDPipeline"):
        pytest.skip("this engine has no WanDMDPipeline")
    with start(variant(checkpoint, tmp_path / "dmd", "WanDMDPipeline"), {"LVSA_WAN_HOOK": "1"}) as engine:
        for _ in range(2):
            attended.clear()
            engine.video(LONG, steps=3, guidance_scale=1.0)
            assert [call.pattern.offset for call in attended] == [step % 2 for step in range(3) for _block in range(2)]


def test_vace(checkpoint: Path, tmp_path: Path, attended: list[Attended]) -> None:
    """Its own blocks attend to the video too; images that it refers to are no part of the video, and always seen."""
    images = [Image.new("RGB", (64, 64), color) for color in ("black", "white", "red")]
    with start(write_vace(checkpoint, tmp_path / "vace"), {"LVSA_WAN_HOOK": "1"}) as engine:
        (transformer,) = engine.transformers
        assert type(transformer).__name__ == "WanVACETransformer3DModel"
        for references in (0, 1, 3):
            attended.clear()
            video = engine.video(LONG, steps=3, **({"image": images[:references]} if references else {}))
            assert video.shape[0] == LONG
            steps = [step % 2 for step in range(3) for _call in range(2 * 3)]  # branches, blocks and VACE's own
            assert [call.pattern.offset for call in attended] == steps
            layout = TokenLayout(FrameGrid(25, 16), kv_before=16 * references, q_before=16 * references)
            assert {call.layout for call in attended} == {layout}
        attended.clear()
        for references in (0, 3):
            engine.video(81, steps=1, **({"image": images[:references]} if references else {}))
        assert not attended
        # RIFLEx too: the images have positions, but do not make the video longer than the training length.
        asked, slowed = {"steps": 1, "image": images}, {"extra_args": {"lvsa": {"riflex_scale": 2}}}
        same = [np.array_equal(engine.video(n, **asked, **slowed), engine.video(n, **asked)) for n in (81, LONG)]
        assert same == [True, False]


def test_speech_to_video_is_no_part_of_the_family() -> None:
    """Its sequence holds a reference frame and motion tokens behind the video: it keeps the engine's attention."""
    from vllm_omni.diffusion.models.wan2_2 import wan2_2_s2v_transformer as s2v
    from vllm_omni.diffusion.models.wan2_2.wan2_2_transformer import WanTransformer3DModel

    classes = [thing for thing in vars(s2v).values() if isinstance(thing, type) and thing.__module__ == s2v.__name__]
    assert "a reference frame and motion tokens" in hooks.dense_reason({cls.__name__ for cls in classes})
    assert not any(issubclass(cls, WanTransformer3DModel) for cls in classes)
    assert not {cls.__name__ for cls in classes} & set(hooks.WAN.attention)
