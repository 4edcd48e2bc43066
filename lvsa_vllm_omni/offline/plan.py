"""From a command line to the videos it asks for, with every length and size checked before an engine starts."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

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
    }
    if arguments.backend != "dense":
        return {"backend": arguments.backend, **flags}
    if any(value is not None for value in flags.values()):
        raise ValueError(
            "--backend dense is the baseline without LVSA: leave out --sparsity-scale, --reference-latent-frames and "
            "--no-rotate"
        )
    return {}


def jobs_of(arguments: argparse.Namespace, checkpoint: Checkpoint, preset: Preset, settings: LvsaSettings) -> list[Job]:
    """The videos that a command line asks for, in order.

    Args:
        arguments: from `arguments.parser`.
        preset: of the checkpoint; decides what neither the command line nor the prompt does.
        settings: LVSA's settings with the flags of the command line in them.

    Raises:
        ValueError: with one sentence, if a prompt, an image, a length, a size or a setting cannot be used.
    """
    family = preset.family
    dense = arguments.backend == "dense"
    if not dense and settings.mode(family) == "off":
        raise ValueError(
            f"LVSA_* variables switch LVSA off for {family}: unset LVSA_{hook_field(family).upper()}, or take "
            "--backend dense for the baseline"
        )
    index = checkpoint.index
    common = _Common(
        arguments=arguments,
        preset=preset,
        multiple=checkpoint.size_multiple,
        # A folder under any of its names is one model; a model on the Hub is its name.
        model=str(checkpoint.folder.resolve()) if Path(arguments.model).expanduser().is_dir() else arguments.model,
        backend="dense" if dense else settings.backend,
        lvsa={} if dense else decisive_settings(settings, family),
        plan=None if dense else settings.plan_arguments(preset),
        pipeline=str(arguments.engine_args.get("model_class_name") or index.get("_class_name")),
        index=index,
        read_image=cache(ImageFile.read),
    )
    jobs = []
    for number, spec in enumerate(prompts_of(arguments), start=1):
        try:
            jobs.append(Job.numbered(number, common.settings(spec)))
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


@dataclass(frozen=True)
class _Common:
    """What the prompts of a batch share."""

    arguments: argparse.Namespace
    preset: Preset
    multiple: int
    model: str
    backend: str
    lvsa: dict[str, Any]
    plan: dict[str, Any] | None
    pipeline: str
    index: Mapping[str, Any]
    read_image: Callable[[Path], ImageFile]

    def settings(self, spec: PromptSpec) -> VideoSettings:
        """The settings of one prompt: its own, then the command line's, then the preset's."""
        asked, preset = self.arguments, self.preset
        height = _first(spec.height, asked.height, preset.height)
        width = _first(spec.width, asked.width, preset.width)
        if height is None or width is None:
            raise ValueError(f"the preset {preset.name} has no size: give --height and --width")
        frames = self._frames(spec)
        check_frames(frames, preset.vae_temporal_factor)
        check_size(height, width, self.multiple)
        images = tuple(map(self.read_image, _first(spec.image_paths(), asked.image, ())))
        check_number(self.pipeline, self.index, len(images))
        return VideoSettings(
            model=self.model,
            family=preset.family,
            preset=preset.name,
            prompt=spec.prompt,
            negative_prompt=_first(spec.negative_prompt, asked.negative_prompt),
            seed=_first(spec.seed, asked.seed),
            frames=frames,
            height=height,
            width=width,
            steps=_first(asked.steps, preset.steps),
            guidance=_first(asked.guidance, preset.guidance),
            fps=float(_first(asked.fps, preset.fps)),
            flow_shift=_first(asked.flow_shift, preset.flow_shift),
            backend=self.backend,
            lvsa=self.lvsa,
            plan=self.plan,
            engine=asked.engine_args,
            images=images,
        )

    def _frames(self, spec: PromptSpec) -> int:
        """Length in video frames; a length of the prompt's own, of either kind, wins over the command line's."""
        frames, horizon = spec.num_frames, spec.horizon
        if frames is None and horizon is None:
            frames, horizon = self.arguments.num_frames, self.arguments.horizon
        if horizon is not None:
            return frames_of_horizon(horizon, self.preset.training_frames, self.preset.vae_temporal_factor)
        return self.preset.frames if frames is None else int(frames)


def _first(*values: Any) -> Any:
    """The first value that is given."""
    return next((value for value in values if value is not None), None)
