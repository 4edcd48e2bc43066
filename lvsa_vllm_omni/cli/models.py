"""`lvsa models`: the models that LVSA knows, from families and presets."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lvsa_vllm_omni.cli import CommandError
from lvsa_vllm_omni.cli.tables import columns, markdown_table
from lvsa_vllm_omni.hooks import DENSE, SPECS, FamilySpec, HookError, load_family

if TYPE_CHECKING:
    from lvsa_vllm_omni.presets import Preset

DESCRIPTION = (
    "List the models that LVSA knows: what each was trained for, which of its attention is sparse, and where it has "
    "run. Families of installed packages are among them."
)
EXAMPLE = "lvsa models"

#: Where the text stands in the self-attention, for people.
TEXT = {
    "none": "not in it: cross-attention",
    "behind": "behind the video, in queries and keys",
    "keys first": "before the video, in the keys alone",
}
HEADER = (
    "model",
    "transformer class",
    "training length",
    "text in the self-attention",
    "sparse",
    "dense, and why",
    "run on CPU",
    "run on GPU",
)
NOT_YET = "not yet"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `lvsa models`."""
    parser.add_argument("--markdown", action="store_true", help="the tables of docs/models.md: what is shipped")


def run(options: argparse.Namespace) -> Iterator[str]:
    """The lines of `lvsa models`.

    Raises:
        CommandError: if a family or a preset of an installed package cannot be had.
    """
    from lvsa_vllm_omni.presets import PresetError, known_presets

    if options.markdown:
        yield from markdown()
        return
    try:
        rows = [_short(preset, load_family(preset.family)) for preset in known_presets().values()]
    except (HookError, PresetError) as error:
        raise CommandError(str(error)) from None
    yield from columns([("model", "preset", "switch", "training length", "run on CPU", "run on GPU"), *rows])
    yield ""
    yield "The engine's own attention in: " + ", ".join(model.title for model in DENSE)


def markdown() -> Iterator[str]:
    """The two tables of docs/models.md: what LVSA runs on, and what stays dense."""
    yield from markdown_table([HEADER, *_rows()])
    yield ""
    others = [(model.title, _code(model.transformer), model.reason) for model in DENSE if not model.family]
    yield from markdown_table([("stays dense", "transformer class", "why"), *others])


def _rows() -> Iterator[Sequence[str]]:
    """A row for each shipped preset, family by family, the models of a family that stay dense behind it."""
    from lvsa_vllm_omni.presets import shipped_presets

    presets = sorted(shipped_presets().values(), key=lambda preset: preset.shape is None)  # of a whole family: last
    for family, spec in SPECS.items():
        for preset in presets:
            if preset.family == family:
                yield (
                    preset.title or preset.name,
                    ", ".join(map(_code, _classes(preset, spec))),
                    _length(preset),
                    TEXT[spec.text],
                    ", ".join(_code(f"{name}.{layer}") for name in spec.attention for layer in spec.attention_layers),
                    spec.dense,
                    preset.cpu or NOT_YET,
                    preset.gpu or NOT_YET,
                )
        for model in DENSE:
            if model.family == family:
                transformer, why, run = _code(model.transformer), f"all: {model.reason}", model.cpu or NOT_YET
                yield model.title, transformer, "-", "-", "nothing", why, run, NOT_YET


def _short(preset: Preset, spec: FamilySpec) -> Sequence[str]:
    """A row for a terminal."""
    title = preset.title or preset.name
    switch = f"{spec.setting}=1"
    return title, preset.name, switch, _length(preset), preset.cpu or NOT_YET, preset.gpu or NOT_YET


def _classes(preset: Preset, spec: FamilySpec) -> list[str]:
    """Classes that select a preset, as the engine or the checkpoint names them."""
    found = preset.match.get("transformer", spec.transformer_class)
    return [found] if isinstance(found, str) else list(found)


def _length(preset: Preset) -> str:
    return f"{preset.reference_latent_frames} latent frames ({preset.training_frames} at {preset.fps} fps)"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
