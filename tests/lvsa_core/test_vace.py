"""How many latent frames of VACE's condition are reference images."""

import torch

from lvsa_core.vace import reference_frames


def condition(images: int, frames: int = 6) -> torch.Tensor:
    """Of 2 samples with 4 channels: what is kept, what is changed, and 3 channels of mask."""
    made = torch.randn(2, 11, frames, 4, 4, generator=torch.Generator().manual_seed(3))
    made[:, 4:, :images] = 0
    return made


def test_images_change_nothing() -> None:
    for images in (0, 1, 3):
        made = condition(images)
        assert reference_frames(made, 4) == reference_frames(made, 4) == images


def test_a_frame_that_is_kept_is_no_image() -> None:
    """Its mask is zero, but what would be changed is the latent of a black frame."""
    made = condition(1)
    made[:, 8:, 1:] = 0
    assert reference_frames(made, 4) == 1


def test_a_condition_of_zeros_has_none() -> None:
    assert reference_frames(torch.zeros(1, 11, 5, 2, 2), 4) == 0
