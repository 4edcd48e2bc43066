"""The denoising step, by which anchors move: one for all calls of a step, whoever calls, and from 0 in every video."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lvsa_core.diffusers.generation import Generation
from tests.support.videos import (
    KNOBS,
    SHORT,
    VISIBLE,
    count_patches_as_a_level,
    distance,
    generate,
    masked,
    picture,
    transformers_of,
)

Pipeline = Callable[[str], Any]
Enable = Callable[..., Any]


@contextmanager
def noted(transformer: Any, lvsa: Any) -> Iterator[list[int]]:
    """The step of every call of the transformer."""
    steps: list[int] = []
    hook = transformer.proj_out.register_forward_pre_hook(lambda *_: steps.append(lvsa.report().steps - 1))
    yield steps
    hook.remove()


def modular(pipe: Any, **parts: Any) -> Callable[..., Tensor]:
    """``call(steps)``: latents by diffusers' modular blocks, which make a timestep for each branch of guidance."""
    from diffusers import ClassifierFreeGuidance
    from diffusers.modular_pipelines.wan import encoders
    from diffusers.modular_pipelines.wan.modular_blocks_wan import WanBlocks

    encoders.prompt_clean = str.strip
    count_patches_as_a_level(pipe.vae)
    made = WanBlocks().init_pipeline()
    made.set_progress_bar_config(disable=True)
    names = ("text_encoder", "tokenizer", "transformer", "scheduler", "vae")
    own = {name: getattr(pipe, name) for name in names} | {"guider": ClassifierFreeGuidance(guidance_scale=4.0)}
    made.update_components(**{**own, **parts})

    def call(steps: int = 3) -> Tensor:
        noise = torch.Generator().manual_seed(1)
        size = {"num_frames": 45, "height": 64, "width": 64, "num_inference_steps": steps}
        latents: Tensor = made(prompt="a cat", negative_prompt="bad", **size, generator=noise, output="latents")
        return latents

    call.pipe = made  # type: ignore[attr-defined]
    return call


def test_a_modular_pipeline(fresh: Pipeline, enable_lvsa: Enable) -> None:
    pipe = fresh("wan")
    call = modular(pipe)
    plain = call()
    with masked("wan", pipe):
        oracle = call()
    lvsa = enable_lvsa(call.pipe, **KNOBS)  # type: ignore[attr-defined]
    for _ in range(2):
        assert distance(call(), oracle) < VISIBLE / 100 < VISIBLE < distance(oracle, plain)
        assert lvsa.report().steps == lvsa.report().sparse_steps == 3


