"""All settings of the plugin: one frozen object, read once from LVSA_* variables."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, make_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic_core import ValidationError

from lvsa_core.grid import MOST_FRAMES
from lvsa_vllm_omni.cpu import omni_platform
from lvsa_vllm_omni.fields import Field, schemas, validator
from lvsa_vllm_omni.hooks import SPECS, family_names, hook_field
from lvsa_vllm_omni.validation import sentence
from lvsa_vllm_omni.variables import PREFIX, SettingsError, config_object, given_names, set_variables

if TYPE_CHECKING:  # with them comes torch, for which who only looks at the settings should not wait
    from lvsa_core.knobs import Knobs
    from lvsa_vllm_omni.presets import Preset

#: Name of a family: one of :func:`lvsa_vllm_omni.hooks.family_names`.
Family: TypeAlias = str

#: Families with a setting written out below; :meth:`LvsaSettings.load` adds those of installed packages.
FAMILIES: tuple[Family, ...] = tuple(SPECS)

#: "always": sparse wherever the pattern is sparse; "beyond": only past the training horizon; "off": the engine's own.
Mode = Literal["off", "always", "beyond"]

OBSOLETE = {
    name: f"{PREFIX}{name.upper()} is not needed any more: {why}"
    for names, why in (
        (("total_latent_frames",), "every request tells its own length"),
        (("patches_per_frame", "video_height", "video_width", "vae_spatial_factor", "patch_size"),
         "every request tells its own size"),
        (("cfg_passes", "n_blocks", "total_steps"), "the step comes from the engine, not from counting calls"),
        (("schedule_start", "schedule_end"), "LVSA is on in every step of a request"),
    )
    for name in names
}  # fmt: skip


#: Settings of one process alone, which change no video: ranks need not have the same.
LOCAL = (
    "extra_memory", "journal", "keep_latents", "warn_fallback", "mem_log", "step_time_log", "mask_log", "cpu",
    "allow_untested",
)  # fmt: skip

_DOCS = "docs/settings.md"


def _steps(value: str) -> str | None:
    """What the mask log is asked for."""
    if value.lower() in ("0", "off", "false"):
        return None
    if value.lower() not in ("1", "on", "true", "once") and not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", value):
        raise ValueError("1, once, N, N-M or N,M,K with denoising steps counted from 0")
    return value.lower()


def _kernels(value: str) -> str | None:
    """Names of kernels and families."""
    from lvsa_core.kernels import KERNELS, KernelUnavailable, candidates

    names = [name.strip() for name in value.split(",") if name.strip()]
    try:
        candidates(_choice("auto", names))
    except KernelUnavailable:
        raise ValueError(f"names out of {', '.join(KERNELS)}, with commas between them") from None
    return ",".join(names) or None


def _choice(backend: str, left_out: Sequence[str]) -> str:
    """What :func:`lvsa_core.kernels.candidates` reads."""
    return ",-".join([backend, *left_out])


@dataclass(frozen=True)
class LvsaSettings:
    """Settings of the plugin; field ``x`` is the variable ``LVSA_X``. Frames are video frames unless said otherwise.

    Raises:
        pydantic.ValidationError: on a bad value.
    """

    enable: bool = False
    """on for every supported family"""
    wan_hook: bool | None = None
    """on for Wan; an explicit false wins over LVSA_ENABLE"""
    hunyuan_hook: bool | None = None
    """on for HunyuanVideo 1.5; an explicit false wins over LVSA_ENABLE"""
    cosmos3_hook: bool | None = None
    """on for Cosmos 3; an explicit false wins over LVSA_ENABLE"""
    auto: bool = False
    """on for every family, but only for requests longer than the training horizon"""
    backend: Literal["auto", "sdpa", "flash", "flashinfer"] = "auto"
    """kernel of the sparse attention: auto (the fastest that passes its self-test), flash, flashinfer or sdpa"""
    skip_kernels: str | None = Field(None, check=_kernels)
    """kernels that are never tried: names or families with commas between, such as FlashAttention3,cuDNN"""
    extra_memory: float | None = Field(None, ge=0, allow_inf_nan=False)
    """GB that attention may take beside inputs and output; unset: 0.9 of what is free at a request's first step"""
    window_size: int = Field(12, ge=0, le=MOST_FRAMES)
    """half window, video frames"""
    n_first_frames: int = Field(4, ge=0, le=MOST_FRAMES)
    """leading frames that are always anchors, video frames"""
    auto_keyframes: bool = True
    """derive the keyframe interval from the reference"""
    key_frame_interval: int = Field(16, ge=1, le=MOST_FRAMES)
    """video frames, when LVSA_AUTO_KEYFRAMES=0"""
    rotate_keyframes: bool = True
    """rotate the anchor grid each step"""
    expand_window: bool = True
    """grow the window past anchors"""
    sparsity_scale: float = Field(1.0, ge=0, allow_inf_nan=False)
    """multiplies the attention budget"""
    reference_latent_frames: int | None = Field(None, ge=1, le=MOST_FRAMES)
    """training horizon in latent frames; the preset's if unset: Wan 21, TI2V-5B 31, HunyuanVideo 1.5 33, Cosmos 3 48"""
    riflex_scale: float | None = Field(None, ge=1, allow_inf_nan=False)
    """RIFLEx for requests beyond the training horizon: their length over it, such as 4; off if unset or 1"""
    anchor_positions: Literal["true", "remap"] = "true"
    """where anchors outside of a frame's window are seen: true, where they are; remap, at distances of the training"""
    anchor_boost: float = Field(0.0, ge=-100, le=100)
    """added to the scores of anchors; below 0 they count less"""
    rotate_after: float = Field(0.0, ge=0, le=1)
    """share of the denoising steps in which the anchors stand still before they rotate"""
    recipe: Literal["long"] | None = None
    """a set of settings for long videos, where they are not set themselves; best on toy models, not measured on Wan"""
    vae_temporal_factor: int | None = Field(None, ge=1, le=MOST_FRAMES)
    """video to latent frames, for the settings given in video frames; the preset's if unset: 4"""
    preset: str | None = None
    """name of a preset (`lvsa models` lists them) or path of a TOML file; chosen from the model if unset"""
    allow_request_knobs: bool = True
    """requests may bring knobs of their own, as extra_params={"lvsa": {...}}"""
    journal: str | None = None
    """file that gets a line of JSON for each request: what ran, and why; several processes may share it"""
    keep_latents: str | None = None
    """folder for a request's latents until they are decoded; `lvsa decode` makes the video of those that stay"""
    tiled_decoding: bool = True
    """decode requests beyond the training horizon in tiles, where the VAE can: less memory at once, blended seams"""
    strict: bool = False
    """a fallback in a running request is an error"""
    warn_fallback: bool = True
    """print fallback lines"""
    mem_log: bool = False
    """one [LVSA-MEM] line a denoising step"""
    step_time_log: bool = False
    """one [LVSA-TIME] line a denoising step; waits for the device each step"""
    mask_log: str | None = Field(None, check=_steps)
    """print the pattern: 1 (each step), once (first step of a request), steps as N, N-M or N,M,K"""
    cpu: bool = False
    """run the engine on the CPU where there is no accelerator"""
    allow_untested: bool = False
    """try a vLLM-Omni that is older than those LVSA is tested with"""

    def __post_init__(self) -> None:
        for name, value in validator(schemas(type(self))).validate_python(vars(self)).items():
            object.__setattr__(self, name, value)

    @property
    def kernel(self) -> str:
        """Which kernels may run, as :func:`lvsa_core.kernels.candidates` reads it."""
        return _choice(self.backend, self.skip_kernels.split(",") if self.skip_kernels else ())

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        values = {field: getattr(self, field.name) for field in fields(self)}
        return {field.name: value for field, value in values.items() if value != field.default}

    @classmethod
    def load(cls) -> LvsaSettings:
        """Read LVSA_CONFIG and the single LVSA_* variables; the former wins.

        Families that installed packages register have a setting too; then the object's class is a subclass with these.

        Raises:
            SettingsError: on an unknown name or a bad value.
        """
        settings, config = _with_registered_families(cls), config_object()
        given, known = given_names(config), [*schemas(settings), *OBSOLETE]
        for name in (name for name in given if name not in known):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {PREFIX}{near[0].upper()}?" if near else f"see {_DOCS} for the names there are."
            raise SettingsError(f"{given[name]} is not a setting of LVSA; {hint}")
        values = {**set_variables(), **config}
        if values.get("recipe"):
            from lvsa_core.knobs import with_recipe  # torch comes with it

            values = with_recipe(values)
        try:
            found = settings(**{name: value for name, value in values.items() if name not in OBSOLETE})
        except ValidationError as error:
            raise SettingsError(sentence(error, named=lambda name: given.get(name, name))) from None
        if found.rotate_after and not found.rotate_keyframes:
            if "rotate_after" in given:
                raise SettingsError("LVSA_ROTATE_KEYFRAMES=0 leaves LVSA_ROTATE_AFTER without effect: leave one out")
            return replace(found, rotate_after=0.0)  # a recipe's
        return found

    @staticmethod
    def sources() -> dict[str, str]:
        """Where each setting that the user gives comes from."""
        variables = dict.fromkeys(set_variables(), "environment variable")
        return {**variables, **dict.fromkeys(config_object(), "LVSA_CONFIG")}

    @staticmethod
    def obsolete_names() -> list[str]:
        """One sentence for each variable in the environment that is accepted but no longer needed."""
        return [OBSOLETE[name] for name in sorted(given_names(config_object()).keys() & OBSOLETE.keys())]

    def check_backend(self) -> None:
        """Refuse a kernel that needs a GPU where the engine runs on the CPU, before anything is started.

        What a GPU runs is found out where the model is built: to ask here would bind it to this process.

        Raises:
            SettingsError: naming the kernel and the reason.
        """
        if self.kernel == "auto" or omni_platform() is None:
            return
        import torch

        from lvsa_core.kernels import candidates

        found = [kernel.available(torch.device("cpu"), torch.bfloat16, 128) for kernel in candidates(self.kernel)]
        if not found:
            raise SettingsError(f"LVSA_SKIP_KERNELS={self.skip_kernels} leaves out all of {self.backend}: name fewer")
        if all(found):
            raise SettingsError(f"LVSA_BACKEND={self.backend} cannot run here: {found[0]}; choose auto or sdpa")

    def hook(self, family: Family) -> bool | None:
        """What the setting of a family says, None if it is not set."""
        value: bool | None = getattr(self, hook_field(family), None)
        return value

    def mode(self, family: Family) -> Mode:
        """Whether LVSA is on for a family."""
        hook = self.hook(family)
        if hook is False:
            return "off"
        if hook or self.enable:
            return "always"
        return "beyond" if self.auto else "off"

    def logs_mask(self, step: int, first: bool) -> bool:
        """Whether the mask log asks for this denoising step; ``first``: the request's first step."""
        if self.mask_log is None:
            return False
        if self.mask_log in ("1", "on", "true"):
            return True
        if self.mask_log == "once":
            return first
        spans = (part.partition("-") for part in self.mask_log.split(","))
        return any(int(low) <= step <= int(high or low) for low, _, high in spans)

    @property
    def knobs(self) -> Knobs:
        """What of the settings decides the pattern."""
        from lvsa_core.knobs import Knobs

        shared = {field.name for field in fields(Knobs)} & {field.name for field in fields(self)}
        given = {name: getattr(self, name) for name in shared}
        interval = None if self.auto_keyframes else self.key_frame_interval
        named = {"backend": self.kernel, "key_frame_interval": interval, "riflex_s": self.riflex_scale}
        return Knobs(**{**given, **named})

    def plan_arguments(self, preset: Preset) -> dict[str, Any]:
        """Arguments of :func:`lvsa_core.decide.decide`; latent frames."""
        factor = self.vae_temporal_factor or preset.vae_temporal_factor
        return self.knobs.plan_arguments(preset.reference_latent_frames, factor)


def _with_registered_families(settings: type[LvsaSettings]) -> type[LvsaSettings]:
    """The settings with one more for each family that an installed package registers; the same if none does."""
    new = [name for name in map(hook_field, family_names()) if name not in schemas(settings)]
    added = [(name, bool | None, Field(None)) for name in new]
    return make_dataclass(settings.__name__, added, bases=(settings,), frozen=True) if new else settings
