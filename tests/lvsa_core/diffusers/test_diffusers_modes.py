"""LVSA beside what else diffusers can do with a pipeline."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from lvsa_core import FrameGrid, Pattern, plan, reference_attend
from lvsa_core.diffusers import dispatch
from lvsa_core.diffusers.family import VideoTokens
from lvsa_core.steps import rotation_step
from tests.support.videos import KNOBS, LATENT, REFERENCE, SHORT, VISIBLE, distance, generate, masked

Pipeline = Callable[[str], Any]
Enable = Callable[..., Any]
#: Anchors that are boosted and stand still at first; :func:`moved` sees them at other positions too.
STILL: dict[str, Any] = {"anchor_boost": 1.5, "rotate_after": 0.3}
MOVED = {**STILL, "anchor_positions": "remap"}


def test_the_dense_path_is_the_backend_the_user_chose(
    fresh: Pipeline, enable_lvsa: Enable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen before or after LVSA is enabled; in sparse calls it computes the cross-attention."""
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    pipe, used = fresh("cosmos3"), []
    for name in [name for name in registry._backends if name.value in ("native", "_native_math")]:
        function = registry._backends[name]

        def watched(*args: Any, name: Any = name, function: Any = function, **options: Any) -> Any:
            used.append((name.value, options["query"].shape[1]))
            return function(*args, **options)

        monkeypatch.setitem(registry._backends, name, watched)
    monkeypatch.setattr(registry, "_active_backend", registry._active_backend)  # undo what set_attention_backend does

    enable_lvsa(pipe, **KNOBS)
    sparse = generate("cosmos3", pipe)
    assert {name for name, _ in used} == {"native"}
    text = {rows for _, rows in used}
    used.clear()
    pipe.transformer.set_attention_backend("_native_math")
    assert distance(generate("cosmos3", pipe), sparse) < VISIBLE / 100
    assert {name for name, _ in used} == {"_native_math"} and {rows for _, rows in used} == text
    used.clear()
    generate("cosmos3", pipe, SHORT)
    assert {name for name, _ in used} == {"_native_math"} and {rows for _, rows in used} > text
    assert {processor._attention_backend for processor in pipe.transformer.attn_processors.values()} == {"_native_math"}


@pytest.mark.parametrize("kind", ["wan", "cogvideox"])
def test_lora_and_fused_projections(kind: str, fresh: Pipeline, enable_lvsa: Enable) -> None:
    peft = pytest.importorskip("peft")
    pipe = fresh(kind)
    plain = generate(kind, pipe)
    enable_lvsa(pipe, **KNOBS)
    sparse = generate(kind, pipe)
    pipe.transformer.fuse_qkv_projections()
    assert distance(generate(kind, pipe), sparse) < VISIBLE / 100
    pipe.transformer.unfuse_qkv_projections()
    assert distance(generate(kind, pipe), sparse) < VISIBLE / 100
    enable_lvsa.undo()  # type: ignore[attr-defined]

    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
    pipe.transformer.add_adapter(config)
    with masked(kind, pipe):
        oracle = generate(kind, pipe)
    enable_lvsa(pipe, **KNOBS)
    assert distance(generate(kind, pipe), oracle) < VISIBLE / 100
    assert distance(oracle, plain) > VISIBLE
    pipe.transformer.disable_adapters()
    assert distance(generate(kind, pipe), sparse) < VISIBLE / 100


