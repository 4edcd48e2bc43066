"""From a command line to the videos it asks for, with every length and size checked before an engine starts."""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

from lvsa_vllm_omni import request_knobs
from lvsa_vllm_omni.checkpoint import Checkpoint
from lvsa_vllm_omni.hooks import hook_field
from lvsa_vllm_omni.offline.environment import decisive_settings
from lvsa_vllm_omni.offline.geometry import check_frames, check_size, frames_of_horizon
from lvsa_vllm_omni.offline.images import ImageFile, check_number
from lvsa_vllm_omni.offline.jobs import Job, VideoSettings
from lvsa_vllm_omni.offline.prompts import PromptSpec, read_prompts_file
from lvsa_vllm_omni.presets import Preset
from lvsa_vllm_omni.settings import LvsaSettings


def lvsa_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """The LVSA settings that flags of the command line set, by name; None: left alone.

    Raises:
        ValueError: `--backend dense` with a flag of LVSA.
    """
    flags = {
        "sparsity_scale": arguments.sparsity_scale,
        "reference_latent_frames": arguments.reference_latent_frames,
        "rotate_keyframes": False if arguments.no_rotate else None,
        "keep_latents": arguments.keep_latents,
    }
    if arguments.backend != "dense":
        return {"backend": arguments.backend, **flags}
    if any(value is not None for value in flags.values()):
        raise ValueError(
            "--backend dense is the baseline without LVSA: leave out --sparsity-scale, --reference-latent-frames, "
            "--no-rotate and --keep-latents"
        )
    return {}


def jobs_of(arguments: argparse.Namespace, checkpoint: Checkpoint, preset: Preset, settings: LvsaSettings) -> list[Job]:
    """The videos that a command line asks for, in order: a prompt's own values, then the command line's, the preset's.

    Args:
        arguments: from `arguments.parser`. preset: of the checkpoint.
        settings: LVSA's settings with the flags of the command line in them.

    Raises:
        ValueError: with one sentence, if a prompt, an image, a length, a size or a setting cannot be used.
    """
    dense = arguments.backend == "dense"
    if not dense and settings.mode(preset.family) == "off":
        raise ValueError(
            f"LVSA_* variables switch LVSA off for {preset.family}: unset LVSA_{hook_field(preset.family).upper()}, or "
            "take --backend dense for the baseline"
        )
    asked = {name: value for name, value in vars(arguments).items() if value is not None}
    chosen = {**preset.model_dump(include={"height", "width", "steps", "guidance", "fps", "flow_shift"}), **asked}
    batch = {name: chosen.get(name) for name in PromptSpec.model_fields.keys() - {"prompt"}}
    common = {
        # A folder under any of its names is one model; a model on the Hub is its name.
        "model": str(checkpoint.folder.resolve()) if Path(arguments.model).expanduser().is_dir() else arguments.model,
        "family": preset.family,
        "preset": preset.name,
        **{name: chosen[name] for name in ("steps", "guidance", "flow_shift")},
        "fps": float(chosen["fps"]),
        "backend": "dense" if dense else settings.backend,
        "lvsa": {} if dense else decisive_settings(settings, preset.family),
        "plan": None if dense else settings.plan_arguments(preset),
        "engine": arguments.engine_args,
    }
    read_image = cache(ImageFile.read)
    pipeline = str(arguments.engine_args.get("model_class_name") or checkpoint.index.get("_class_name"))

    def video(spec: PromptSpec) -> VideoSettings:
        if spec.height is None or spec.width is None:
            raise ValueError(f"the preset {preset.name} has no size: give --height and --width")
        frames = spec.num_frames or preset.frames
        if spec.horizon is not None:
            frames = frames_of_horizon(spec.horizon, preset.training_frames, preset.vae_temporal_factor)
        check_frames(frames, preset.vae_temporal_factor)
        check_size(spec.height, spec.width, checkpoint.size_multiple)
        images = tuple(map(read_image, spec.image or ()))
        check_number(pipeline, checkpoint.index, len(images))
        own = spec.model_dump(include={"prompt", "negative_prompt", "seed", "height", "width"})
        if spec.lvsa is not None:
            own |= {"request": spec.lvsa, "plan": planned(spec.lvsa)}
        return VideoSettings(**{**common, **own}, frames=frames, images=images)

    def planned(asked: dict[str, Any]) -> dict[str, Any] | None:
        if dense:
            raise ValueError("lvsa has no effect with --backend dense: leave one of the two out")
        found = request_knobs.chosen(settings, asked)
        return None if found.enabled is False else found.settings.plan_arguments(preset)

    jobs = []
    for number, spec in enumerate(prompts_of(arguments), start=1):
        try:
            jobs.append(Job.numbered(number, video(spec.over(batch))))
        except ValueError as error:
            raise ValueError(f"prompt {number}: {error}") from None
    if arguments.output_name is None:
        return jobs
    if len(jobs) > 1:
        raise ValueError(f"--output-name names one video, and there are {len(jobs)} prompts: leave it out")
    return [Job(arguments.output_name, jobs[0].settings)]


def prompts_of(arguments: argparse.Namespace) -> list[PromptSpec]:
    """The prompts of a command line or of its file.

    Raises:
        ValueError: a blank prompt, or a file that cannot be used.
    """
    if arguments.prompts_file is not None:
        return read_prompts_file(arguments.prompts_file)
    if not all(text.strip() for text in arguments.prompt):
        raise ValueError("--prompt is blank")
    return [PromptSpec(prompt=text) for text in arguments.prompt]
