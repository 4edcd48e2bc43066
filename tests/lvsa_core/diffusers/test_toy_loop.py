"""Toy Wan beyond its training length: dense attention repeats itself, LVSA less, in pairs of one prompt and seed."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="Toy Wan is a pipeline of diffusers")

import toy_track as track

from lvsa_core.diffusers import enable_lvsa
from toy import world
from toy.pipeline import asked, pipeline, sample

#: Seeds that no setting was tuned on; latent frames of four times the training length.
SEEDS, LONG = range(300, 308), 81


@pytest.fixture(scope="module")
def measured() -> Callable[..., dict[str, np.ndarray[Any, Any]]]:
    """``measured(frames, lvsa, recipe)``: what the videos show, by measure."""
    pipe, clips = pipeline(), asked(SEEDS)

    @cache
    def make(frames: int, lvsa: bool, recipe: str | None = None) -> dict[str, np.ndarray[Any, Any]]:
        handle = enable_lvsa(pipe, recipe=recipe) if lvsa else None
        try:
            latents = sample(pipe, clips.prompts(), SEEDS, frames)
        finally:
            if handle:
                assert handle.report().sparse_steps == (25 if frames > world.LENGTH else 0)
                handle.disable()
        places, _ = track.track(latents)
        found = track.measure(latents, clips)
        found["by_lag"] = track.self_distance(places)[0].tolist()
        return {name: np.array(values) for name, values in found.items()}

    return make


def test_the_training_length_follows_prompt_and_law(measured: Callable[..., Any]) -> None:
    found = measured(world.LENGTH, False)
    assert found["valid"].mean() > 0.98 and found["colour"].mean() > 0.98 and found["sky"].all()
    assert 0.8 < found["speed"].mean() < 1.1 and found["frozen"].mean() < 0.05 and found["leaps"].mean() < 0.02
    assert found["sun_drift"].max() < 0.5 and found["sky_sd"].max() < 0.05
    short = measured(world.LENGTH, True)
    assert all(np.array_equal(short[name], found[name]) for name in found)  # within the training length LVSA is dense


def test_dense_loops_and_lvsa_does_less(measured: Callable[..., Any]) -> None:
    """Over eight pairs; without LVSA both sides would be the same numbers."""
    dense, lvsa = measured(LONG, False), measured(LONG, True)
    more = lvsa["loop"] - dense["loop"]
    assert more.mean() > 0.2 and (more > 0).sum() >= 7
    assert lvsa["valid"].mean() > 0.95 and lvsa["colour"].mean() > 0.9
    assert dense["loop"].mean() < 0.3 and set(dense["lag"]) <= {29, 58, 59}, "a loop of two rotary periods, 29.2 each"
    assert 0.65 < lvsa["speed"].mean() < 1.15


def test_the_recipe_does_not_loop(measured: Callable[..., Any]) -> None:
    """Nor does what should stand still drift."""
    lvsa, recipe = measured(LONG, True), measured(LONG, True, "long")
    more = recipe["loop"] - lvsa["loop"]
    assert more.mean() > 0.5 and (more > 0).sum() >= 7
    assert recipe["sun_drift"].mean() < 0.06 and recipe["sky_sd"].mean() < 0.02


@pytest.mark.parametrize("height", [0.0, 0.3])
def test_the_tracker_finds_what_the_world_draws(height: float) -> None:
    """In clean latents exactly, with noise to a fraction of a cell."""
    clips = asked(range(40))
    latents = world.latents(clips, LONG)
    latents = latents + height / 3 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    places, valid = track.track(latents)
    apart = (places - clips.positions(world.frame_times(LONG))).norm(dim=-1)
    assert valid.all() and apart.mean() < (1e-4 if height == 0 else 0.1)
    found = track.measure(latents, clips)
    # Noise lengthens the path: the ball moves 0.09 to 0.18 cells in a video frame.
    assert np.mean(found["speed"]) == pytest.approx(1, abs=0.05 if height == 0 else 0.12)
    assert max(found["frozen"]) == max(found["leaps"]) == 0 and min(found["colour"]) == min(found["sky"]) == 1
    assert max(found["breaches"]) < 0.02


def test_the_tracker_finds_each_failure() -> None:
    """A loop with its lag, a still, a leap, a turn without a wall, a second ball, a sun and a sky that drift."""
    clips = asked(range(8))
    whole = world.latents(clips, LONG)

    def found(latents: torch.Tensor) -> dict[str, Any]:
        return {name: np.mean(values) for name, values in track.measure(latents, clips).items()}

    looped = whole[:, :, 1:21].repeat(1, 1, 5, 1, 1)[:, :, :LONG]
    assert found(looped)["loop"] < 1e-4
    assert {lag % 20 for lag in track.measure(looped, clips)["lag"]} == {0}
    assert found(looped)["leaps"] > 0
    still = world.latents(replace(clips, velocity=0 * clips.velocity), LONG)
    assert found(still)["frozen"] > 0.9 and found(still)["loop"] < 0.3
    back = torch.cat([whole[:, :, :41], whole[:, :, :40].flip(2)], 2)
    assert found(back)["breaches"] > found(whole)["breaches"]
    twice = whole.clone()
    twice[:, world.BALL_CHANNELS] = torch.maximum(twice, twice.flip(3, 4))[:, world.BALL_CHANNELS]
    assert found(twice)["valid"] < 0.8
    drifting = whole.clone()
    drifting[:, world.SUN_CHANNEL, 40:] = drifting[:, world.SUN_CHANNEL, 40:].roll(2, -1)
    drifting[:, world.SKY_CHANNEL] += torch.linspace(0, 1, LONG)[:, None, None]
    assert found(drifting)["sun_drift"] > 0.5 and found(drifting)["sky_sd"] > 0.25


def test_marks_at_the_anchors() -> None:
    anchors, whole = range(0, LONG, 5), world.latents(asked(range(8)), LONG)
    assert np.mean(track.marks(whole, anchors)) == pytest.approx(1, abs=0.05)
    whole[:, world.SKY_CHANNEL, anchors] += 0.1
    assert np.mean(track.marks(whole, anchors)) > 1.3
    assert np.mean(track.marks(whole, range(2, LONG, 5))) < 1
