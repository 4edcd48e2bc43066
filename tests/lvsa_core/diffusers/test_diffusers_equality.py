"""A sparse video is the untouched pipeline's with the pattern as a mask; a short one is the untouched pipeline's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from lvsa_core import plan, reference_attend
from lvsa_core.diffusers import dispatch, seam
from tests.support.videos import (
    FAMILIES,
    KINDS,
    KNOBS,
    LATENT,
    LONG,
    SHORT,
    VISIBLE,
    distance,
    generate,
    masked,
    pattern_at,
)

Pipeline = Callable[[str], Any]


def close(video: Any, oracle: Any, dense: Any) -> None:
    """Rounding apart the same as the oracle's, and another than the dense one."""
    assert distance(video, oracle) < VISIBLE / 100
    assert distance(video, dense) > VISIBLE


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_masked_pipeline(kind: str, pipeline: Pipeline, enable_lvsa: Callable[..., Any]) -> None:
    pipe = pipeline(kind)
    dense = generate(kind, pipe)
    with masked(kind, pipe) as steps:
        oracle = generate(kind, pipe)
    assert sorted(set(steps)) == [0, 1, 2]
    assert len({pattern_at(step).anchors for step in steps}) == 3
    lvsa = enable_lvsa(pipe, **KNOBS)
    close(generate(kind, pipe), oracle, dense)
    report = lvsa.report()
    assert (report.frames, report.patches, report.steps, report.sparse_steps) == (LATENT, KINDS[kind].patches, 3, 3)
    assert report.density == pattern_at(2).density


def test_cogvideox_with_frames_in_pairs(fresh: Pipeline, enable_lvsa: Callable[..., Any]) -> None:
    """CogVideoX 1.5, with one pair of latent frames as the leading anchor."""
    kind, pairs = "cogvideox-1.5", LATENT // 2
    pipe = fresh(kind)
    dense = generate(kind, pipe)
    with masked(kind, pipe, lambda step: plan(pairs, reference_frames=3, window=1, n_first=1, step=step)):
        oracle = generate(kind, pipe)
    lvsa = enable_lvsa(pipe, reference_latent_frames=3, window_size=8)
    close(generate(kind, pipe), oracle, dense)
    assert (lvsa.report().frames, lvsa.report().sparse_steps) == (pairs, 3)


@pytest.mark.parametrize("precision", ["bfloat16", "autocast"])
def test_hunyuan_in_lower_precision(precision: str, fresh: Pipeline, enable_lvsa: Callable[..., Any]) -> None:
    """Under ``torch.autocast`` queries and keys come in float32 and values in bfloat16."""
    pipe = fresh("hunyuan")
    if precision == "bfloat16":
        pipe.to(torch.bfloat16)

    def video() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            return generate("hunyuan", pipe).float()

    dense = video()
    with masked("hunyuan", pipe):
        oracle = video()
    lvsa = enable_lvsa(pipe, **KNOBS)
    assert distance(video(), oracle) < distance(dense, oracle) / 5
    assert lvsa.report().sparse_steps == 3 and not lvsa.report().reason


