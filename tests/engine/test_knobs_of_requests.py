"""Knobs that a request brings: it is the video of a server with these settings, and nobody else's changes.

Tests with engines of their own stand first: there is one engine at a time.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lvsa_core import plan
from lvsa_core.positions import Remap, TemporalAxis
from tests.support.attended import Attended
from tests.support.engine import ROUNDING, VISIBLE
from tests.support.log import Log
from tests.support.way import documented, watch

#: 33 latent frames; the training horizon of this model is 21.
REQUEST: dict[str, Any] = {"frames": 129, "prompt": "a cat on a mat", "seed": 3, "steps": 2}
KNOBS = {
    "sparsity_scale": 0.5, "window_size": 8, "n_first_frames": 8, "rotate_keyframes": False, "expand_window": False,
    "riflex_scale": 1.5,
}  # fmt: skip


def asking(**knobs: Any) -> dict[str, Any]:
    return {**REQUEST, "extra_args": {"lvsa": knobs}}


def test_several_at_once_get_each_their_own(starting: Any, attended: list[Attended]) -> None:
    """Not in one batch, whose calls have one pattern; those that bring the same knobs are in one."""
    asked = {
        "plain": {}, "half": {"sparsity_scale": 0.5}, "half too": {"sparsity_scale": 0.5}, "dense": {"enabled": False},
        "wrong": {"sparsity_scale": -1},
    }  # fmt: skip
    queue = {name: asking(**knobs) if knobs else REQUEST for name, knobs in asked.items()}
    with starting({"LVSA_WAN_HOOK": "1"}, max_num_seqs=5, request_batch_max_wait_ms=1000) as engine:
        alone = {name: engine.video(**request) for name, request in queue.items() if name != "wrong"}
        attended.clear()
        for name, request in queue.items():
            engine.submit(name, **request)
        found = engine.outcomes({*queue})
    assert {call.batch for call in attended} <= {1, 2} and len({call.pattern for call in attended}) == 2 * 2
    assert isinstance(found["wrong"], str) and "sparsity_scale is -1" in found["wrong"]
    for name, video in alone.items():
        assert np.abs(np.asarray(found[name])[0] - video).max() < ROUNDING, name
    assert np.abs(alone["plain"] - alone["half"]).max() > VISIBLE


def test_short_requests_may_ask_for_lvsa_and_servers_may_refuse(starting: Any, attended: list[Attended]) -> None:
    short = {**REQUEST, "frames": 81}
    with starting({"LVSA_AUTO": "1"}) as engine:
        engine.denoised(**short)
        assert not attended
        engine.denoised(**{**short, "extra_args": {"lvsa": {"enabled": True, "sparsity_scale": 0.5}}})
        assert {call.pattern.frames for call in attended} == {21}
    with starting({"LVSA_WAN_HOOK": "1", "LVSA_ALLOW_REQUEST_KNOBS": "0"}) as engine:
        engine.submit("asking", **asking(enabled=False))
        assert "LVSA_ALLOW_REQUEST_KNOBS=0" in str(engine.outcomes({"asking"})["asking"])


def test_a_model_without_riflex_and_one_without_lvsa(tmp_path: Any) -> None:
    from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint
    from tests.support.engine import start
    from tests.support.families import FAMILIES

    family = FAMILIES["cosmos3"]
    folder = write_checkpoint("cosmos3", tmp_path / "cosmos3")
    with start(folder, {"LVSA_COSMOS3_HOOK": "1"}, **family.options) as engine:
        engine.submit("asking", frames=201, extra_args={"lvsa": {"riflex_scale": 2}}, **family.request())
        assert "leave riflex_scale out" in str(engine.outcomes({"asking"})["asking"])
        engine.submit("moved", frames=201, extra_args={"lvsa": {"anchor_positions": "remap"}}, **family.request())
        said = str(engine.outcomes({"moved"})["moved"])
        assert "first channels of each head by time alone, and this cosmos3 is not known as one: leave it out" in said
    with start(folder, {"LVSA_WAN_HOOK": "1"}, **family.options) as engine:
        engine.submit("asking", frames=17, extra_args={"lvsa": {"sparsity_scale": 2}}, **family.request())
        assert "without LVSA" in str(engine.outcomes({"asking"})["asking"])


@pytest.fixture(scope="module")
def set_up(starting: Any) -> tuple[np.ndarray, np.ndarray]:
    """Videos of servers with these settings, and of one without LVSA."""
    settings = {f"LVSA_{name.upper()}": str(value) for name, value in KNOBS.items()}
    with starting({"LVSA_WAN_HOOK": "1", **settings}) as engine:
        own = engine.denoised(**REQUEST)
    with starting() as engine:
        return own, engine.denoised(**REQUEST)


@pytest.fixture(scope="module")
def engine(starting: Any, set_up: Any) -> Iterator[Any]:
    with starting({"LVSA_WAN_HOOK": "1", "LVSA_STRICT": "1"}) as running:
        yield running


def test_a_request_is_the_video_of_a_server_with_its_settings(
    engine: Any, set_up: tuple[np.ndarray, np.ndarray], attended: list[Attended]
) -> None:
    own, dense = set_up
    plain = engine.denoised(**REQUEST)
    attended.clear()
    assert np.array_equal(engine.denoised(**asking(**KNOBS)), own)
    pattern = plan(33, reference_frames=21, window=2, n_first=2, sparsity_scale=0.5, rotate=False, expand_window=False)
    assert {call.pattern for call in attended} == {pattern} and attended
    unslowed = engine.denoised(**asking(**{**KNOBS, "riflex_scale": 1}))
    assert not np.array_equal(unslowed, own) and not np.array_equal(unslowed, plain)
    assert np.abs(plain - own).max() > VISIBLE
    attended.clear()
    assert np.array_equal(engine.denoised(**asking(enabled=False)), dense) and not attended
    assert np.array_equal(engine.denoised(**REQUEST), plain)


def test_the_recipe_of_a_request(engine: Any, attended: list[Attended], log: Log) -> None:
    """Anchors are at other positions, boosted, and stand still for 60 % of five steps; nobody else's are."""
    five = {**REQUEST, "steps": 5}
    plain = engine.denoised(**five)
    attended.clear()
    log.records.clear()
    video = engine.denoised(**{**five, "extra_args": {"lvsa": {"recipe": "long"}}})
    patterns = {call.step: call.pattern for call in attended}
    assert [patterns[step].offset for step in range(5)] == [0, 0, 0, 0, 1]
    assert {(p.window, p.bias, p.grouping) for p in patterns.values()} == {(4, 1.0, (2, 2))}
    assert {p.remap for p in patterns.values()} == {Remap(21, TemporalAxis.of(12, 1e4))}
    line = log.starting("[LVSA] total_lat_frames=33")[0]
    assert line.endswith("anchor_positions=remap group=2 shift=2 anchor_boost=1 rotate_after=0.6")
    short = {**five, "frames": 81}
    assert np.array_equal(engine.denoised(**short, extra_args={"lvsa": {"recipe": "long"}}), engine.denoised(**short))
    assert np.abs(video - plain).max() > VISIBLE
    assert np.array_equal(engine.denoised(**five), plain)


