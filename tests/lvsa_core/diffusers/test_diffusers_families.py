"""What families tell of a transformer's call, and when."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lvsa_core import TokenLayout
from lvsa_core.diffusers.families import FAMILIES, family_of
from lvsa_core.diffusers.family import VideoTokens
from tests.support.videos import KNOBS, SHORT, generate

Pipeline = Callable[[str], Any]


def test_tokens_of_cosmos3_with_sound() -> None:
    """Text keys first; sound and action behind the video, in queries and keys."""
    family = next(family for family in FAMILIES if family.name == "cosmos3")
    arguments = {
        "vision_token_shapes": [(12, 2, 2)],
        "und_len": 7,
        "sequence_length": 7 + 48 + 9,
        "vision_sequence_indexes": torch.arange(7, 55),
    }
    grid, tokens = family.video(None, arguments)
    assert tokens().layouts == (TokenLayout(grid, kv_before=7, kv_after=9, q_after=9),)
    with pytest.raises(ValueError, match="2 videos"):
        family.video(None, {"vision_token_shapes": [(12, 2, 2)] * 2})
    with pytest.raises(ValueError, match="right behind the text"):
        family.video(None, {**arguments, "vision_sequence_indexes": torch.arange(16, 64)}).tokens()


@pytest.mark.parametrize("kind", ["wan", "hunyuan", "cosmos3", "cogvideox"])
def test_a_dense_call_does_not_wait_for_the_device(
    kind: str, pipeline: Pipeline, enable_lvsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many tokens of text there are is asked in LVSA's calls alone."""
    lvsa = enable_lvsa(pipeline(kind), **KNOBS)
    asked: list[int] = []
    read = lvsa._family.video

    def watched(*arguments: Any) -> VideoTokens:
        grid, tokens = read(*arguments)

        def told() -> Any:
            asked.append(grid.frames)
            return tokens()

        return VideoTokens(grid, told)

    monkeypatch.setitem(lvsa._family.__dict__, "video", watched)
    generate(kind, pipeline(kind), SHORT, steps=1)
    assert not asked and lvsa.report().frames
    generate(kind, pipeline(kind), steps=1)
    assert asked


@pytest.mark.parametrize("kind", ["hunyuan", "cosmos3"])
def test_the_grid_is_told_without_the_device(kind: str, pipeline: Pipeline) -> None:
    """Tensors on "meta" have no values to read."""
    transformer = pipeline(kind).transformer
    family = family_of(transformer)
    assert family is not None
    with torch.device("meta"):
        mask, hidden, indexes = torch.ones(1, 5), torch.zeros(1, 65, 12, 4, 4), torch.arange(7, 55)
        text = {"encoder_attention_mask": mask, "encoder_attention_mask_2": mask, "image_embeds": torch.zeros(1, 3, 4)}
    video = {"vision_token_shapes": [(12, 4, 4)], "und_len": 7, "sequence_length": 55}
    found = family.video(transformer, {"hidden_states": hidden, **text, **video, "vision_sequence_indexes": indexes})
    assert found.grid.frames == 12
    with pytest.raises(RuntimeError, match="meta"):
        found.tokens()
