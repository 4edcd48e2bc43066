"""FLOP, bytes and memory: against numbers worked by hand, and against a count of single pairs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lvsa_core import FrameGrid, Pattern, TokenLayout, plan
from lvsa_core.positions import Remap, TemporalAxis
from lvsa_vllm_omni.measure import cost
from lvsa_vllm_omni.presets import load_preset
from lvsa_vllm_omni.shape import Shape

SMALL = Shape(heads=4, kv_heads=2, head_size=8, hidden=24, blocks=2, ffn=40, patch=2, vae_spatial_factor=8)


def wan(name: str) -> Shape:
    shape = load_preset(name).shape
    assert shape is not None
    return shape


def test_wan_14b_at_321_frames() -> None:
    shape = wan("wan2.1-14b")
    assert shape.patches(480, 832) == 1560
    grid = FrameGrid(81, 1560)
    dense = cost.dense_attention(shape, grid)
    assert dense.flop == 4 * 126360 * 126360 * 40 * 128
    assert dense.moved == 4 * 126360 * 5120 * 2 + 4 * 126360 * 40
    assert cost.linear_flop(shape, grid) == 126360 * 2 * (6 * 5120 * 5120 + 2 * 5120 * 13824)
    sparse = cost.lvsa_attention(shape, grid, plan(81, reference_frames=21))
    assert sparse.flop * 81 == dense.flop * 21
    copy, lse = 126360 * 5120 * 2, 126360 * 40 * 4
    assert sparse.memory == 3 * copy + 2 * lse  # one copy of Q, K and V and the log-sum-exps
    assert sparse.moved == (4 + 6 + 3) * copy + 4 * lse


@pytest.mark.parametrize(
    ("flop_rate", "milliseconds"),
    [(650e12, 137), (200e12, 444)],  # what FlashAttention-3 reaches on an H200, FlashAttention-2 on an A100
)
def test_the_floor_of_a_layer_is_its_work(flop_rate: float, milliseconds: float) -> None:
    pattern = plan(81, reference_frames=21, step=1)
    floor = cost.lvsa_attention(wan("wan2.1-14b"), FrameGrid(81, 1560), pattern).floor(flop_rate, 2e12)
    assert floor * 1e3 == pytest.approx(milliseconds, abs=0.6)


def test_the_floor_of_little_work_is_the_memory() -> None:
    side = cost.Cost(flop=10, moved=1000, memory=0)
    assert side.floor(flop_rate=1.0, bandwidth=10.0) == 100.0
    assert side.floor(flop_rate=0.05, bandwidth=10.0) == 200.0
    assert side.intensity == 0.01


@pytest.mark.parametrize(
    ("name", "latent", "speedup"),
    [
        ("wan2.1-1.3b", 41, 1.61),
        ("wan2.1-1.3b", 81, 2.90),
        ("wan2.1-1.3b", 121, 4.19),
        ("wan2.1-14b", 41, 1.46),
        ("wan2.1-14b", 81, 2.44),
        ("wan2.1-14b", 121, 3.41),
    ],
)
def test_largest_speedup(name: str, latent: int, speedup: float) -> None:
    """Worked separately from d, ffn and 22 attended frames, the count of most steps of a rotation."""
    grid = FrameGrid(latent, 1560)
    most = max((plan(latent, reference_frames=21, step=step) for step in range(9)), key=lambda each: each.density)
    assert most.attended_count(0) == 22
    assert cost.largest_speedup(wan(name), grid, [most]) == pytest.approx(speedup, abs=0.006)
    assert cost.largest_speedup(wan(name), grid, [plan(latent, reference_frames=latent)]) == 1.0


def test_pairs_with_text_in_the_keys_alone() -> None:
    pattern, layout = Pattern(9, window=1, n_first=1, keyframe_interval=4), TokenLayout(FrameGrid(9, 5), kv_before=3)
    video = sum(pattern.allows(q // 5, k // 5) for q in range(45) for k in range(45))
    assert cost.attended_pairs(pattern, layout) == video + 45 * 3


@pytest.mark.parametrize("text", [0, 3])
def test_pairs_are_those_that_the_pattern_allows(text: int) -> None:
    pattern, grid = Pattern(9, window=1, n_first=1, keyframe_interval=4, offset=1), FrameGrid(9, 5)
    shape = replace(SMALL, text_tokens=text)
    video = sum(pattern.allows(q // 5, k // 5) for q in range(45) for k in range(45))
    with_text = sum(q >= 45 or k >= 45 for q in range(45 + text) for k in range(45 + text))
    assert cost.attended_pairs(pattern, TokenLayout(grid, kv_after=text, q_after=text)) == video + with_text
    assert cost.lvsa_attention(shape, grid, pattern).flop == 4 * (video + with_text) * 4 * 8
    assert cost.dense_attention(shape, grid).flop == 4 * (45 + text) ** 2 * 4 * 8


def test_a_dense_pattern_costs_what_dense_costs() -> None:
    grid = FrameGrid(9, 5)
    assert cost.lvsa_attention(SMALL, grid, Pattern(9)) == cost.dense_attention(SMALL, grid)


def test_boosted_anchors_and_those_at_other_positions() -> None:
    grid, remap = FrameGrid(9, 5), Remap(5, TemporalAxis.of(4, 10000.0))
    anchors = {"window": 1, "n_first": 1, "keyframe_interval": 4, "offset": 1}
    plain, boosted, moved = (Pattern(9, **anchors, **more) for more in ({}, {"anchor_boost": 1.5}, {"remap": remap}))
    assert len(plain.anchors) == 3 and moved.grouping is not None

    def bytes_of(pattern: Pattern, text: int) -> int:
        return cost.lvsa_attention(replace(SMALL, text_tokens=text), grid, pattern).moved

    for text, calls, fills in ((0, 2, 1), (3, 3, 0)):
        q, kv, lse = ((45 + text) * 4 * 8 * 2, (45 + text) * 2 * 8 * 2, (45 + text) * 4 * 4)
        twice = 2 * 3 * 5 * 2 * 8 * 2  # K or V of the anchors, two times
        copied, turned = 2 * q + 4 * twice, (q + twice) * (2 + 16 // 2) * 4 // 8
        attended, merged = calls * (2 * q + lse) + 2 * kv + 2 * twice, 2 * (3 * q + 2 * lse)
        assert bytes_of(moved, text) == copied + turned + attended + merged + fills * q
        assert bytes_of(boosted, text) == bytes_of(plain, text) + (5 * q + 3 * lse if text else 0)
    memory = cost.lvsa_attention(SMALL, grid, moved).memory - cost.lvsa_attention(SMALL, grid, plain).memory
    assert memory == 45 * 4 * 8 * 2, "a copy of Q"


def test_what_the_options_cost_by_formula() -> None:
    """The shares of docs/tuning.md: at 321 frames of 832x480 on an H100 (650 TFLOP/s, 3.35 TB/s)."""

    moved: list[str] = []

    def share(preset: str, length: int, **options: Any) -> float:
        plain, other = (
            cost.lvsa_attention(wan(preset), FrameGrid(81, 1560), plan(81, reference_frames=length, **more))
            for more in ({}, options)
        )
        assert other.flop == plain.flop
        moved.append(f"{other.moved / 1e9:.1f} instead of {plain.moved / 1e9:.1f} GB moved")
        return (other.moved - plain.moved) / 3.35e12 / (plain.flop / 650e12)

    axes = {"wan2.1-14b": TemporalAxis.of(44, 1e4), "hunyuan-video-1.5": TemporalAxis.of(16, 256.0)}
    for preset, length, remapped, boosted in (("wan2.1-14b", 21, 0.026, 0.0), ("hunyuan-video-1.5", 33, 0.016, 0.009)):
        assert share(preset, length, anchor_boost=1.0) == pytest.approx(boosted, abs=5e-4)
        assert share(preset, length, remap=Remap(length, axes[preset])) == pytest.approx(remapped, abs=5e-4)
    page = (Path(__file__).parents[3] / "docs" / "tuning.md").read_text("utf-8")
    assert moved[1] in page and "by formula 2.6 %" in page and "HunyuanVideo 1.5 1.6 %" in page and "0.9 % by" in page


def test_grouped_heads_gates_and_text() -> None:
    grid = FrameGrid(2, 5)
    assert cost.dense_attention(SMALL, grid, itemsize=4).moved == 10 * 8 * 4 * (2 * 4 + 2 * 2) + 10 * 4 * 4
    # q, k, v: 24 x (32 + 2 x 16); out: 32 x 24; feed-forward: up and down
    assert cost.linear_flop(SMALL, grid) == 2 * 10 * (24 * 64 + 32 * 24 + 2 * 24 * 40)
    gated = replace(SMALL, ffn_matrices=3, cross_tokens=7, text_tokens=2)
    assert cost.linear_flop(gated, grid) == 2 * 12 * (24 * 64 + 32 * 24 + 2 * 24 * 32 + 3 * 24 * 40)
    assert cost.cross_flop(gated, grid) == 4 * 12 * 7 * 32 and cost.cross_flop(SMALL, grid) == 0


def test_patches_of_a_frame() -> None:
    assert [wan(name).patches(704, 1280) for name in ("wan2.2-ti2v-5b", "wan2.2-a14b")] == [880, 3520]
    padding = replace(SMALL, vae_spatial_factor=16, pads=True)
    assert padding.patches(720, 1280) == 23 * 40 and padding.size_multiple == 16 and SMALL.size_multiple == 16