def test_the_way_to_the_kernel(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one that docs/architecture.md lists: from the engine's call of the transformer in eight functions."""
    rows, ways = documented("In vLLM-Omni"), watch(monkeypatch)
    engine.denoised(**REQUEST)
    assert len(rows) == 8 and ways and {len(row) for row in rows} == {1}
    inside = [name for row in rows for name in row if name not in ("call", "_plan")]  # these two have returned
    assert {tuple(way[way.index("__call__") :]) for way in ways} == {tuple(inside)}


def test_a_request_whose_steps_nobody_tells(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anchors that are to stand still for a share of the steps: refused, where the request is sparse, for it alone."""
    plain = engine.denoised(**REQUEST)
    monkeypatch.setattr("lvsa_vllm_omni.step.steps", lambda request: None)
    asked, short = {"extra_args": {"lvsa": {"rotate_after": 0.5}}}, {**REQUEST, "frames": 81}
    engine.submit("asking", **REQUEST, **asked)
    assert "lvsa.rotate_after needs the number of denoising steps" in str(engine.outcomes({"asking"})["asking"])
    assert np.array_equal(engine.denoised(**short, **asked), engine.denoised(**short))
    assert np.array_equal(engine.denoised(**REQUEST), plain)


@pytest.mark.parametrize("bad", [{"sparsity": 1}, {"window_size": -4}, {"enabled": "perhaps"}, [1]])
def test_a_bad_knob_fails_its_request_before_any_step(
    engine: Any, attended: list[Attended], log: Log, bad: Any
) -> None:
    before = engine.denoised(**REQUEST)
    attended.clear()
    log.records.clear()
    engine.submit("bad", **{**REQUEST, "extra_args": {"lvsa": bad}})
    said = engine.outcomes({"bad"})["bad"]
    assert isinstance(said, str) and "extra_params.lvsa" in said and not attended
    assert not log.starting("[LVSA] ")
    assert np.array_equal(engine.denoised(**REQUEST), before)
