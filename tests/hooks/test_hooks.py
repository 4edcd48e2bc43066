"""Families: what the plugin reads from a transformer's call."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lvsa_core import FrameGrid, TokenLayout
from lvsa_core.sharded.exchange import Shards
from lvsa_vllm_omni.fields import schemas
from lvsa_vllm_omni.hooks import COSMOS3, HUNYUAN, SPECS, WAN, ImpossibleRequest, LayoutMismatch, VideoTokens
from lvsa_vllm_omni.settings import LvsaSettings

TRANSFORMER = SimpleNamespace(config=SimpleNamespace(patch_size=(1, 2, 2), rope_max_seq_len=1024))


def grid_of(spec: Any, transformer: Any, arguments: Any) -> FrameGrid:
    """The video alone."""
    grid: FrameGrid = spec.video(transformer, arguments).grid
    return grid


def around(spec: Any, transformer: Any, arguments: Any) -> tuple[int, int]:
    """What stands before and after it."""
    found = spec.video(transformer, arguments)
    return found.before, found.after


def latents(*shape: int) -> dict[str, Any]:
    return {"hidden_states": torch.empty(shape, device="meta")}


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((1, 16, 21, 60, 104), FrameGrid(21, 1560)),
        ((1, 16, 81, 60, 104), FrameGrid(81, 1560)),
        ((2, 16, 41, 90, 160), FrameGrid(41, 3600)),
        ((1, 48, 31, 44, 80), FrameGrid(31, 880)),
        ((1, 16, 7, 9, 11), FrameGrid(7, 20)),
    ],
)
def test_the_grid_of_wan(shape: tuple[int, ...], grid: FrameGrid) -> None:
    assert grid_of(WAN, TRANSFORMER, latents(*shape)) == grid


def test_what_is_no_video_is_a_mismatch() -> None:
    with pytest.raises(LayoutMismatch, match=r"hidden_states has shape \[1, 16, 60, 104\]"):
        grid_of(WAN, TRANSFORMER, latents(1, 16, 60, 104))


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((1, 16, 25, 1, 8), "a video of 1 latent rows .* cannot be made: the model takes 2 to 2048"),
        ((1, 16, 25, 8, 2050), "a video of 2050 latent columns .* cannot be made: the model takes 2 to 2048"),
        ((1, 16, 1025, 8, 8), "a video of 1025 latent frames cannot be made: the model takes 1 to 1024"),
    ],
)
def test_an_impossible_video_is_refused(shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(ImpossibleRequest, match=sentence):
        grid_of(WAN, TRANSFORMER, latents(*shape))


HUNYUAN_MODEL = SimpleNamespace(patch_size_t=1, patch_size=2)
COSMOS_MODEL = SimpleNamespace(latent_patch_size=2)


def test_the_grid_of_hunyuan_video() -> None:
    assert grid_of(HUNYUAN, SimpleNamespace(patch_size_t=1, patch_size=1), latents(1, 65, 33, 30, 53)) == FrameGrid(
        33, 1590
    )
    assert grid_of(HUNYUAN, HUNYUAN_MODEL, latents(1, 65, 5, 9, 8)) == FrameGrid(5, 16)
    with pytest.raises(LayoutMismatch, match=r"hidden_states has shape \[1, 7\]"):
        grid_of(HUNYUAN, HUNYUAN_MODEL, latents(1, 7))
    with pytest.raises(
        ImpossibleRequest, match="of 5 latent frames of 1x8 cannot be made: the model takes at least 1 of 2x2"
    ):
        grid_of(HUNYUAN, HUNYUAN_MODEL, latents(1, 65, 5, 1, 8))


def test_the_grid_of_cosmos() -> None:
    """Sizes that are no whole patches are padded, as the transformer does."""
    assert grid_of(COSMOS3, COSMOS_MODEL, {"video_shape": (48, 30, 52)}) == FrameGrid(48, 390)
    assert grid_of(COSMOS3, COSMOS_MODEL, {"video_shape": (48, 31, 51)}) == FrameGrid(48, 416)
    for shape in ((0, 30, 52), (48, 30, 0)):
        with pytest.raises(ImpossibleRequest, match="cannot be made: the model takes at least 1 of 1x1"):
            grid_of(COSMOS3, COSMOS_MODEL, {"video_shape": shape})
    for shape in ((48, 30), (48, 30.0, 52)):
        with pytest.raises(LayoutMismatch, match="video_shape is "):
            grid_of(COSMOS3, COSMOS_MODEL, {"video_shape": shape})


def test_what_stands_around_the_video_of_cosmos() -> None:
    call = {"video_shape": (5, 4, 6)}  # 30 tokens
    control, action, sound = torch.empty(1, 48, 5, 4, 6), torch.empty(1, 16, 64), torch.empty(1, 64, 25)
    assert around(COSMOS3, COSMOS_MODEL, call) == (0, 0)
    assert around(COSMOS3, COSMOS_MODEL, {**call, "control_latents": control}) == (30, 0)
    assert around(COSMOS3, COSMOS_MODEL, {**call, "control_latents": [control], "action_latents": None}) == (30, 0)
    assert around(COSMOS3, COSMOS_MODEL, {**call, "action_latents": action}) == (0, 16)
    assert around(COSMOS3, COSMOS_MODEL, {**call, "sound_latents": sound}) == (0, 25)
    assert around(COSMOS3, COSMOS_MODEL, {**call, "control_latents": [control, control]}) == (30, 0)  # one at a time
    assert around(COSMOS3, COSMOS_MODEL, {**call, "control_latents": []}) == (0, 0)


def test_reference_images_of_vace_stand_before_the_video() -> None:
    condition = torch.ones(1, 96, 7, 8, 12)
    condition[:, 16:, :2] = 0
    model = SimpleNamespace(config=SimpleNamespace(patch_size=(1, 2, 2), rope_max_seq_len=1024, in_channels=16))
    call = {**latents(1, 16, 7, 8, 12), "vace_context": condition}
    assert grid_of(WAN, model, call) == FrameGrid(5, 24)
    assert around(WAN, model, call) == (2 * 24, 0)
    assert around(WAN, model, latents(1, 16, 7, 8, 12)) == (0, 0)


GRID = FrameGrid(3, 4)


def tokens_of(around: tuple[int, int]) -> VideoTokens:
    """GRID between other tokens."""
    return VideoTokens(GRID.frames, GRID.patches, *around)


BOTH = replace(HUNYUAN, name="both")


@pytest.mark.parametrize(
    ("spec", "around", "q", "k", "padding", "layout"),
    [
        (WAN, (0, 0), 12, 12, 0, TokenLayout(GRID)),
        (WAN, (0, 0), 14, 14, 2, TokenLayout(GRID, pad=2)),
        (HUNYUAN, (0, 0), 19, 19, 0, TokenLayout(GRID, kv_after=7, q_after=7)),
        (HUNYUAN, (0, 0), 20, 20, 1, TokenLayout(GRID, kv_after=7, q_after=7, pad=1)),
        (HUNYUAN, (0, 0), 12, 12, 0, TokenLayout(GRID)),
        (COSMOS3, (0, 0), 12, 21, 0, TokenLayout(GRID, kv_before=9)),
        (COSMOS3, (12, 0), 24, 33, 0, TokenLayout(GRID, kv_before=21, q_before=12)),
        (COSMOS3, (0, 5), 17, 26, 0, TokenLayout(GRID, kv_before=9, kv_after=5, q_after=5)),
        (COSMOS3, (0, 0), 14, 23, 2, TokenLayout(GRID, kv_before=9, pad=2)),
        (COSMOS3, (12, 5), 29, 38, 0, TokenLayout(GRID, kv_before=21, kv_after=5, q_before=12, q_after=5)),
    ],
)
def test_the_order_of_tokens(
    spec: Any, around: tuple[int, int], q: int, k: int, padding: int, layout: TokenLayout
) -> None:
    found = spec.layout(tokens_of(around), q, k, padding)
    assert found == layout
    assert (found.q_tokens, found.kv_tokens) == (q, k)


@pytest.mark.parametrize(
    ("spec", "around", "q", "k", "padding"),
    [
        (WAN, (0, 0), 13, 13, 0),  # a token too many
        (WAN, (0, 0), 12, 13, 0),  # a key too many
        (WAN, (0, 0), 11, 11, 0),
        (HUNYUAN, (0, 0), 19, 20, 0),
        (HUNYUAN, (0, 0), 11, 11, 0),
        (COSMOS3, (0, 0), 13, 20, 0),
        (COSMOS3, (0, 0), 12, 11, 0),
        (BOTH, (0, 5), 26, 26, 2),  # between sound and text
    ],
)
def test_other_tokens_are_a_mismatch(spec: Any, around: tuple[int, int], q: int, k: int, padding: int) -> None:
    with pytest.raises(LayoutMismatch):
        spec.layout(tokens_of(around), q, k, padding)


def test_padding_behind_other_tokens_is_beyond_the_layout() -> None:
    found = COSMOS3.layout(tokens_of((0, 5)), 20, 29, 3)
    assert found == TokenLayout(GRID, kv_before=9, kv_after=5, q_after=5)
    assert (found.q_tokens, found.kv_tokens) == (17, 26)


@pytest.mark.parametrize(
    ("spec", "around", "text", "first", "padding", "ranks"),
    [
        (WAN, (0, 0), 0, 0, 0, 2),
        (WAN, (0, 0), 0, 0, 2, 7),
        (HUNYUAN, (0, 0), 7, 0, 1, 13),
        (COSMOS3, (12, 0), 0, 9, 0, 3),
        (COSMOS3, (12, 5), 0, 9, 1, 5),
        (COSMOS3, (2, 5), 0, 9, 5, 8),
    ],
)
def test_the_rows_of_a_rank(
    spec: Any, around: tuple[int, int], text: int, first: int, padding: int, ranks: int
) -> None:
    """Together the ranks' queries are the sequence, once; each sees all keys, and has the text's queries."""
    before, after = around
    tokens = before + GRID.tokens + after + padding
    held: list[str] = []
    for rank in range(ranks):
        found = spec.layout(tokens_of(around), tokens // ranks + text, tokens + text + first, padding, rank, ranks)
        assert (found.kv_before, found.kv_after) == (first + before, after + text)
        held += ["before"] * found.q_before
        held += [f"video {found.q_offset + row}" for row in range(found.video_rows)]
        held += ["after"] * (found.q_after - text)
    padded = GRID.tokens + (0 if after else padding)
    assert held == ["before"] * before + [f"video {row}" for row in range(padded)] + ["after"] * after


@pytest.mark.parametrize(
    ("spec", "around", "q", "k", "text"),
    [(WAN, (0, 0), 6, 6, 0), (HUNYUAN, (0, 0), 13, 6, 7), (COSMOS3, (4, 2), 9, 9, 5)],
)
def test_shards_of_a_ring(spec: Any, around: tuple[int, int], q: int, k: int, text: int) -> None:
    assert spec.shards(tokens_of(around), q, k, text, 2) == Shards(GRID, 2, *around)
    for wrong in ((q + 1, k, text, 2), (q, k - 1, text, 2), (q, k, text + 1 if spec is not COSMOS3 else -1, 2),
                  (q, k, text, 5)):  # fmt: skip
        with pytest.raises(LayoutMismatch):
            spec.shards(tokens_of(around), *wrong)


def test_every_family_has_a_setting() -> None:
    """Of its own in the settings, by the name that its documentation gives."""
    assert {name for name in schemas(LvsaSettings) if name.endswith("_hook")} == {f"{name}_hook" for name in SPECS}
    assert all(spec.setting == f"LVSA_{name.upper()}_HOOK" and spec.name == name for name, spec in SPECS.items())