@pytest.mark.parametrize("first", [True, False])
def test_offload(first: bool, fresh: Pipeline, enable_lvsa: Enable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model offload as diffusers does it, from the CPU to the CPU, enabled before or after LVSA."""
    pipe = fresh("wan-a14b")
    lvsa = enable_lvsa(pipe, **KNOBS)
    sparse, short = generate("wan-a14b", pipe), generate("wan-a14b", pipe, SHORT)
    if first:
        enable_lvsa.undo()  # type: ignore[attr-defined]
    from accelerate import cpu_offload_with_hook

    previous = None
    for name in ("text_encoder", "transformer", "transformer_2", "vae"):
        _, previous = cpu_offload_with_hook(getattr(pipe, name), "cpu", prev_module_hook=previous)
    if first:
        lvsa = enable_lvsa(pipe, **KNOBS)
    assert torch.equal(generate("wan-a14b", pipe), sparse)
    assert torch.equal(generate("wan-a14b", pipe, SHORT), short)
    lvsa.disable()
    assert torch.equal(generate("wan-a14b", pipe, SHORT), short)


@pytest.mark.parametrize("anchors", [{}, MOVED], ids=["plain", "moved"])
def test_group_offload(anchors: dict[str, Any], fresh: Pipeline, enable_lvsa: Enable) -> None:
    pipe = fresh("wan")
    enable_lvsa(pipe, **KNOBS, **anchors)
    sparse = generate("wan", pipe)
    pipe.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )
    assert torch.equal(generate("wan", pipe), sparse)


@pytest.mark.parametrize("kind", ["wan", "cogvideox"])
def test_first_block_cache(kind: str, fresh: Pipeline, enable_lvsa: Enable) -> None:
    """Skipped blocks do not move the step: the anchors are those of the oracle with the same cache."""
    from diffusers import FirstBlockCacheConfig

    with masked(kind, whole := fresh(kind)) as every:
        full = generate(kind, whole, steps=6)
    pipe = fresh(kind)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    with masked(kind, pipe) as some:
        oracle = generate(kind, pipe, steps=6)
    assert len(some) < len(every) and distance(full, oracle) > VISIBLE / 10
    lvsa = enable_lvsa(pipe, **KNOBS)
    assert distance(generate(kind, pipe, steps=6), oracle) < VISIBLE / 100
    assert lvsa.report().steps == lvsa.report().sparse_steps == 6


@pytest.mark.parametrize("kind", ["wan", "cogvideox"])
def test_moved_anchors_with_a_cache(
    kind: str, fresh: Pipeline, enable_lvsa: Enable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boosted, held and at other positions, with blocks that are skipped."""
    from diffusers import FirstBlockCacheConfig

    def still(step: int) -> Pattern:
        after = rotation_step(step, 6, STILL["rotate_after"])
        return plan(LATENT, reference_frames=REFERENCE, window=1, n_first=1, step=after or 0, anchor_boost=1.5)

    pipe = fresh(kind)
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
    with masked(kind, pipe, still):
        oracle = generate(kind, pipe, steps=6)
    lvsa = enable_lvsa(pipe, **KNOBS, **STILL)
    assert distance(generate(kind, pipe, steps=6), oracle) < VISIBLE / 100
    lvsa.disable()
    lvsa = enable_lvsa(pipe, **KNOBS, **MOVED)
    video = generate(kind, pipe, steps=6)
    assert distance(video, oracle) > VISIBLE / 10
    monkeypatch.setattr(dispatch, "attend", reference_attend)
    assert distance(generate(kind, pipe, steps=6), video) < VISIBLE / 100
    assert lvsa.report().sparse_steps == 6


def test_two_transformers_share_a_counter(pipeline: Pipeline, enable_lvsa: Enable) -> None:
    """The second goes on where the first stopped, with guidance and without, and the next call begins anew."""
    pipe, steps = pipeline("wan-a14b"), 4
    seen: list[tuple[Any, int]] = []
    lvsa = enable_lvsa(pipe, **KNOBS)
    hooks = [
        model.proj_out.register_forward_pre_hook(lambda module, _: seen.append((module, lvsa.report().steps - 1)))
        for model in (pipe.transformer, pipe.transformer_2)
    ]
    for guidance, calls in ((4.0, 2), (1.0, 1), (4.0, 2)):
        seen.clear()
        generate("wan-a14b", pipe, steps=steps, guidance_scale=guidance)
        assert [step for _, step in seen] == [step for step in range(steps) for _ in range(calls)]
        assert seen[-1][0] is pipe.transformer_2.proj_out
        assert seen[0][0] is pipe.transformer.proj_out
    for hook in hooks:
        hook.remove()


def test_callbacks_tiling_and_interrupt(fresh: Pipeline, enable_lvsa: Enable) -> None:
    pipe = fresh("wan")
    pipe.vae.enable_tiling()
    lvsa = enable_lvsa(pipe, **KNOBS)
    video, steps = generate("wan", pipe, output_type="np"), []

    def note(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        steps.append((step, lvsa.report().steps))
        return values

    assert (generate("wan", pipe, output_type="np", callback_on_step_end=note) == video).all()
    assert steps == [(0, 1), (1, 2), (2, 3)]

    def stop(pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = step == 1
        return values

    generate("wan", pipe, callback_on_step_end=stop)
    assert lvsa.report().steps == 2
    assert (generate("wan", pipe, output_type="np") == video).all()


def test_another_scheduler_and_another_pipeline_of_the_same_parts(fresh: Pipeline, enable_lvsa: Enable) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, WanVideoToVideoPipeline

    pipe = fresh("wan")
    lvsa = enable_lvsa(pipe, **KNOBS)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)
    video = generate("wan", pipe)
    assert torch.equal(generate("wan", pipe), video)
    assert lvsa.report().steps == 3
    other = WanVideoToVideoPipeline(**{name: part for name, part in pipe.components.items() if "_2" not in name})
    with pytest.raises(ValueError, match="already on"):
        enable_lvsa(other)


def test_masks_and_strange_processors_run_dense_and_say_so_once(
    fresh: Pipeline, enable_lvsa: Enable, caplog: pytest.LogCaptureFixture
) -> None:
    from diffusers.models.transformers.transformer_wan import WanAttnProcessor

    class Own(WanAttnProcessor):  # type: ignore[misc]
        pass

    pipe = fresh("wan")
    dense = generate("wan", pipe)
    lvsa = enable_lvsa(pipe, **KNOBS)
    sparse = generate("wan", pipe)
    usual = dict(pipe.transformer.attn_processors)
    pipe.transformer.set_attn_processor(Own())
    caplog.set_level(logging.WARNING)  # an engine that ran in this process before has left the root logger at another
    for _ in range(2):
        assert torch.equal(generate("wan", pipe), dense)
    assert [record.getMessage() for record in caplog.records if "LVSA" in record.getMessage()] == [
        "LVSA runs dense: the attention has processors of its own (Own)"
    ]
    assert "processors of its own" in str(lvsa.report())
    pipe.transformer.set_attn_processor(usual)
    assert torch.equal(generate("wan", pipe), sparse)

    caplog.clear()
    hooks = [block.attn1.register_forward_pre_hook(_with_mask, with_kwargs=True) for block in pipe.transformer.blocks]
    masked_video = generate("wan", pipe)
    assert "a mask that LVSA does not know" in caplog.text and caplog.text.count("LVSA") == 2
    lvsa.disable()
    assert torch.equal(generate("wan", pipe), masked_video)
    assert distance(masked_video, dense) > VISIBLE
    for hook in hooks:
        hook.remove()


def _with_mask(module: Any, args: Any, kwargs: Any) -> Any:
    """Hide the last frame's keys."""
    mask = torch.ones(args[0].shape[0], args[0].shape[1], dtype=torch.bool)
    mask[:, -16:] = False
    return (args[0], None, mask, *args[3:]), kwargs


@pytest.mark.parametrize("kind", ["wan", "hunyuan"])
def test_tokens_that_are_not_the_videos_run_dense(
    kind: str, fresh: Pipeline, enable_lvsa: Enable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here the family is wrong about the tokens; the padding of HunyuanVideo's text stays masked all the same."""
    caplog.set_level(logging.WARNING)
    pipe = fresh(kind)
    dense = generate(kind, pipe)
    lvsa = enable_lvsa(pipe, **KNOBS)
    read = lvsa._family.video

    def wrong(*args: Any) -> Any:
        grid, tokens = read(*args)
        right, other = tokens(), FrameGrid(grid.frames, 17)
        layouts = tuple(replace(layout, grid=other) for layout in right.layouts)
        return VideoTokens(grid, lambda: right._replace(layouts=layouts))

    monkeypatch.setitem(lvsa._family.__dict__, "video", wrong)
    assert distance(generate(kind, pipe), dense) < VISIBLE / 100
    assert lvsa.report().sparse_steps == 0
    assert caplog.text.count("tokens are not those expected (the layout adds up to") == 1


def test_context_parallelism_without_ranks(
    fresh: Pipeline, enable_lvsa: Enable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import ContextParallelConfig, ParallelConfig

    pipe = fresh("wan")
    enable_lvsa(pipe, **KNOBS)
    config = ParallelConfig(context_parallel_config=ContextParallelConfig(ulysses_degree=2))
    monkeypatch.setattr(pipe.transformer, "_parallel_config", config)
    with pytest.raises(ValueError, match="no ranks yet: turn it on by"):
        generate("wan", pipe)
