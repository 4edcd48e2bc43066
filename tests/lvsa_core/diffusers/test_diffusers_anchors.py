"""Anchors that are boosted, seen at other positions, or stand still at first, in a pipeline."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from lvsa_core import Pattern, plan, reference_attend
from lvsa_core.diffusers import dispatch
from lvsa_core.kernels.apart import turn_
from lvsa_core.positions import TemporalAxis
from tests.support.videos import FAMILIES, KNOBS, LATENT, REFERENCE, SHORT, VISIBLE, distance, generate, masked

Pipeline = Callable[[str], Any]
#: Family -> channels of the temporal axis and base of the tiny models.
AXES = {"wan": (12, 1e4), "hunyuan": (8, 256.0), "wan-vace": (12, 1e4), "cogvideox": (8, 1e4)}
#: Each of them, with and without RIFLEx where there is one.
TURNED = [(kind, riflex) for kind in AXES for riflex in ({}, {"riflex_s": 3, "riflex_k": 1})]


def boosted(step: int) -> Pattern:
    return plan(LATENT, reference_frames=REFERENCE, window=1, n_first=1, step=step, anchor_boost=1.5)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Pattern, Tensor]]:
    """Pattern and queries of each attention call of the video."""
    found: list[tuple[Pattern, Tensor]] = []
    original = dispatch.attend

    def watched(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, *rest: Any, **more: Any) -> Tensor:
        found.append((pattern, q))
        return original(q, k, v, pattern, *rest, **more)

    monkeypatch.setattr(dispatch, "attend", watched)
    return found


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_boost_is_a_number_in_the_mask(kind: str, pipeline: Pipeline, enable_lvsa: Callable[..., Any]) -> None:
    """The text, which some families have in the same call, keeps its weight."""
    pipe = pipeline(kind)
    with masked(kind, pipe, boosted):
        oracle = generate(kind, pipe)
    lvsa = enable_lvsa(pipe, **KNOBS, anchor_boost=1.5)
    assert distance(generate(kind, pipe), oracle) < VISIBLE / 100
    assert lvsa.report().anchors == "anchor_boost=1.5" and "anchor_boost=1.5" in str(lvsa.report())
    lvsa.disable()
    lvsa = enable_lvsa(pipe, **KNOBS)
    assert distance(generate(kind, pipe), oracle) > VISIBLE / 10 and lvsa.report().anchors == ""


@pytest.mark.parametrize(("kind", "riflex"), [case for case in TURNED if case[0] != "cogvideox" or not case[1]])
def test_queries_are_turned_as_the_model_turns_them(
    kind: str, riflex: dict[str, Any], pipeline: Pipeline, enable_lvsa: Callable[..., Any], seen: list[Any]
) -> None:
    """Queries of the first layer, from tables in which the frames stand in reverse, and turned there afterwards."""
    pipe = pipeline(kind)
    lvsa = enable_lvsa(pipe, **KNOBS, **riflex, anchor_positions="remap")
    generate(kind, pipe, steps=1)
    pattern, plain = seen[0]
    assert pattern.remap is not None and pattern.grouping is not None
    assert (("remap" in lvsa.report().anchors) and not riflex) or pattern.remap.axis != TemporalAxis.of(*AXES[kind])
    seen.clear()

    def reverse(tables: Any) -> Any:
        """The video's frames; VACE's reference image before it stays."""
        patches = lvsa._generation.grid.patches
        rows = [table.view(-1, patches, table.shape[-1]) for table in tables]
        turned = [torch.cat([x[:-LATENT], x[-LATENT:].flip(0)]) for x in rows]
        return tuple(x.view(table.shape) for x, table in zip(turned, tables, strict=True))

    if kind == "cogvideox":  # the pipeline makes the tables

        def given(transformer: Any, args: Any, kwargs: Any) -> Any:
            return args, {**kwargs, "image_rotary_emb": reverse(kwargs["image_rotary_emb"])}

        hook = pipe.transformer.register_forward_pre_hook(given, with_kwargs=True)
    else:
        hook = pipe.transformer.rope.register_forward_hook(lambda rope, args, tables: reverse(tables))
    generate(kind, pipe, steps=1)
    hook.remove()
    expected, patches = seen[0][1], lvsa._generation.grid.patches
    first = plain.shape[1] - LATENT * patches if kind in ("wan-vace", "cogvideox") else 0
    video = plain[0, first : first + LATENT * patches].clone().view(LATENT, patches, *plain.shape[2:])
    turn_(video, tuple(LATENT - 1 - 2 * frame for frame in range(LATENT)), pattern.remap.axis)
    found = plain[0].clone()
    found[first : first + LATENT * patches] = video.flatten(0, 1)
    assert not torch.allclose(plain[0], expected[0], atol=1e-2)
    torch.testing.assert_close(found, expected[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", [*AXES, "cogvideox-1.5"])
def test_remapped_anchors_equal_the_reference(
    kind: str, pipeline: Pipeline, enable_lvsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, knobs = pipeline(kind), {**KNOBS, "anchor_positions": "remap", "anchor_boost": 1.0}
    short = generate(kind, pipe, SHORT)
    enable_lvsa(pipe, **KNOBS).disable()
    lvsa = enable_lvsa(pipe, **knobs)
    video = generate(kind, pipe)
    assert torch.equal(generate(kind, pipe, SHORT), short)
    monkeypatch.setattr(dispatch, "attend", reference_attend)
    assert distance(generate(kind, pipe), video) < VISIBLE / 100
    monkeypatch.undo()
    lvsa.disable()
    lvsa = enable_lvsa(pipe, **KNOBS)
    assert distance(generate(kind, pipe), video) > VISIBLE / 10


@pytest.mark.parametrize("kind", ["cosmos3", "cogvideox"])
def test_an_embedding_that_does_not_allow_it(kind: str, fresh: Pipeline, enable_lvsa: Callable[..., Any]) -> None:
    """Cosmos 3 mixes time with height and width; CogVideoX-2B has no rotary embedding."""
    pipe = fresh(kind)
    if kind == "cogvideox":
        pipe.transformer.register_to_config(use_rotary_positional_embeddings=False)
    for knobs in ({"anchor_positions": "remap"}, {"recipe": "long"}):
        with pytest.raises(ValueError, match=f"by time alone, and this {kind} is not known as one: leave it out"):
            enable_lvsa(pipe, **{**KNOBS, **knobs})


def test_a_window_that_leaves_no_distance(pipeline: Pipeline, enable_lvsa: Callable[..., Any]) -> None:
    with pytest.raises(
        ValueError, match="knows 5 latent frames, so the half window must be at most 3 latent frames, got 4"
    ):
        enable_lvsa(pipeline("wan"), reference_latent_frames=5, window_size=16, anchor_positions="remap")


def test_anchors_stand_still_for_a_share_of_the_steps(
    pipeline: Pipeline, enable_lvsa: Callable[..., Any], seen: list[tuple[Pattern, Tensor]]
) -> None:
    pipe = pipeline("wan")

    def offsets(steps: int, **knobs: Any) -> list[int]:
        lvsa = enable_lvsa(pipe, **KNOBS, **knobs)
        generate("wan", pipe, steps=steps)
        lvsa.disable()
        calls = len(seen) // steps
        found = [pattern.offset for pattern, _ in seen[::calls]]
        seen.clear()
        return found

    assert offsets(5) == offsets(5, rotate_after=0.0) == [0, 1, 2, 3, 4]
    assert offsets(5, rotate_after=0.6) == [0, 0, 0, 0, 1]
    assert offsets(4, rotate_after=0.3) == [0, 0, 0, 1]
    assert offsets(3, rotate_after=1.0) == [0, 0, 0]


def test_a_scheduler_that_does_not_tell_its_steps(fresh: Pipeline, enable_lvsa: Callable[..., Any]) -> None:
    """A loop of one's own, which never asks the scheduler: refused, but only where the anchors matter."""
    pipe = fresh("wan")
    enable_lvsa(pipe, **KNOBS, rotate_after=0.5)

    def step(frames: int) -> Any:
        size = pipe.transformer.config
        latents = torch.randn(1, size.in_channels, frames, 8, 8)
        return pipe.transformer(latents, torch.tensor([500]), torch.randn(1, 8, size.text_dim), return_dict=False)

    step(REFERENCE)
    with pytest.raises(ValueError, match="rotate_after needs the number of denoising steps, which this pipeline's"):
        step(LATENT)


def test_the_recipe(pipeline: Pipeline, enable_lvsa: Callable[..., Any], seen: list[tuple[Pattern, Tensor]]) -> None:
    """What is given beside it goes before it."""
    pipe = pipeline("wan")
    lvsa = enable_lvsa(pipe, recipe="long", **KNOBS)
    generate("wan", pipe)
    pattern = seen[0][0]
    assert pattern.window == 1 and pattern.bias == 1 and pattern.grouping is not None
    assert {pattern.offset for pattern, _ in seen} == {0}
    assert str(lvsa.report()).endswith("anchor_positions=remap group=4 shift=1 anchor_boost=1 rotate_after=0.6")
    lvsa.disable()
    with pytest.raises(ValueError, match="there is no recipe 'longer': there is long"):
        enable_lvsa(pipe, recipe="longer")
    assert replace(pattern, remap=None, anchor_boost=0.0).plain
