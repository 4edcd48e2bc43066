"""RIFLEx in a pipeline: one temporal frequency, in long videos alone, and undone."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.videos import KNOBS, LATENT, SHORT, VISIBLE, distance, generate

#: Family -> channels of the temporal axis and base of the tiny models.
ROPES = {"wan": (12, 1e4), "hunyuan": (8, 256.0)}
DENSE: dict[str, Any] = {**KNOBS, "sparsity_scale": 100.0, "riflex_train_len": 5}


def table(dim: int, theta: float, k: int, period: float, frames: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, dim] of a temporal axis whose frequency ``k`` has this period, from the definition."""
    rates = [2 * math.pi / period if j == k else theta ** (-2 * j / dim) for j in range(dim // 2)]
    angles = torch.outer(torch.arange(frames).double(), torch.tensor(rates).double()).repeat_interleave(2, dim=1)
    return angles.cos().float(), angles.sin().float()


def _with_temporal(old: Tensor, new: Tensor) -> Tensor:
    """``old`` [.., D] of T * P rows with the first channels of every row from ``new`` [T, dim]."""
    rows = old.reshape(-1, old.shape[-1])
    patches = len(rows) // len(new)
    return torch.cat([new.repeat_interleave(patches, 0), rows[:, new.shape[1] :]], dim=1).view(old.shape)


@pytest.mark.parametrize("kind", ROPES)
def test_equal_to_a_model_with_that_frequency(
    kind: str, pipeline: Callable[[str], Any], enable_lvsa: Callable[..., Any]
) -> None:
    """Here the attention is dense: RIFLEx depends on the training length, not on the pattern."""
    pipe = pipeline(kind)
    (dim, theta), k = ROPES[kind], 1
    plain = generate(kind, pipe)

    def rebuilt(rope: Any, args: Any, tables: Any) -> Any:
        frames = args[0].shape[2]
        temporal = table(dim, theta, k, 5 * 3.0, frames)
        return tuple(_with_temporal(old, new) for old, new in zip(tables, temporal, strict=True))

    hook = pipe.transformer.rope.register_forward_hook(rebuilt)
    expected = generate(kind, pipe)
    hook.remove()
    lvsa = enable_lvsa(pipe, **DENSE, riflex_s=3, riflex_k=k)
    assert distance(generate(kind, pipe), expected) < VISIBLE / 100
    assert distance(expected, plain) > VISIBLE
    lvsa.disable()
    assert torch.equal(generate(kind, pipe), plain)


def test_reference_images_of_vace_have_positions_but_no_length(
    pipeline: Callable[[str], Any], enable_lvsa: Callable[..., Any]
) -> None:
    """One frequency changes in the whole table, if the video alone is longer than the training length."""
    pipe, k, tables = pipeline("wan-vace"), 1, []
    short = generate("wan-vace", pipe, SHORT)
    lvsa = enable_lvsa(pipe, **KNOBS, riflex_s=3, riflex_k=k)
    assert torch.equal(generate("wan-vace", pipe, SHORT), short)
    hook = pipe.transformer.rope.register_forward_hook(lambda module, args, out: tables.append((args[0], out)))
    generate("wan-vace", pipe)
    hook.remove()
    lvsa.disable()
    hidden, made = tables[0]
    assert hidden.shape[2] == LATENT + 1
    temporal = table(*ROPES["wan"], k, 5 * 3.0, LATENT + 1)
    for old, new, changed in zip(pipe.transformer.rope(hidden), temporal, made, strict=True):
        torch.testing.assert_close(changed, _with_temporal(old, new))


@pytest.mark.parametrize("kind", ROPES)
def test_off_and_short_videos_change_nothing(
    kind: str, pipeline: Callable[[str], Any], enable_lvsa: Callable[..., Any]
) -> None:
    pipe = pipeline(kind)
    short = generate(kind, pipe, SHORT)
    lvsa = enable_lvsa(pipe, **KNOBS)
    sparse = generate(kind, pipe)
    lvsa.disable()
    lvsa = enable_lvsa(pipe, **KNOBS, riflex_s=1)
    assert torch.equal(generate(kind, pipe), sparse)
    lvsa.disable()
    enable_lvsa(pipe, **KNOBS, riflex_s=2.4)
    assert distance(generate(kind, pipe), sparse) > VISIBLE
    assert torch.equal(generate(kind, pipe, SHORT), short)


def test_both_transformers(pipeline: Callable[[str], Any], enable_lvsa: Callable[..., Any]) -> None:
    pipe = pipeline("wan-a14b")
    hidden = torch.zeros(1, 16, 12, 8, 8)
    plain = [model.rope(hidden)[0] for model in (pipe.transformer, pipe.transformer_2)]
    enable_lvsa(pipe, **KNOBS, riflex_s=2)
    generate("wan-a14b", pipe)
    changed = [model.rope(hidden)[0] for model in (pipe.transformer, pipe.transformer_2)]
    assert torch.equal(*changed)
    columns = (changed[0] != plain[0]).reshape(-1, plain[0].shape[-1]).any(0).nonzero().flatten().tolist()
    assert columns == [0, 1]  # period 2 pi is the nearest to 5 latent frames


@pytest.mark.parametrize(
    ("kind", "knobs", "words"),
    [
        ("cogvideox", {"riflex_s": 2}, "and this cogvideox is not known as one: leave riflex_s out"),
        ("wan", {"riflex_s": 0.5}, "number of at least 1"),
        ("wan", {"riflex_k": 3}, "give that too"),
        ("wan", {"riflex_s": 2, "riflex_k": 6}, "k must be at most 5"),
    ],
)
def test_wrong_use(
    kind: str, knobs: dict[str, Any], words: str, pipeline: Callable[[str], Any], enable_lvsa: Callable[..., Any]
) -> None:
    with pytest.raises(ValueError, match=words):
        enable_lvsa(pipeline(kind), **knobs)
    enable_lvsa(pipeline(kind))  # nothing was left behind
