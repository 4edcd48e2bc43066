"""Grid and step come from the request, whatever came before it."""

from typing import Any

import pytest

from lvsa_core import keyframe_interval

SIZES = [(64, 64), (48, 80), (96, 64)]
LENGTHS = [97, 125, 161]


@pytest.fixture(scope="module")
def engine(starting: Any) -> Any:
    with starting({"LVSA_WAN_HOOK": "1"}) as running:
        yield running


@pytest.mark.parametrize("guidance", [4.0, 1.0], ids=["guided", "unguided"])
@pytest.mark.parametrize(("size", "frames"), [(s, f) for f in LENGTHS for s in SIZES])
def test_the_grid_is_the_requests(
    engine: Any, calls: list[Any], size: tuple[int, int], frames: int, guidance: float
) -> None:
    engine.video(frames, size=size, steps=2, guidance_scale=guidance)
    latent, patches = (frames - 1) // 4 + 1, (size[0] // 16) * (size[1] // 16)
    branches = 2 if guidance > 1 else 1
    assert len(calls) == 2 * branches * 2  # steps, branches of guidance, blocks
    assert {(call.frames, call.patches, call.tokens) for call in calls} == {(latent, patches, latent * patches)}
    assert {call.interval for call in calls} == {keyframe_interval(latent, reference_frames=21)}


@pytest.mark.parametrize("guidance", [4.0, 1.0], ids=["guided", "unguided"])
def test_the_anchors_rotate_with_the_step(engine: Any, calls: list[Any], guidance: float) -> None:
    for _ in range(2):  # the second request starts at step 0 again
        calls.clear()
        engine.video(161, steps=12, guidance_scale=guidance)
        interval = keyframe_interval(41, reference_frames=21)
        assert interval == 3
        branches = 2 if guidance > 1 else 1
        assert [call.step for call in calls] == [step for step in range(12) for _ in range(branches * 2)]
        assert all(call.offset == call.step % interval for call in calls)


def test_the_length_changes_from_request_to_request(engine: Any, calls: list[Any]) -> None:
    for frames in (161, 97, 17, 125, 97):
        calls.clear()
        engine.video(frames, steps=1)
        assert {call.frames for call in calls} == (set() if frames == 17 else {(frames - 1) // 4 + 1})
        assert {call.offset for call in calls} <= {0}