def test_a_modular_pipeline_in_bfloat16(fresh: Pipeline, enable_lvsa: Enable) -> None:
    """Its timesteps are rounded: of these 100 steps many have that of their neighbour."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipe = fresh("wan").to(torch.bfloat16)
    pipe.vae.float()  # whose convolutions are slow in bfloat16 on a CPU
    call = modular(pipe, scheduler=FlowMatchEulerDiscreteScheduler(shift=12.0))
    lvsa = enable_lvsa(call.pipe, **KNOBS)  # type: ignore[attr-defined]
    timesteps = []
    pipe.transformer.register_forward_pre_hook(
        lambda _, args, options: timesteps.append(float(options["timestep"])), with_kwargs=True
    )
    pipe.transformer.blocks = pipe.transformer.blocks[:0]
    with noted(pipe.transformer, lvsa) as steps:
        call(100)
    assert steps == [step for step in range(100) for _ in range(2)]
    assert len(set(timesteps)) < 90


@pytest.mark.parametrize("own_scheduler", [False, True])
def test_a_pipeline_of_the_parts_of_one_that_is_gone(own_scheduler: bool, fresh: Pipeline, enable_lvsa: Enable) -> None:
    from diffusers import WanPipeline

    pipe = fresh("wan")
    lvsa = enable_lvsa(pipe, **KNOBS)
    generate("wan", pipe)
    parts = dict(pipe.components)
    if own_scheduler:
        parts["scheduler"] = type(pipe.scheduler).from_config(pipe.scheduler.config)
    with masked("wan", other := WanPipeline(**parts)):
        lvsa.disable()
        oracle = generate("wan", other)
    lvsa = enable_lvsa(pipe, **KNOBS)
    other.set_progress_bar_config(disable=True)
    generate("wan", pipe)
    del pipe
    gc.collect()
    for frames in (45, SHORT, 45):
        with noted(other.transformer, lvsa) as steps:
            video = generate("wan", other, frames)
        assert steps == [0, 0, 1, 1, 2, 2]
    assert distance(video, oracle) < VISIBLE / 100


def test_another_pipeline_that_shares_the_transformer(fresh: Pipeline, enable_lvsa: Enable) -> None:
    """With a scheduler of its own, between calls of the first one."""
    from diffusers import WanPipeline

    pipe = fresh("wan")
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    other = WanPipeline(**{**pipe.components, "scheduler": scheduler})
    other.set_progress_bar_config(disable=True)
    lvsa = enable_lvsa(pipe, **KNOBS)
    video = generate("wan", pipe)
    for made in (other, pipe, other, other):
        with noted(pipe.transformer, lvsa) as steps:
            assert torch.equal(generate("wan", made), video)
        assert steps == [0, 0, 1, 1, 2, 2]


def test_a_scheduler_of_second_order(fresh: Pipeline, enable_lvsa: Enable) -> None:
    """Each of its evaluations is a step, though two of them have the same timestep."""
    from diffusers import FlowMatchHeunDiscreteScheduler

    pipe = fresh("wan")
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    lvsa = enable_lvsa(pipe, **KNOBS)
    with noted(pipe.transformer, lvsa) as steps:
        generate("wan", pipe)
    assert len(pipe.scheduler.timesteps) == 5 and len(set(pipe.scheduler.timesteps.tolist())) == 3
    assert steps == [step for step in range(5) for _ in range(2)]


def test_a_scheduler_that_does_not_count(fresh: Pipeline, enable_lvsa: Enable) -> None:
    from diffusers import CogVideoXDPMScheduler

    pipe = fresh("cogvideox")
    pipe.scheduler = CogVideoXDPMScheduler.from_config(pipe.scheduler.config)
    assert not hasattr(pipe.scheduler, "step_index")
    lvsa = enable_lvsa(pipe, **KNOBS)
    for _ in range(2):
        with noted(pipe.transformer, lvsa) as steps:
            generate("cogvideox", pipe)
        assert steps == [0, 1, 2]


def test_the_later_steps_of_a_video_to_video_call(fresh: Pipeline, enable_lvsa: Enable) -> None:
    from diffusers import WanVideoToVideoPipeline
    from diffusers.pipelines.wan import pipeline_wan_video2video

    pipeline_wan_video2video.prompt_clean = str.strip
    pipe = fresh("wan")
    count_patches_as_a_level(pipe.vae)
    other = WanVideoToVideoPipeline(**{name: part for name, part in pipe.components.items() if "_2" not in name})
    other.set_progress_bar_config(disable=True)
    lvsa = enable_lvsa(other, **KNOBS)
    video = [picture()] * 45
    with noted(other.transformer, lvsa) as steps:
        options = {"height": 64, "width": 64, "num_inference_steps": 4, "strength": 0.5, "output_type": "latent"}
        other(video=video, prompt="a cat", negative_prompt="bad", **options)
    assert steps == [0, 0, 1, 1]


class Timestep(torch.Tensor):
    """One whose value must not be read: on a device the host would wait for it."""

    def max(self, *_: Any) -> Any:
        raise AssertionError("the value was read")


@pytest.mark.parametrize("inference", [False, True])
def test_no_value_is_read_where_the_scheduler_counts(inference: bool) -> None:
    """Under inference mode, of whose tensors PyTorch counts no changes, from its first step on."""
    scheduler = SimpleNamespace(timesteps=torch.zeros(5), step_index=None, begin_index=2)
    pipe = type("Pipe", (), {"scheduler": scheduler})()
    generation = Generation(pipe)
    with torch.inference_mode(inference):
        timesteps = [torch.tensor([1.0]).as_subclass(Timestep) for _ in range(3)]
        steps = []
        for index, timestep in zip((2 if inference else None, 3, 4), timesteps, strict=True):
            scheduler.step_index = index
            steps += [generation.advance(timestep), generation.advance(timestep)]
        assert steps == [0, 0, 1, 1, 2, 2]
        scheduler.timesteps = torch.zeros(5)
        assert generation.advance(timesteps[0]) == 0


def test_transformers_without_their_pipeline(fresh: Pipeline, enable_lvsa: Enable) -> None:
    """Two take turns; a timestep of each token, as TI2V-5B has it, counts by its noisiest."""
    pipe = fresh("wan-a14b")
    lvsa = enable_lvsa(pipe, **KNOBS)
    hidden, text = torch.randn(1, 16, 12, 8, 8), torch.randn(1, 5, pipe.transformer.config.text_dim)
    steps = []
    for value in (900, 500, 100, 900):
        for transformer in transformers_of(pipe):
            with torch.no_grad():
                transformer(hidden, torch.tensor([value]), text)
            steps.append(lvsa.report().steps - 1)
    assert steps == [0, 0, 1, 1, 2, 2, 0, 0]
    tokens = torch.full((1, 192), 800.0)
    tokens[:, :16] = 0
    for rows in (tokens, tokens.clone(), tokens - 100 * (tokens > 0)):
        with torch.no_grad():
            pipe.transformer(hidden, rows, text)
        steps.append(lvsa.report().steps - 1)
    assert steps[8:] == [1, 1, 2]


def test_a_loop_that_steps_no_scheduler(fresh: Pipeline, enable_lvsa: Enable) -> None:
    """After a call of the pipeline, with timesteps of another unit: its videos begin at step 0 too."""
    pipe = fresh("wan")
    lvsa = enable_lvsa(pipe, **KNOBS)
    generate("wan", pipe)
    hidden, text, steps = torch.randn(1, 16, 12, 8, 8), torch.randn(1, 5, pipe.transformer.config.text_dim), []
    for value in (1.0, 0.5, 0.25, 1.0, 0.5):
        with torch.no_grad():
            pipe.transformer(hidden, torch.tensor([value]), text)
        steps.append(lvsa.report().steps - 1)
    assert steps == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("index", ["no scheduler", None, 5])
def test_a_timestep_that_is_changed_in_place(inference: bool, index: Any) -> None:
    """Where no scheduler counts: there is none, or it has not begun, or it is at the end of an earlier video."""
    scheduler = SimpleNamespace(timesteps=torch.zeros(5), step_index=index, begin_index=None)
    pipe = type("Pipe", (), {} if index == "no scheduler" else {"scheduler": scheduler})()
    generation = Generation(pipe)
    steps = []
    with torch.inference_mode(inference):
        timestep = torch.tensor([1.0])
        for value in (1.0, 0.5, 0.5, 0.2, 1.0, 0.5):
            timestep.fill_(value)
            steps += [generation.advance(timestep), generation.advance(timestep)]
    assert steps == [0, 0, 1, 1, 1, 1, 2, 2, 0, 0, 1, 1]


@pytest.mark.parametrize(("kind", "name"), [("wan", "transformer"), ("wan-a14b", "transformer_2")])
def test_a_pipeline_that_is_given_another_transformer(
    kind: str, name: str, fresh: Pipeline, enable_lvsa: Enable
) -> None:
    """Whether anything else has the old one still or not; of two that take turns one is enough."""
    pipe = fresh(kind)
    lvsa = enable_lvsa(pipe, **KNOBS)
    generate(kind, pipe, steps=1)
    own = getattr(pipe, name)
    setattr(pipe, name, type(own).from_config(own.config))
    assert lvsa.report().steps == 0
    assert str(lvsa.report()).endswith(
        ": the pipeline has another transformer since: call disable(), then enable_lvsa() again"
    )
    setattr(pipe, name, own)
    assert lvsa.report().steps == 1
    setattr(pipe, name, type(own).from_config(own.config))
    del own
    gc.collect()
    assert lvsa.report().steps == 0
