"""Tiny diffusers pipelines for the tests, their videos, and what a pattern makes of an untouched one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from lvsa_core import Pattern, plan
from tests.support.vace import vace_transformer

#: Video frames of long and of short videos; the tests take REFERENCE latent frames for the training length.
LONG, SHORT, REFERENCE = 45, 17, 5
LATENT = (LONG - 1) // 4 + 1
#: What the tests enable LVSA with: a window of one latent frame, so that the pattern leaves most frames out.
KNOBS: dict[str, Any] = {"reference_latent_frames": REFERENCE, "window_size": 4}
#: Mean difference of latents that a person would call different videos; rounding makes less than a hundredth of it.
VISIBLE = 0.02


def pattern_at(step: int, frames: int = LATENT) -> Pattern:
    """The pattern that KNOBS ask for."""
    return plan(frames, reference_frames=REFERENCE, window=1, n_first=1, step=step)


@dataclass(frozen=True)
class Kind:
    """A kind of tiny checkpoint.

    Args:
        patches: tokens of one latent frame of 64 x 64 pixels.
        module: where its attention processor looks up ``dispatch_attention_fn``; None: it calls SDPA.
        image: whether the pipeline starts from a picture. text: where the text stands in queries and keys.
        timestep: parameter of the transformer. options: of the pipeline's call.
    """

    patches: int
    module: str | None
    image: bool = False
    text: str = "none"
    timestep: str = "timestep"
    options: dict[str, Any] = field(default_factory=dict)


_MODELS = "diffusers.models.transformers."
GUIDED = {"negative_prompt": "bad", "guidance_scale": 4.0}
KINDS = {
    "wan": Kind(16, _MODELS + "transformer_wan", options=GUIDED),
    "wan-i2v": Kind(16, _MODELS + "transformer_wan", image=True, options=GUIDED),
    "wan-ti2v": Kind(4, _MODELS + "transformer_wan", options=GUIDED),
    "wan-a14b": Kind(16, _MODELS + "transformer_wan", options=GUIDED),
    "hunyuan": Kind(16, _MODELS + "transformer_hunyuan_video15", text="behind"),
    "hunyuan-i2v": Kind(16, _MODELS + "transformer_hunyuan_video15", image=True, text="behind"),
    "wan-vace": Kind(16, _MODELS + "transformer_wan", text="first", options=GUIDED),  # a reference image, not a text
    "cosmos3": Kind(
        4,
        _MODELS + "transformer_cosmos3",
        text="keys first",
        timestep="vision_timesteps",
        options={"enable_safety_check": False, "guidance_scale": 4.0},
    ),
    "cogvideox": Kind(16, None, text="first", options={**GUIDED, "max_sequence_length": 24}),
}
#: With knobs or lengths of their own, and so not in all tests.
OTHER_KINDS = {"cogvideox-1.5": KINDS["cogvideox"]}
#: One of each family.
FAMILIES = ["wan", "hunyuan", "cosmos3", "cogvideox"]


def spec_of(kind: str) -> Kind:
    """What a kind is."""
    return {**KINDS, **OTHER_KINDS}[kind]


#: Kinds that are made of the checkpoint of another one.
MADE_OF = {"wan-vace": "wan", "cogvideox-1.5": "cogvideox"}


def remade(kind: str, pipe: Any) -> Any:
    """A pipeline of a kind that has no checkpoint, with a transformer of its own."""
    import diffusers

    from lvsa_vllm_omni.tiny import cogvideox

    if kind == "wan-vace":
        count_patches_as_a_level(pipe.vae)
        made, transformer = diffusers.WanVACEPipeline, vace_transformer(dict(pipe.transformer.config), layers=(0, 1))
    else:
        changes = {"patch_size_t": 2, "patch_bias": False, "sample_frames": 81}
        torch.manual_seed(0)
        config = {**pipe.transformer.config, **changes}
        made, transformer = (
            diffusers.CogVideoXPipeline,
            diffusers.CogVideoXTransformer3DModel.from_config(config).eval(),
        )
        cogvideox._scale_up(transformer)
    return made(**{**pipe.components, "transformer": transformer})


def count_patches_as_a_level(vae: Any) -> None:
    """For pipelines that take the number of a VAE's levels for its spatial factor, and do not see its patches."""
    vae.temperal_downsample = [False, *vae.temperal_downsample]


def load(kind: str, folder: Path) -> Any:
    """The pipeline of a checkpoint, with short texts."""
    from diffusers import DiffusionPipeline
    from diffusers.guiders import ClassifierFreeGuidance

    parts = {"guider": ClassifierFreeGuidance(guidance_scale=4.0)} if kind.startswith("hunyuan") else {}
    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **parts)
    if kind in MADE_OF:
        pipe = remade(kind, pipe)
    pipe.set_progress_bar_config(disable=True)
    if kind in ("wan-i2v", "wan-vace"):  # they clean prompts with ftfy, which is not a dependency of diffusers
        import_module(type(pipe).__module__).prompt_clean = str.strip  # type: ignore[attr-defined]
    if kind.startswith("hunyuan"):
        pipe.tokenizer_max_length, pipe.tokenizer_2_max_length, pipe.target_size = 60, 12, 64
        if not spec_of(kind).image:
            pipe.vision_num_semantic_tokens = 10
    return pipe


