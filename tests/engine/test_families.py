"""Every family on the real engine: the same video as the reference attention's, the plain engine's, and its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lvsa_core import attend, keyframe_interval, memory, reference_attend
from lvsa_vllm_omni import scope
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint
from tests.support.attended import Attended, Call, replace_attend
from tests.support.engine import ROUNDING, VISIBLE, start
from tests.support.families import FAMILIES, Family, latent
from tests.support.log import MEMORY_LINE, TIME_LINE, Log, steps

SIZES = ((96, 64), (64, 128))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(family.kind, tmp_path_factory.mktemp("checkpoint") / family.kind)


def short(family: Family) -> dict[Any, dict[str, Any]]:
    """Requests within the training length; of the family that is looked at closest also a picture and another size."""
    requests: dict[Any, dict[str, Any]] = {count: {"frames": count} for count in (17, family.horizon)}
    if family.others:
        requests |= {1: {"frames": 1}, "wide": {"frames": family.horizon, "size": SIZES[1], "guidance_scale": 1.0}}
    return {name: {**request, **family.request()} for name, request in requests.items()}


@pytest.fixture(scope="module")
def plain(family: Family, folder: Path) -> dict[Any, np.ndarray]:
    """What the engine makes with the plugin installed and no setting."""
    with start(folder, {}, **family.options) as engine:
        videos = {frames: engine.denoised(frames, **family.request()) for frames in {family.long, *family.others}}
        return videos | {name: engine.denoised(**request) for name, request in short(family).items()}


@pytest.fixture(scope="module")
def engine(family: Family, folder: Path, plain: Any) -> Iterator[Any]:
    settings = {family.hook: "1", "LVSA_MEM_LOG": "1", "LVSA_STEP_TIME_LOG": "1", "LVSA_MASK_LOG": "once"}
    with start(folder, settings, **family.options) as running:
        yield running


@pytest.mark.oldest
def test_every_call_is_the_reference_attention(
    engine: Any, family: Family, plain: dict[Any, np.ndarray], attended: list[Attended]
) -> None:
    for frames in sorted({family.long, *family.others}):
        attended.clear()
        video = engine.denoised(frames, **family.request())
        assert len(video) == len(plain[frames]) == latent(frames)
        assert len(attended) == 3 * 2 * family.blocks  # steps, branches of guidance, blocks
        assert np.abs(video - plain[frames]).max() > VISIBLE
        patches = (64 // family.latent_pixels) ** 2
        for call in attended:
            assert (call.layout.grid.frames, call.layout.grid.patches) == (latent(frames), patches)


@pytest.mark.oldest
def test_the_video_is_the_reference_attentions(engine: Any, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = engine.denoised(family.long, **family.request())
    replace_attend(monkeypatch, reference_attend)
    slow = engine.denoised(family.long, **family.request())
    assert np.abs(fast - slow).max() < ROUNDING + (1.5 / 255 if family.text == "behind" else 0)  # 8 bits


@pytest.mark.oldest
def test_is_the_plain_engine_within_the_training_horizon(
    engine: Any, family: Family, plain: dict[Any, np.ndarray], attended: list[Attended]
) -> None:
    for name, request in short(family).items():
        assert np.array_equal(engine.denoised(**request), plain[name]), name
    assert not attended


@pytest.mark.oldest
def test_repeats_itself_whatever_ran_in_between(engine: Any, family: Family) -> None:
    first = engine.denoised(family.long, **family.request())
    assert np.array_equal(engine.denoised(family.long, **family.request()), first)
    engine.denoised(family.longer, steps=2, **family.request())
    engine.denoised(17, size=(96, 64), **family.request())
    assert np.array_equal(engine.denoised(family.long, **family.request()), first)
    assert not np.array_equal(engine.denoised(family.long, seed=7, **family.request()), first)


@pytest.mark.oldest
@pytest.mark.parametrize("guidance", [4.0, 1.0], ids=["guided", "unguided"])
def test_the_anchors_rotate_with_the_step(
    engine: Any, family: Family, attended: list[Attended], guidance: float
) -> None:
    interval = keyframe_interval(latent(family.longer), reference_frames=latent(family.horizon))
    assert interval >= 2
    for _ in range(2):  # the second request starts at step 0 again
        attended.clear()
        engine.denoised(family.longer, steps=5, guidance_scale=guidance, **family.request())
        a_step = family.blocks * (2 if guidance > 1 else 1)
        assert len(attended) == 5 * a_step
        assert [call.pattern.offset for call in attended] == [i // a_step % interval for i in range(5 * a_step)]
        if attended[0].step is not None:  # the pipeline publishes it
            assert [call.step for call in attended] == [i // a_step for i in range(5 * a_step)]


def test_a_request_that_fails_leaves_nothing_behind(
    engine: Any, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = engine.denoised(family.long, **family.request())
    left = iter(range(2 * family.blocks + 1))  # into the second step, or the second branch

    def broken(*given: Any, **more: Any) -> Any:
        if next(left, None) is None:
            raise KeyError("broken on purpose")
        return attend(*given, **more)

    with monkeypatch.context() as patch:
        replace_attend(patch, broken)
        engine.submit("broken", family.long, **family.request())
        assert "broken on purpose" in str(engine.outcomes({"broken"})["broken"])
    assert np.array_equal(engine.denoised(family.long, **family.request()), first)


def test_the_video_where_memory_is_short(
    engine: Any, family: Family, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """As many heads at a time as fit what is free at the first step; a line in each request."""
    allowed = ROUNDING + (1.5 / 255 if family.text == "behind" else 0)  # 8 bits
    expected = engine.denoised(family.long, **family.request())
    assert not log.starting("[LVSA] attention works in")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0.0)
    for _ in range(2):
        assert np.abs(engine.denoised(family.long, **family.request()) - expected).max() < allowed
    lines = log.starting("[LVSA] attention works in")
    assert lines and all(" groups of heads " in line and line.endswith("0 GB may be used") for line in lines)
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]


def test_text_is_where_the_family_says(engine: Any, family: Family, attended: list[Attended]) -> None:
    """Its length differs between prompts, and between the two branches of guidance."""
    lengths: list[set[int]] = []
    for prompt in ("a cat", "a cat on a mat, and a dog that looks at it from behind the old red door"):
        attended.clear()
        engine.denoised(family.long, steps=1, prompt=prompt, **family.request())
        layouts = [call.layout for call in attended]
        assert layouts
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


def test_timesteps(engine: Any, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """TI2V-5B with an image has one for each token, and they tell the step like those of a video."""
    shapes: set[int] = set()
    plan = scope.Scope._plan

    def noted(self: Any, transformer: Any, arguments: Any, request: Any) -> Any:
        shapes.add(arguments["timestep"].dim())
        return plan(self, transformer, arguments, request)

    monkeypatch.setattr(scope.Scope, "_plan", noted)
    engine.denoised(family.long, steps=2, **family.request())
    assert shapes == {2 if family.kind == "wan-ti2v" else 1}


@pytest.mark.oldest
def test_the_grid_is_the_requests(engine: Any, family: Family, calls: list[Call]) -> None:
    lengths = sorted({family.long, *family.others})
    cases = [(frames, size, 4.0) for frames in lengths for size in SIZES]
    cases += [(frames, family.sizes["odd"], 1.0) for frames in lengths]
    for frames, size, guidance in cases:
        calls.clear()
        engine.denoised(frames, size=size, steps=1, guidance_scale=guidance, **family.request())
        patches = size[0] // family.latent_pixels * (size[1] // family.latent_pixels)
        assert len(calls) == family.blocks * (2 if guidance > 1 else 1)
        assert {(call.frames, call.patches) for call in calls} == {(latent(frames), patches)}
        if family.text != "behind":
            assert {call.queries for call in calls} == {latent(frames) * patches}
        interval = keyframe_interval(latent(frames), reference_frames=latent(family.horizon))
        assert {call.interval for call in calls} == {interval}


@pytest.mark.oldest
def test_the_length_changes_from_request_to_request(engine: Any, family: Family, calls: list[Call]) -> None:
    for frames in (family.longer, family.long, 17, family.longer, family.long):
        calls.clear()
        engine.denoised(frames, steps=1, **family.request())
        assert {call.frames for call in calls} == (set() if frames == 17 else {latent(frames)})
        assert {call.offset for call in calls} <= {0}


def test_log(engine: Any, family: Family, log: Log) -> None:
    video = engine.video(family.long, steps=4, **family.request())  # both transformers of A14B
    assert video.shape == (family.long, 64, 64, 3) and video.std() > 0.01
    installed = log.starting("[LVSA] installed on")
    assert len(installed) == family.transformers  # once a request each
    for line in installed:
        assert line.endswith(f"family={family.hook.split('_')[1].lower()}")
        assert f"total_lat_frames={latent(family.long)} " in line and f"on {family.blocks} blocks" in line
    assert steps(TIME_LINE, log.starting("[LVSA-TIME]")) == steps(MEMORY_LINE, log.starting("[LVSA-MEM]")) == "0123"
    assert len(log.starting("[LVSA-MASK]")) >= 1
    for line in log.starting("[LVSA-MASK]"):
        head, *rows = line.splitlines()
        assert head.startswith("[LVSA-MASK] step=") and {*"".join(rows)} == {*"GWX."}
    assert not log.starting("[LVSA-FALLBACK]")
