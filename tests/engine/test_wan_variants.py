"""Wan's other pipelines: VACE, whose transformer is a subclass with blocks of its own, and DMD with its few steps."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import start
from torch import Tensor

from lvsa_core import Pattern, TokenLayout, attend, reference_attend
from lvsa_vllm_omni import hooks, scope

LONG = 97  # video frames of 25 latent frames; the training horizon is 21


@pytest.fixture
def offsets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Offset of the anchors in each sparse call, which is compared with the reference."""
    seen: list[int] = []

    def both(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, **more: Any) -> Tensor:
        out, expected = (f(q, k, v, pattern, layout, **more) for f in (attend, reference_attend))
        torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3 if q.dtype == torch.float32 else 6e-2)
        seen.append(pattern.offset)
        return out

    monkeypatch.setattr(scope, "attend", both)
    return seen


def variant(checkpoint: Path, folder: Path, pipeline: str) -> Path:
    """The tiny Wan checkpoint under the name of another pipeline."""
    shutil.copytree(checkpoint, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": pipeline}))
    return folder


def test_dmd_takes_few_steps_without_guidance(checkpoint: Path, tmp_path: Path, offsets: list[int]) -> None:
    with start(variant(checkpoint, tmp_path / "dmd", "WanDMDPipeline"), {"LVSA_WAN_HOOK": "1"}) as engine:
        for _ in range(2):
            offsets.clear()
            engine.video(LONG, steps=3, guidance_scale=1.0)
            assert offsets == [step % 2 for step in range(3) for _block in range(2)]


def test_vace(checkpoint: Path, tmp_path: Path, offsets: list[int]) -> None:
    """Its own blocks attend to the video in the same order, and are sparse too."""
    from diffusers import WanVACETransformer3DModel

    folder = variant(checkpoint, tmp_path / "vace", "WanVACEPipeline")
    config = json.loads((folder / "transformer" / "config.json").read_text())
    shared = {name: value for name, value in config.items() if not name.startswith("_")}
    torch.manual_seed(0)
    shutil.rmtree(folder / "transformer")
    WanVACETransformer3DModel(**shared, vace_layers=[0], vace_in_channels=96).save_pretrained(folder / "transformer")
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"][1] = "WanVACETransformer3DModel"
    (folder / "model_index.json").write_text(json.dumps(index))
    with start(folder, {"LVSA_WAN_HOOK": "1"}) as engine:
        (transformer,) = engine.transformers
        assert type(transformer).__name__ == "WanVACETransformer3DModel"
        engine.video(LONG, steps=3)
        assert offsets == [step % 2 for step in range(3) for _call in range(2 * 3)]  # branches, blocks and VACE's own
        offsets.clear()
        engine.video(17, steps=1)
        assert not offsets


def test_speech_to_video_is_no_part_of_the_family() -> None:
    """Its sequence holds a reference frame and motion tokens behind the video: it keeps the engine's attention."""
    from vllm_omni.diffusion.models.wan2_2 import wan2_2_s2v_transformer as s2v
    from vllm_omni.diffusion.models.wan2_2.wan2_2_transformer import WanTransformer3DModel

    classes = [thing for thing in vars(s2v).values() if isinstance(thing, type) and thing.__module__ == s2v.__name__]
    assert "a reference frame and motion tokens" in hooks.dense_reason({cls.__name__ for cls in classes})
    assert not any(issubclass(cls, WanTransformer3DModel) for cls in classes)
    assert not {cls.__name__ for cls in classes} & set(hooks.WAN.attention)
