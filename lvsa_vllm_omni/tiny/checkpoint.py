"""Tiny checkpoints in the diffusers layout: which kinds there are, and how one gets onto the disk whole.

All have random weights but Toy Wan, which is trained.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from lvsa_vllm_omni.tiny.sizes import TRANSFORMER


class Kind(NamedTuple):
    """A kind of tiny checkpoint.

    Args:
        builder: ``module:function`` that makes its components of the sizes; imported when it is asked for.
        sizes: what one may choose, and what it is otherwise.
    """

    builder: str
    sizes: Mapping[str, int] = TRANSFORMER


KINDS: Mapping[str, Kind] = {
    "wan": Kind("lvsa_vllm_omni.tiny.wan:components"),
    "toy-wan": Kind("lvsa_vllm_omni.tiny.toy:components", {}),
    "wan-i2v": Kind("lvsa_vllm_omni.tiny.wan:image_components"),
    "wan-ti2v": Kind("lvsa_vllm_omni.tiny.wan:wide_components"),
    "wan-a14b": Kind("lvsa_vllm_omni.tiny.wan:expert_components"),
    "hunyuan": Kind("lvsa_vllm_omni.tiny.hunyuan:components"),
    "hunyuan-i2v": Kind("lvsa_vllm_omni.tiny.hunyuan:image_components"),
    "cosmos3": Kind("lvsa_vllm_omni.tiny.cosmos3:components", {**TRANSFORMER, "kv_heads": 2}),
    "cogvideox": Kind("lvsa_vllm_omni.tiny.cogvideox:components"),
}

INDEX = "model_index.json"


class Component(Protocol):
    """A part of a diffusers pipeline: model, tokenizer or scheduler."""

    def save_pretrained(self, save_directory: str, /) -> Any:
        """Write the part into a folder of its own."""


#: Name of a component -> (library, class name, component).
Parts: TypeAlias = dict[str, tuple[str, str, Component]]


class Built(NamedTuple):
    """What a kind's function builds: class of the pipeline, its components, and what else its index says."""

    pipeline_class: str
    components: Parts
    settings: Mapping[str, Any] = {}


def of_diffusers(component: Any) -> tuple[str, str, Any]:
    """Name a component of diffusers' as the index does: library, class name, component."""
    return "diffusers", type(component).__name__, component


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, with the sentence for the user."""


def write_checkpoint(
    kind: str, directory: str | os.PathLike[str], *, seed: int = 0, force: bool = False, **sizes: Any
) -> Path:
    """Write a small random checkpoint of one kind: all of it, or nothing that a pipeline would load.

    Args:
        kind: a key of ``KINDS``.
        directory: where to write; it and its parents are made where missing.
        seed: of random weights; the same seed and the same torch write the same numbers. Trained ones have none.
        force: write into a directory that is not empty. An older checkpoint there is replaced, other files stay.
        sizes: what the kind lets one choose, such as ``layers=2, heads=4, head_dim=32``.

    Returns:
        The directory, as an absolute path.

    Raises:
        CheckpointError: the kind or a size is unknown, the directory cannot be written or is not empty, or a library is
            missing.
    """
    if kind not in KINDS:
        raise CheckpointError(f"There is no tiny checkpoint of kind {kind!r}. Choose one of: {', '.join(KINDS)}.")
    target = Path(directory).expanduser().absolute()
    try:
        for path in (target, target.parent):
            if path.exists() and not path.is_dir():
                raise CheckpointError(f"{path} is a file. Name a directory.")
        if not force and target.is_dir() and any(target.iterdir()):
            raise CheckpointError(f"{target} is not empty. Name another directory, or write into it with --force.")
        home = target if target.is_dir() else target.parent
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tiny-checkpoint-", dir=home) as scratch:
            draft = Path(scratch, "new")
            _save(_build(kind, seed, sizes), draft)
            _move(draft, target, Path(scratch, "old"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"Cannot write to {target}: {reason}. Name a directory that you can write.") from error
    return target


def _build(kind: str, seed: int, sizes: Mapping[str, Any]) -> Built:
    """Build the components; the seed decides about all of them, and about no number drawn afterwards."""
    module, _, function = KINDS[kind].builder.partition(":")
    if unknown := sizes.keys() - KINDS[kind].sizes:
        known = ", ".join(KINDS[kind].sizes)
        advice = f"Choose of: {known}." if known else "It is trained, and has the sizes that it has."
        raise CheckpointError(f"{kind} has no size {min(unknown)!r}. {advice}")
    try:
        import torch

        build = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"A tiny checkpoint needs {error.name}, which comes with vLLM-Omni: run make setup."
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built: Built = build(**{**KINDS[kind].sizes, **sizes})
    return built


def _save(built: Built, directory: Path) -> None:
    """Write every component into its folder, and the index that names pipeline and classes."""
    index: dict[str, Any] = {"_class_name": built.pipeline_class, **built.settings}
    for name, (library, class_name, component) in built.components.items():
        component.save_pretrained(str(directory / name))
        index[name] = [library, class_name]
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _move(draft: Path, target: Path, old: Path) -> None:
    """Put the draft in its place. Without its index a half-moved checkpoint cannot be mistaken for a whole one."""
    if not target.exists():
        draft.rename(target)
        return
    old.mkdir()
    for entry in sorted(draft.iterdir(), key=lambda path: path.name != INDEX):
        if (target / entry.name).exists():
            (target / entry.name).rename(old / entry.name)
    for entry in sorted(draft.iterdir(), key=lambda path: path.name == INDEX):
        entry.rename(target / entry.name)