def generate(kind: str, pipe: Any, frames: int = LONG, *, seed: int = 1, steps: int = 3, **options: Any) -> Tensor:
    """Latents of one call."""
    call = {
        "prompt": "a cat on a mat",
        "num_frames": frames,
        "num_inference_steps": steps,
        "generator": torch.Generator().manual_seed(seed),
        "output_type": "latent",
        **spec_of(kind).options,
    }
    if spec_of(kind).image:
        call["image"] = picture()
    if kind == "wan-vace":
        call["reference_images"] = [picture()]
    if kind != "hunyuan-i2v":
        call |= {"height": 64, "width": 64}
    result = pipe(**{**call, **options})
    latents: Tensor = result.video if kind == "cosmos3" else result.frames
    return latents


def picture() -> Any:
    """Coloured squares, 64 x 64."""
    from PIL import Image

    squares = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(squares).resize((64, 64), Image.Resampling.NEAREST)


def distance(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference."""
    return float((one - other).abs().mean())


def transformers_of(pipe: Any) -> list[Any]:
    """The pipeline's transformers, one or two."""
    found = (getattr(pipe, name, None) for name in ("transformer", "transformer_2"))
    return [transformer for transformer in found if transformer is not None]


@contextmanager
def masked(kind: str, pipe: Any, pattern: Callable[[int], Pattern] = pattern_at) -> Iterator[list[int]]:
    """Within the block the untouched pipeline's video self-attention is SDPA with the pattern as a full mask.

    This is the oracle, written against diffusers alone: it finds the video's attention by its number of tokens, the
    step by the scheduler's timesteps, and adds the pattern to whatever mask the processor made.

    Args:
        pattern: of a denoising step.

    Yields:
        the denoising step of every masked call, which it fills.
    """
    spec, steps, now = spec_of(kind), [], [0]
    function = torch.nn.functional.scaled_dot_product_attention

    def before(transformer: Any, args: Any, kwargs: Any) -> None:
        moment = kwargs[spec.timestep].flatten()[-1]
        now[0] = int((pipe.scheduler.timesteps - moment).abs().argmin())

    def mask_of(q_rows: int, k_rows: int) -> Tensor | None:
        """[q_rows, k_rows] if this is the video's self-attention."""
        chosen = pattern(now[0])
        video = chosen.frames * spec.patches
        if not (q_rows == video if spec.text in ("none", "keys first") else q_rows > video):
            return None
        if spec.text in ("none", "first") and k_rows != q_rows:
            return None
        rows = torch.tensor([[chosen.allows(q, k) for k in range(chosen.frames)] for q in range(chosen.frames)])
        mask = torch.ones(q_rows, k_rows, dtype=torch.bool)
        q_start = q_rows - video if spec.text == "first" else 0
        k_start = k_rows - video if spec.text in ("first", "keys first") else 0
        blocks = rows.repeat_interleave(spec.patches, 0).repeat_interleave(spec.patches, 1)
        mask[q_start : q_start + video, k_start : k_start + video] = blocks
        steps.append(now[0])
        if not chosen.bias:
            return mask
        boosts = torch.tensor([[chosen.boost(q, k) for k in range(chosen.frames)] for q in range(chosen.frames)])
        added = torch.zeros(q_rows, k_rows)
        blocks = boosts.repeat_interleave(spec.patches, 0).repeat_interleave(spec.patches, 1)
        added[q_start : q_start + video, k_start : k_start + video] = blocks
        return added.masked_fill(~mask, -torch.inf)

    def sdpa(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        mask = None if options.get("is_causal") else mask_of(q.shape[2], k.shape[2])
        if mask is not None:
            joined = attn_mask is None or (mask & attn_mask if mask.dtype == torch.bool else attn_mask.log() + mask)
            attn_mask = mask if attn_mask is None else joined
        return function(q, k, v, attn_mask=attn_mask, **options)

    def dispatch(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **options: Any) -> Tensor:
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        causal, grouped = options.get("is_causal", False), options.get("enable_gqa", False)
        return sdpa(*heads_first, attn_mask=attn_mask, is_causal=causal, enable_gqa=grouped).transpose(1, 2)

    hooks = [model.register_forward_pre_hook(before, with_kwargs=True) for model in transformers_of(pipe)]
    target = (import_module(spec.module), "dispatch_attention_fn", dispatch) if spec.module else None
    try:
        with patch.object(*(target or (torch.nn.functional, "scaled_dot_product_attention", sdpa))):
            yield steps
    finally:
        for hook in hooks:
            hook.remove()
