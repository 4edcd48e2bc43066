"""A request as users put it to the server, model and frames and size, and what the server would make of it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lvsa_core import Decision, FrameGrid, Pattern
from lvsa_core.decide import decide
from lvsa_core.facts import head_size, latent_frames, temporal_axis
from lvsa_core.positions import Remap, TemporalAxis, check_remap
from lvsa_core.steps import rotation_step
from lvsa_vllm_omni.checkpoint import Checkpoint
from lvsa_vllm_omni.cli import CommandError
from lvsa_vllm_omni.hooks import hook_field, load_family
from lvsa_vllm_omni.offline.geometry import check_frames, check_size
from lvsa_vllm_omni.presets import Preset, load_preset, preset_of, shape_of, shipped_presets
from lvsa_vllm_omni.settings import LvsaSettings, Mode
from lvsa_vllm_omni.shape import Shape

#: Video frames; ten minutes, twice what Wan's table of rotary positions holds. More would take minutes to plan.
MAX_FRAMES = 10_001

#: Denoising steps where no preset says, of which ``rotate_after`` is a share.
DEFAULT_STEPS = 50

#: Key of a shape -> what transformer/config.json calls it.
CONFIG_KEYS = {
    "heads": "num_attention_heads",
    "blocks": "num_layers",
    "ffn": "ffn_dim",
    "patch": "patch_size",
}


@dataclass(frozen=True)
class Model:
    """What a command was asked about: a preset, or a checkpoint and its preset.

    Args:
        title: for people. config: of its transformer, as far as it is known.
    """

    title: str
    preset: Preset
    shape: Shape
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """One video on a server with the LVSA_* settings of this environment.

    Args:
        frames: video frames. width, height: pixels. grid: what the transformer sees of them.
        arguments: as from :meth:`LvsaSettings.plan_arguments`. mode: of the model's family, never ``off``.
        hint: how to switch LVSA on, where this environment does not.
        steps: denoising steps, the preset's; None: not known.
    """

    model: Model
    frames: int
    width: int
    height: int
    grid: FrameGrid
    arguments: dict[str, Any]
    mode: Mode
    hint: str | None = None
    extra_memory: float | None = None
    steps: int | None = None

    def at(self, step: int) -> tuple[Pattern, Decision]:
        """Pattern and decision of a denoising step."""
        return self._decided(step, self.arguments)

    @property
    def rotate_after(self) -> float:
        """Share of the denoising steps in which the anchors stand still."""
        return float(self.arguments.get("rotate_after", 0.0))

    def rotated(self, step: int) -> int:
        """How many steps the anchors have rotated for at a denoising step."""
        return rotation_step(step, self.steps or DEFAULT_STEPS, self.rotate_after) or 0

    @property
    def held(self) -> tuple[int, int]:
        """For how many of all denoising steps the anchors stand still, and how many there are."""
        steps = self.steps or DEFAULT_STEPS
        return steps - self.rotated(steps), steps

    def _decided(self, step: int, arguments: dict[str, Any]) -> tuple[Pattern, Decision]:
        steps = self.steps or DEFAULT_STEPS
        return decide(self.grid.frames, step, arguments, steps=steps, beyond_only=self.mode == "beyond")

    def rotation(self) -> list[Pattern]:
        """The patterns of successive steps until they repeat, or have had their anchors on every frame."""
        pattern, _ = self.at(0)
        steps = min(pattern.keyframe_interval, pattern.frames) if self.arguments["rotate"] else 1
        if self.rotate_after:  # and no more than there are
            steps = min(steps, self.rotated(self.held[1] - 1) + 1)
        moving = {**self.arguments, "rotate_after": 0.0}
        return [self._decided(step, moving)[0] for step in range(steps)]

    def first_step(self, turn: int) -> int:
        """The first denoising step in which the anchors are those of ``rotation()[turn]``."""
        return turn and turn + self.held[0]

    def describe(self) -> str:
        """Model, frames and size in a line."""
        return (
            f"{self.model.title}, {self.frames} frames of {self.width}x{self.height}: {self.grid.frames} latent frames "
            f"of {self.grid.patches:,} tokens, {self.grid.tokens:,} in all"
        )


def requests(options: argparse.Namespace) -> Iterator[Request]:
    """A request for each of the comma-separated ``--frames``.

    Raises:
        CommandError: if a model, a length, a size or an LVSA_* variable cannot be used.
    """
    try:
        settings = LvsaSettings.load()
        model = _model(options, settings)
        width, height = _size(options.size, model)
        lengths = [_frames(text, model.preset) for text in options.frames.split(",")]
        arguments = arguments_of(settings, model.preset)
        if "anchor_positions" in arguments and (axis := temporal_axis(model.preset.family, model.config)):
            arguments["remap"] = Remap(arguments["reference_frames"], TemporalAxis.of(*axis))
        family: Any = model.preset.family
        mode, hint = settings.mode(family), None
    except ValueError as error:
        raise CommandError(str(error)) from None
    if mode == "off":
        switch = f"LVSA_{hook_field(family).upper()}=1"
        mode, hint = "always", f"LVSA is not switched on here: a server does this with {switch}."
    for frames in lengths:
        latent = latent_frames(frames, model.preset.vae_temporal_factor)
        grid = FrameGrid(latent, model.shape.patches(height, width))
        yield Request(
            model, frames, width, height, grid, arguments, mode, hint, settings.extra_memory, model.preset.steps
        )


def arguments_of(settings: LvsaSettings, preset: Preset) -> dict[str, Any]:
    """What a server with these settings decides by, see :func:`lvsa_core.decide.decide`.

    Raises:
        ValueError: if the anchors of the model cannot be seen as the settings ask.
    """
    arguments = settings.plan_arguments(preset)
    if "anchor_positions" in arguments:
        rope = load_family(preset.family).rope
        check_remap(preset.family, rope, arguments["reference_frames"], arguments["window"])
    return arguments


def _model(options: argparse.Namespace, settings: LvsaSettings) -> Model:
    """Preset and shape of the model that is named, else of LVSA_PRESET."""
    if options.model is not None:
        checkpoint = Checkpoint.read(options.model)
        preset = preset_of(checkpoint, name=settings.preset)
        return Model(
            f"{options.model} ({preset.name})", preset, _checkpoint_shape(checkpoint, preset), checkpoint.transformer
        )
    named = options.preset or settings.preset
    if not named:
        raise CommandError(f"name the model with --preset or --model; presets are {', '.join(_with_shape())}")
    preset = load_preset(named)
    if preset.shape is None:
        raise CommandError(
            f"preset {preset.name} does not tell the shape of the model: take one of {', '.join(_with_shape())}, or "
            f"give a checkpoint with --model"
        )
    return Model(preset.name, preset, preset.shape, {"attention_head_dim": preset.shape.head_size})


def _with_shape() -> list[str]:
    """Names of the presets that tell a shape."""
    return [name for name, preset in shipped_presets().items() if preset.shape]


def _checkpoint_shape(checkpoint: Checkpoint, preset: Preset) -> Shape:
    """The shape that a checkpoint's configuration tells, for the rest the preset's."""
    config = checkpoint.transformer
    told = {key: config[name] for key, name in CONFIG_KEYS.items() if config.get(name) is not None}
    told |= {"head_size": size} if (size := head_size(config)) else {}
    if isinstance(told.get("patch"), list):
        told["patch"] = (told["patch"] or [None])[-1]
    try:
        if preset.shape is None:
            # What the preset of a whole family leaves open is as in the family's other presets.
            told["vae_spatial_factor"] = checkpoint.size_multiple // told.get("patch", 1)
            others = [other.shape for other in shipped_presets().values() if other.family == preset.family]
            return shape_of({"cross_tokens": max((x.cross_tokens for x in others if x), default=0), **told})
        follows = {"kv_heads": preset.shape.heads, "hidden": preset.shape.heads * preset.shape.head_size}
        known = {key: value for key, value in asdict(preset.shape).items() if follows.get(key) != value}
        return shape_of({**known, **told})
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise CommandError(
            f"{checkpoint.folder / 'transformer' / 'config.json'} does not tell the shape: {error}"
        ) from None


def _frames(text: str, preset: Preset) -> int:
    """A length in video frames that the VAE can make."""
    if not re.fullmatch(r"\s*[+-]?\d{1,9}\s*", text):
        raise CommandError(
            f"--frames must be a number of video frames such as {4 * preset.training_frames - 3}, got {text!r}"
        )
    frames = int(text)
    check_frames(frames, preset.vae_temporal_factor)
    if frames > MAX_FRAMES:
        raise CommandError(f"--frames must be at most {MAX_FRAMES}, got {frames}")
    return frames


def _size(text: str | None, model: Model) -> tuple[int, int]:
    """Width and height in pixels."""
    preset = model.preset
    if text is not None:
        found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
        if not found:
            raise CommandError(f"--size must be width x height in pixels such as 832x480, got {text!r}")
        width, height = int(found[1]), int(found[2])
    elif preset.width is not None and preset.height is not None:
        width, height = preset.width, preset.height
    else:
        raise CommandError(f"preset {preset.name} does not tell a size: give one such as --size 832x480")
    check_size(height, width, model.shape.size_multiple)
    return width, height
