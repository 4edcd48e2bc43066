"""RIFLEx: the paper's intrinsic frequencies, and tables with one frequency changed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvsa_core.riflex import frequencies, intrinsic_frequency, period, replace


@pytest.mark.parametrize(
    ("dim", "theta", "length", "k"),
    [(44, 1e4, 21, 3), (44, 1e4, 31, 4), (44, 1e4, 33, 4), (16, 256.0, 33, 2)],
)
def test_intrinsic_frequencies(dim: int, theta: float, length: int, k: int) -> None:
    assert intrinsic_frequency(dim, theta, length) == k
    assert period(dim, theta, k) == pytest.approx(2 * math.pi * theta ** (2 * k / dim))


@given(st.integers(1, 64), st.floats(2, 1e6), st.integers(1, 200), st.floats(1.01, 16))
def test_one_frequency_changes(half: int, theta: float, length: int, scale: float) -> None:
    dim = 2 * half
    model = frequencies(dim, theta, length=length, scale=1)
    assert model.dtype == torch.float64
    assert model.tolist() == pytest.approx([theta ** (-2 * j / dim) for j in range(half)])
    changed = frequencies(dim, theta, length=length, scale=scale)
    k = intrinsic_frequency(dim, theta, length)
    assert 2 * math.pi / changed[k].item() == pytest.approx(length * scale)
    others = torch.arange(half) != k
    assert torch.equal(changed[others], model[others])


def test_a_frequency_of_choice() -> None:
    model, changed = (frequencies(44, 1e4, length=21, scale=scale, k=5) for scale in (1, 4.0))
    assert (model != changed).nonzero().tolist() == [[5]]
    assert changed[5].item() == pytest.approx(2 * math.pi / 84)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scale": 0.5}, "number of at least 1"),
        ({"scale": True}, "number of at least 1"),
        ({"scale": math.nan}, "number of at least 1"),
        ({"scale": 2, "k": 22}, "k must be at most 21"),
        ({"scale": 2, "k": -1}, "k must be an integer"),
        ({"scale": 2, "length": 0}, "length must be an integer"),
    ],
)
def test_wrong_numbers(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        frequencies(44, 1e4, **{"length": 21, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(12, 10), (1, 12, 1, 10)])
def test_replace_writes_two_channels(shape: tuple[int, ...]) -> None:
    """Tables as of HunyuanVideo and of Wan; angles in float64, far beyond what float32 counts exactly."""
    table = torch.randn(shape), torch.randn(shape)
    new = replace(table, frames=4, k=1, frequency=1234.567)
    angles = torch.tensor([math.remainder(1234.567 * frame, 2 * math.pi) for frame in range(4)], dtype=torch.float64)
    for old, changed, values in zip(table, new, (angles.cos(), angles.sin()), strict=True):
        assert changed.shape == old.shape and changed.dtype == old.dtype
        rows, before = changed.reshape(4, 3, 10), old.reshape(4, 3, 10)
        assert torch.equal(rows[..., [0, 1, 4, 5, 6, 7, 8, 9]], before[..., [0, 1, 4, 5, 6, 7, 8, 9]])
        expected = values.float().view(4, 1, 1).expand(4, 3, 2)
        assert torch.allclose(rows[..., 2:4], expected, atol=1e-6)
