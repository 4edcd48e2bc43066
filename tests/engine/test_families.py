"""Every family on the real engine: the same video as the reference attention's, the plain engine's, and its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import start
from families import FAMILIES, Family, latent
from lvsa_log import Log
from test_batching import MEMORY_LINE, TIME_LINE, outcomes, steps, submit
from torch import Tensor

from lvsa_core import Pattern, TokenLayout, attend, keyframe_interval, reference_attend
from lvsa_vllm_omni import scope
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

#: Of one attention call, in float32, and on an accelerator in bfloat16.
ROUNDING = 6e-2 if torch.accelerator.is_available() else 1e-4


@pytest.fixture(scope="module", params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def family(name: str) -> Family:
    return FAMILIES[name]


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(name, tmp_path_factory.mktemp("checkpoint") / name)


@pytest.fixture(scope="module")
def plain(family: Family, folder: Path) -> dict[int, np.ndarray]:
    """Videos of the engine with the plugin installed and no setting."""
    with start(folder, {}, **family.options) as engine:
        return {frames: engine.video(frames, **family.request()) for frames in (17, family.horizon, family.long)}


@pytest.fixture(scope="module")
def engine(family: Family, folder: Path, plain: Any) -> Iterator[Any]:
    settings = {family.hook: "1", "LVSA_MEM_LOG": "1", "LVSA_STEP_TIME_LOG": "1", "LVSA_MASK_LOG": "once"}
    with start(folder, settings, **family.options) as running:
        yield running


@dataclass(frozen=True)
class Attended:
    """A sparse attention call, and how far it is from the reference."""

    pattern: Pattern
    layout: TokenLayout
    heads: tuple[int, int]
    difference: float


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[Attended]:
    seen: list[Attended] = []

    def both(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, **more: Any) -> Tensor:
        out = attend(q, k, v, pattern, layout, **more)
        expected = reference_attend(q, k, v, pattern, layout, **more)
        difference = (out.float() - expected.float()).abs().max().item() / expected.float().abs().max().item()
        seen.append(Attended(pattern, layout, (q.shape[2], k.shape[2]), difference))
        return out

    monkeypatch.setattr(scope, "attend", both)
    return seen


def test_every_call_is_the_reference_attention(
    engine: Any, family: Family, plain: dict[int, np.ndarray], attended: list[Attended]
) -> None:
    video = engine.video(family.long, **family.request())
    assert video.shape == plain[family.long].shape == (family.long, 64, 64, 3)
    assert len(attended) == 3 * 2 * family.blocks  # steps, branches of guidance, blocks
    assert max(call.difference for call in attended) < ROUNDING
    assert np.abs(video - plain[family.long]).max() > 0.02
    patches = (64 // family.latent_pixels) ** 2
    for call in attended:
        assert (call.layout.grid.frames, call.layout.grid.patches) == (latent(family.long), patches)


@pytest.mark.parametrize("frames", ["short", "horizon"])
def test_is_the_plain_engine_within_the_training_horizon(
    engine: Any, family: Family, plain: dict[int, np.ndarray], attended: list[Attended], frames: str
) -> None:
    count = family.horizon if frames == "horizon" else 17
    assert np.array_equal(engine.video(count, **family.request()), plain[count])
    assert not attended


def test_repeats_itself_whatever_ran_in_between(engine: Any, family: Family) -> None:
    first = engine.video(family.long, **family.request())
    engine.video(family.longer, steps=2, **family.request())
    engine.video(17, size=(96, 64), **family.request())
    assert np.array_equal(engine.video(family.long, **family.request()), first)
    assert not np.array_equal(engine.video(family.long, seed=7, **family.request()), first)


@pytest.mark.parametrize("guidance", [4.0, 1.0], ids=["guided", "unguided"])
def test_the_anchors_rotate_with_the_step(
    engine: Any, family: Family, attended: list[Attended], guidance: float
) -> None:
    interval = keyframe_interval(latent(family.longer), reference_frames=latent(family.horizon))
    assert interval >= 2
    for _ in range(2):  # the second request starts at step 0 again
        attended.clear()
        engine.video(family.longer, steps=5, guidance_scale=guidance, **family.request())
        a_step = family.blocks * (2 if guidance > 1 else 1)
        assert len(attended) == 5 * a_step
        assert [call.pattern.offset for call in attended] == [i // a_step % interval for i in range(5 * a_step)]


def test_a_request_that_fails_leaves_nothing_behind(
    engine: Any, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = engine.video(family.long, **family.request())
    left = iter(range(2 * family.blocks + 1))  # into the second step, or the second branch

    def broken(*given: Any, **more: Any) -> Any:
        if next(left, None) is None:
            raise KeyError("broken on purpose")
        return attend(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(scope, "attend", broken)
        submit(engine, "broken", family.long, **family.request())
        assert "broken on purpose" in str(outcomes(engine, {"broken"})["broken"])
    assert np.array_equal(engine.video(family.long, **family.request()), first)


def test_text_is_where_the_family_says(engine: Any, family: Family, attended: list[Attended]) -> None:
    """Its length differs between prompts, and between the two branches of guidance."""
    lengths: list[set[int]] = []
    for prompt in ("a cat", "a cat on a mat, and a dog that looks at it from behind the old red door"):
        attended.clear()
        engine.video(family.long, steps=1, prompt=prompt, **family.request())
        assert max(call.difference for call in attended) < ROUNDING
        layouts = [call.layout for call in attended]
        if family.text == "behind":
            assert all(x.kv_after == x.q_after > 0 and not x.kv_before + x.q_before for x in layouts)
            lengths.append({x.q_after for x in layouts})
        elif family.text == "keys first":
            assert all(x.kv_before > 0 and not x.q_before + x.q_after + x.kv_after for x in layouts)
            lengths.append({x.kv_before for x in layouts})
        else:
            assert all(not x.kv_before + x.kv_after + x.q_before + x.q_after for x in layouts)
    if lengths:
        assert all(len(of_branches) == 2 for of_branches in lengths)
        assert max(lengths[0]) < max(lengths[1])


def test_timesteps(engine: Any, family: Family, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TI2V-5B with an image has one for each token, and they tell the step like those of a video."""
    shapes: set[int] = set()
    plan = scope.Scope._plan

    def noted(self: Any, transformer: Any, arguments: Any, request: Any) -> Any:
        shapes.add(arguments["timestep"].dim())
        return plan(self, transformer, arguments, request)

    monkeypatch.setattr(scope.Scope, "_plan", noted)
    engine.video(family.long, steps=2, **family.request())
    assert shapes == {2 if name == "wan-ti2v" else 1}


