"""The same video: as the reference attention's, as the plain engine's where the pattern is dense, and as itself."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from lvsa_core import reference_attend
from lvsa_vllm_omni import scope

#: Video frames of 21, 22, 25 and 41 latent frames; the training horizon of this model is 21.
AT_HORIZON, PAST, LONG, LONGER = 81, 85, 97, 161

#: Through a few layers and the VAE, of float32, or of bfloat16 on an accelerator; a wrong attention moves the frames
#: by 0.02 and more.
ROUNDING = 2e-2 if torch.accelerator.is_available() else 2e-4


@pytest.fixture(scope="module")
def plain(starting: Any) -> dict[Any, np.ndarray]:
    """Videos of the engine with the plugin installed and no setting."""
    with starting() as engine:
        videos = {frames: engine.video(frames) for frames in (1, 17, AT_HORIZON, PAST, LONG, LONGER)}
        videos["wide"] = engine.video(AT_HORIZON, size=(48, 80), guidance_scale=1.0)
    return videos


@pytest.fixture(scope="module")
def engine(starting: Any, plain: Any) -> Iterator[Any]:
    with starting({"LVSA_WAN_HOOK": "1"}) as running:
        yield running


@pytest.mark.parametrize("frames", [PAST, LONG, LONGER])
def test_equals_the_reference_attention(engine: Any, plain: Any, frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = engine.video(frames)
    assert fast.shape == (frames, 64, 64, 3)
    monkeypatch.setattr(scope, "attend", reference_attend)
    slow = engine.video(frames)
    assert np.abs(fast - slow).max() < ROUNDING
    assert np.abs(fast - plain[frames]).max() > 0.02


@pytest.mark.parametrize("frames", [1, 17, AT_HORIZON])
def test_is_the_plain_engine_within_the_training_horizon(engine: Any, plain: Any, frames: int) -> None:
    assert np.array_equal(engine.video(frames), plain[frames])


def test_is_the_plain_engine_at_another_size_without_guidance(engine: Any, plain: Any) -> None:
    assert np.array_equal(engine.video(AT_HORIZON, size=(48, 80), guidance_scale=1.0), plain["wide"])


def test_repeats_itself_whatever_ran_in_between(engine: Any) -> None:
    first = engine.video(LONG)
    assert np.array_equal(engine.video(LONG), first)
    engine.video(LONGER)
    engine.video(17, size=(96, 64))
    assert np.array_equal(engine.video(LONG), first)
    assert not np.array_equal(engine.video(LONG, seed=7), first)