@pytest.mark.parametrize("kind", FAMILIES)
def test_equal_to_reference_attend(
    kind: str, pipeline: Pipeline, enable_lvsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipeline(kind)
    enable_lvsa(pipe, **KNOBS)
    video, kernels = generate(kind, pipe), []

    def reference(*args: Any, **options: Any) -> Any:
        kernels.append(options["kernel"])
        return reference_attend(*args, **options)

    monkeypatch.setattr(dispatch, "attend", reference)
    assert distance(video, generate(kind, pipe)) < VISIBLE / 100
    assert set(kernels) == {"auto"}


@pytest.mark.parametrize("kind", KINDS)
def test_untouched_up_to_the_reference_and_after_disable(
    kind: str, pipeline: Pipeline, enable_lvsa: Callable[..., Any]
) -> None:
    pipe = pipeline(kind)
    short, long = generate(kind, pipe, SHORT), generate(kind, pipe)
    lvsa = enable_lvsa(pipe, **KNOBS)
    assert distance(generate(kind, pipe), long) > VISIBLE
    assert torch.equal(generate(kind, pipe, SHORT), short)
    assert lvsa.report().sparse_steps == 0 and "within the attention budget of 5" in str(lvsa.report())
    lvsa.disable()
    lvsa.disable()
    assert torch.equal(generate(kind, pipe, SHORT), short)
    assert torch.equal(generate(kind, pipe), long)


@pytest.mark.parametrize("prompts", [["a cat on a mat", "dog"], ["a cat on a mat"]])
def test_hunyuan_attends_to_valid_text_alone(
    prompts: list[str], pipeline: Pipeline, enable_lvsa: Callable[..., Any]
) -> None:
    """Prompts of different lengths in one batch, words in quotation marks, and other padding."""
    pipe = pipeline("hunyuan")
    options: dict[str, Any] = {"prompt": [f'{text} that says "hi"' for text in prompts]}
    dense = generate("hunyuan", pipe, **options)
    with masked("hunyuan", pipe):
        oracle = generate("hunyuan", pipe, **options)
    enable_lvsa(pipe, **KNOBS)
    video = generate("hunyuan", pipe, **options)
    assert len(video) == len(prompts)
    close(video, oracle, dense)
    before, pipe.tokenizer_max_length = pipe.tokenizer_max_length, 80
    try:
        assert distance(generate("hunyuan", pipe, **options), video) < VISIBLE / 100
    finally:
        pipe.tokenizer_max_length = before


def test_hunyuan_makes_no_mask_of_s_x_s(
    pipeline: Pipeline, enable_lvsa: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the attention gets one, nor is one made on the way."""
    from diffusers.models import attention_dispatch

    pipe, devices = pipeline("hunyuan"), []
    own, backends = seam.backend_over(None), attention_dispatch._AttentionBackendRegistry._backends
    make = backends[own]
    enable_lvsa(pipe, **KNOBS)

    def watched(*args: Any, **options: Any) -> Any:
        devices.append(options["attn_mask"].device.type)
        return make(*args, **options)

    monkeypatch.setitem(backends, own, watched)
    generate("hunyuan", pipe)
    assert set(devices) == {"meta"}


@pytest.mark.parametrize("kind", FAMILIES)
def test_same_seed_same_video_whatever_ran_before(
    kind: str, pipeline: Pipeline, enable_lvsa: Callable[..., Any]
) -> None:
    pipe = pipeline(kind)
    enable_lvsa(pipe, **KNOBS)
    video = generate(kind, pipe)
    short = generate(kind, pipe, SHORT, steps=2)
    assert torch.equal(generate(kind, pipe), video)
    generate(kind, pipe, LONG + 8, width=96)
    assert torch.equal(generate(kind, pipe), video)
    for error in (RuntimeError, KeyboardInterrupt):
        last = pipe.transformer.get_submodule("proj_out")
        hook = last.register_forward_pre_hook(_failing(error, after=2))
        with pytest.raises(error):
            generate(kind, pipe)
        hook.remove()
        assert torch.equal(generate(kind, pipe, SHORT, steps=2), short)
        assert torch.equal(generate(kind, pipe), video)


def _failing(error: type[BaseException], after: int) -> Callable[..., None]:
    calls = iter(range(after))

    def hook(*_: Any) -> None:
        if next(calls, None) is None:
            raise error

    return hook


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_disable_after_a_failed_call(
    error: type[BaseException], fresh: Pipeline, enable_lvsa: Callable[..., Any]
) -> None:
    pipe = fresh("wan")
    processors = dict(pipe.transformer.attn_processors)
    dense = generate("wan", pipe)
    lvsa = enable_lvsa(pipe, **KNOBS)
    hook = pipe.transformer.proj_out.register_forward_pre_hook(_failing(error, after=0))
    with pytest.raises(error):
        generate("wan", pipe)
    hook.remove()
    lvsa.disable()
    assert pipe.transformer.attn_processors == processors
    assert not pipe.transformer._forward_hooks and not pipe.transformer._forward_pre_hooks
    assert torch.equal(generate("wan", pipe), dense)
