"""What only HunyuanVideo has: a mask over the text, and a transformer of the engine that holds no configuration."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvsa_core import attend
from lvsa_vllm_omni import presets
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint
from tests.support.attended import replace_attend
from tests.support.engine import start
from tests.support.families import FAMILIES
from tests.support.log import Log


def test_a_mask_is_the_dense_attentions(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipelines trim their text and send none; a call that has one is honoured, and it is said."""
    from vllm_omni.diffusion.models.hunyuan_video.hunyuan_video_15_transformer import HunyuanVideo15Attention

    forward, family = HunyuanVideo15Attention.forward, FAMILIES["hunyuan"]
    signature, sparse = inspect.signature(forward), []

    def masked(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(self, *args, **kwargs)
        text = given.arguments["encoder_hidden_states"]
        mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        mask[:, -1] = False
        given.arguments["attention_mask"] = mask
        return forward(*given.args, **given.kwargs)

    monkeypatch.setattr(HunyuanVideo15Attention, "forward", masked)
    replace_attend(monkeypatch, lambda *given, **more: sparse.append(1) or attend(*given, **more))
    folder = write_checkpoint("hunyuan", tmp_path / "hunyuan")
    with start(folder, {}, **family.options) as engine:
        plain = engine.video(family.long, steps=1)
    with start(folder, {family.hook: "1"}, **family.options) as engine:
        assert np.array_equal(engine.video(family.long, steps=1), plain)
    assert not sparse
    assert log.starting("[LVSA-FALLBACK] origin=attention reason=mask")


def test_a_preset_for_its_configuration(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `lvsa show --model` chooses it: by the checkpoint's file, which the engine's transformer does not keep."""
    shipped, family = presets.known_presets("hunyuan"), FAMILIES["hunyuan"]
    usual = shipped["hunyuan-video-1.5"]
    ours = {
        f"of-{layers}": usual.model_copy(
            update={"name": f"of-{layers}", "match": {**usual.match, "num_layers": layers}}
        )
        for layers in (2, 54)
    }
    monkeypatch.setattr(presets, "known_presets", lambda family=None: {**shipped, **ours})
    with start(write_checkpoint("hunyuan", tmp_path / "hunyuan"), {family.hook: "1"}, **family.options):
        (line,) = log.starting("[LVSA] hooked")
    assert " preset=of-2 " in line
