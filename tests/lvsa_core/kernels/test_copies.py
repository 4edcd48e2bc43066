"""Copies of frames: the order, and numbers of 16 bytes where they fit."""

import pytest
import torch

from lvsa_core.kernels import copies
from lvsa_core.kernels.copies import _in_16_bytes, frames_in_order


@pytest.mark.parametrize(
    ("shape", "dtype", "wide"),
    [
        ((2, 3, 8), torch.bfloat16, True),
        ((2, 3, 12), torch.bfloat16, False),
        ((2, 3, 4), torch.float32, True),
        ((2, 3, 6), torch.float32, False),
        ((2, 3, 1), torch.complex128, True),
    ],
)
def test_what_can_be_seen_as_16_bytes(shape: tuple[int, ...], dtype: torch.dtype, wide: bool) -> None:
    x = torch.zeros(shape, dtype=dtype)
    assert _in_16_bytes(x) == wide
    if wide:
        x.view(torch.complex128)
        assert not _in_16_bytes(torch.zeros(100, dtype=dtype)[1:49].view(1, 3, 16)) or dtype == torch.complex128


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_copies_in_numbers_of_16_bytes(monkeypatch: pytest.MonkeyPatch, gaps: bool, dtype: torch.dtype) -> None:
    """As on a GPU; values with gaps between tokens are parts of a fused projection."""
    seen = []
    select = torch.index_select
    monkeypatch.setattr(torch, "index_select", lambda x, *rest, out: seen.append(x.dtype) or select(x, *rest, out=out))
    x = torch.randn(2, 5 * 3, 6, 8).to(dtype)[:, :, 4:] if gaps else torch.randn(2, 5 * 3, 2, 8).to(dtype)
    order = torch.tensor([4, 0, 2], dtype=torch.int32)
    video, out = x.view(2, 5, 3, 2, 8), torch.zeros(2, 1 + 9, 2, 8, dtype=dtype)

    monkeypatch.setattr(copies, "_on_cpu", lambda x: False)
    frames_in_order(video, order, 1, out[:, 1:].view(2, 3, 3, 2, 8))
    new = frames_in_order(video, order, 1)
    assert seen == [torch.complex128] * 2 and new.dtype == dtype and torch.equal(new, video[:, [4, 0, 2]])
    assert torch.equal(out[:, 1:].view(2, 3, 3, 2, 8), video[:, [4, 0, 2]]) and not out[:, 0].any()