def test_sizes_of_every_request(engine: Any, family: Family, attended: list[Attended]) -> None:
    for size in ((96, 64), (64, 128)):
        attended.clear()
        engine.video(family.long, size=size, steps=1, **family.request())
        patches = size[0] // family.latent_pixels * (size[1] // family.latent_pixels)
        assert {call.layout.grid.patches for call in attended} == {patches}


def test_log(engine: Any, family: Family, log: Log) -> None:
    engine.video(family.long, steps=4, **family.request())  # both transformers of A14B
    lines = [record.getMessage() for record in log.records]

    def starting(text: str) -> list[str]:
        return [line for line in lines if line.startswith(text)]

    installed = starting("[LVSA] installed on")
    assert len(installed) == family.transformers  # once a request each
    for line in installed:
        assert line.endswith(f"family={family.hook.split('_')[1].lower()}")
        assert f"total_lat_frames={latent(family.long)} " in line and f"on {family.blocks} blocks" in line
    assert steps(TIME_LINE, starting("[LVSA-TIME]")) == steps(MEMORY_LINE, starting("[LVSA-MEM]")) == "0123"
    assert len(starting("[LVSA-MASK]")) >= 1
    for line in starting("[LVSA-MASK]"):
        head, *rows = line.splitlines()
        assert head.startswith("[LVSA-MASK] step=") and {*"".join(rows)} == {*"GWX."}
    assert not starting("[LVSA-FALLBACK]")
