"""Lengths and sizes: the published lengths, and the nearest that can be made where one cannot."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvsa_vllm_omni.checkpoint import Checkpoint
from lvsa_vllm_omni.offline.geometry import check_frames, check_size, frames_of_horizon


@pytest.mark.parametrize(
    ("horizon", "training", "frames"),
    [
        (1, 81, 81), (2, 81, 161), (3, 81, 241), (4, 81, 321), (6, 81, 481), (1.5, 81, 121),
        (2, 121, 241),
        (1, 129, 129), (1.5, 129, 193), (2, 129, 257),
        (0.5, 81, 41), (0.001, 81, 1),
    ],
)  # fmt: skip
def test_published_lengths(horizon: float, training: int, frames: int) -> None:
    assert frames_of_horizon(horizon, training, 4) == frames


@given(st.floats(0.01, 50), st.integers(0, 60), st.integers(1, 8))
def test_a_horizon_is_always_a_length_that_can_be_made(horizon: float, latent: int, factor: int) -> None:
    training = latent * factor + 1
    frames = frames_of_horizon(horizon, training, factor)
    check_frames(frames, factor)
    assert abs(frames - 1 - horizon * (training - 1)) <= factor / 2 + 1e-6


@given(st.integers(-5, 2000), st.integers(1, 8))
def test_the_lengths_named_instead_can_be_made(frames: int, factor: int) -> None:
    if frames >= 1 and (frames - 1) % factor == 0:
        check_frames(frames, factor)
        return
    with pytest.raises(ValueError, match=f"{frames} frames cannot be made") as error:
        check_frames(frames, factor)
    named = [int(word) for word in str(error.value).rpartition("take ")[2].split(" or ")]
    for other in named:
        check_frames(other, factor)
    assert all(abs(frames - other) < factor or other == 1 for other in named)


def test_sizes() -> None:
    check_size(480, 832, 16)
    with pytest.raises(ValueError, match="height 500 cannot be made, it is a multiple of 16: take 496 or 512"):
        check_size(500, 832, 16)
    with pytest.raises(ValueError, match="width 8 cannot be made, it is a multiple of 32: take 32"):
        check_size(704, 8, 32)


@pytest.mark.parametrize(
    ("vae", "transformer", "multiple"),
    [
        ({"z_dim": 16}, {"patch_size": [1, 2, 2]}, 16),  # Wan 2.1: its config does not name the factor
        ({"scale_factor_spatial": 16}, {"patch_size": [1, 2, 2]}, 32),  # Wan 2.2 TI2V-5B
        ({"spatial_compression_ratio": 16}, {"patch_size": 1}, 16),  # HunyuanVideo 1.5
        ({"scale_factor_spatial": 16}, {"latent_patch_size": 2}, 16),  # Cosmos 3 pads to its patch
    ],
)
def test_size_multiple(vae: dict[str, Any], transformer: dict[str, Any], multiple: int) -> None:
    assert Checkpoint(Path(), {}, transformer, vae).size_multiple == multiple
