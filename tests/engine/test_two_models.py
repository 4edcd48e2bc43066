"""Several models in one process: each has its preset, its scope and its counts."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvsa_core import keyframe_interval
from lvsa_vllm_omni import compat, journal, seam
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint
from tests.support.attended import before_calls
from tests.support.engine import Engine, options_of, start, warm_up_of
from tests.support.families import FAMILIES

LONG = 97  # video frames of 25 latent frames: past Wan's horizon of 21


@pytest.fixture
def by_scope(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int, int, int]]:
    """Scope, step, offset and interval of each sparse attention call."""
    seen = []

    def note(forward: Any, *_: Any) -> None:
        step = compat.forward_context().denoise_step_idx
        seen.append((forward.scope, step, forward.pattern.offset, forward.pattern.keyframe_interval))

    before_calls(monkeypatch, note)
    return seen


def scopes(kind: type) -> list[Any]:
    """Scopes of the transformers of a class that are alive."""
    gc.collect()
    found = [seam.scope_of(thing) for thing in gc.get_objects() if isinstance(thing, kind)]
    return [each for each in found if each is not None]


def test_one_engine_after_another(checkpoint: Path, tmp_path: Path, by_scope: list[Any]) -> None:
    """Wan, HunyuanVideo 1.5, a wider Wan, and the first again, in a process that loads its plugins once."""
    from vllm_omni import Omni
    from vllm_omni.diffusion.models.hunyuan_video.hunyuan_video_15_transformer import HunyuanVideo15Transformer3DModel
    from vllm_omni.diffusion.models.wan2_2.wan2_2_transformer import WanTransformer3DModel

    hunyuan = write_checkpoint("hunyuan", tmp_path / "hunyuan")
    wide = write_checkpoint("wan", tmp_path / "wide", seed=1, layers=3, heads=2, head_dim=64)
    family = FAMILIES["hunyuan"]
    videos, sparse = {}, {}
    models = {
        "first": (checkpoint, WanTransformer3DModel, LONG, {}),
        "hunyuan": (hunyuan, HunyuanVideo15Transformer3DModel, family.long, family.options),
        "wide": (wide, WanTransformer3DModel, LONG, {}),
        "again": (checkpoint, WanTransformer3DModel, LONG, {}),
    }
    wanted = {"first": ("wan", 2, 21), "hunyuan": ("hunyuan-video-1.5", family.blocks, 33), "wide": ("wan", 3, 21)}
    wanted["again"] = wanted["first"]
    with start(checkpoint, {"LVSA_ENABLE": "1", "LVSA_STRICT": "1"}) as first:
        for name, (folder, kind, frames, options) in models.items():
            if name == "first":
                omni = first.omni
            else:
                with warm_up_of(False):
                    omni = Omni(model=str(folder), **options_of(options))
            try:
                by_scope.clear()
                journal.counts.clear()
                alive = {other: scopes(other) for other in (HunyuanVideo15Transformer3DModel, WanTransformer3DModel)}
                own = alive.pop(kind)
                assert [(each.preset.name, each.blocks, each.arguments["reference_frames"]) for each in own] == [
                    wanted[name]
                ]
                assert not any(alive.values())
                videos[name] = Engine(omni).video(frames)
                assert {each[0] for each in by_scope} == set(own)
                assert len(by_scope) == 3 * 2 * own[0].blocks
                assert journal.counts["request:sparse"] == 1
                sparse[name] = [each[1:] for each in by_scope]
            finally:
                omni.close()
    assert np.array_equal(videos["first"], videos["again"]) and sparse["first"] == sparse["again"]
    assert np.abs(videos["first"] - videos["wide"]).max() > 0.02


def test_two_transformers_in_one_request(tmp_path: Path, by_scope: list[Any]) -> None:
    """Wan 2.2 A14B hands over from one transformer to the other: two scopes, one count of steps."""
    folder = write_checkpoint("wan-a14b", tmp_path / "a14b")
    from vllm_omni.diffusion.models.wan2_2.wan2_2_transformer import WanTransformer3DModel

    with start(folder, {"LVSA_WAN_HOOK": "1", "LVSA_STRICT": "1"}) as engine:
        found = scopes(WanTransformer3DModel)
        assert len(found) == 2 and [each.blocks for each in found] == [2, 2]
        layers = [block.attn1.attn.attention for model in engine.transformers for block in model.blocks]
        assert {layer.scope for layer in layers} == {*found} and len({id(layer.dense) for layer in layers}) == 4
        steps = 8
        for _ in range(2):
            by_scope.clear()
            journal.counts.clear()
            engine.video(161, steps=steps)
            users = {step: {each[0] for each in by_scope if each[1] == step} for step in range(steps)}
            assert all(len(user) == 1 for user in users.values())
            order = [user.pop() for user in users.values()]
            handover = order.index(order[-1])
            assert 0 < handover < steps
            assert order == [order[0]] * handover + [order[-1]] * (steps - handover) and order[0] is not order[-1]
            interval = keyframe_interval(41, reference_frames=21)
            assert [each[1:] for each in by_scope] == [
                (step, step % interval, interval) for step in range(steps) for _ in range(2 * 2)
            ]
            assert not any(each.sparse for each in found)
