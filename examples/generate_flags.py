"""The command line of the *_generate.py examples: one for all models, whose defaults are those of ``configs/``."""

from __future__ import annotations

import argparse
from argparse import BooleanOptionalAction
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvsa_core.facts import shipped
from lvsa_core.knobs import Knobs
from lvsa_vllm_omni.offline import evaluate
from lvsa_vllm_omni.offline.arguments import file_name, number, positive

PROMPT = "A red fox runs through fresh snow, the camera follows it"
#: Knobs of the sparse attention: kind and help of their flags.
SPARSE: dict[str, tuple[type, str]] = {
    "window_size": (int, "half window (12)"),
    "n_first_frames": (int, "leading frames that stay anchors (4)"),
    "key_frame_interval": (int, "frames from anchor to anchor"),
    "auto_keyframes": (bool, "that, from the training length (on)"),
    "rotate_keyframes": (bool, "anchors move each step (on)"),
    "sparsity_scale": (float, "multiplies the frames attended to (1)"),
    "recipe": (str, "a set of options for long videos: long"),
}
RIFLEX: dict[str, tuple[type, str]] = {
    "riflex_s": (float, "factor; default: length over training length"),
    "riflex_k": (int, "which frequency; default: the intrinsic one"),
    "riflex_train_len": (int, "training length in latent frames"),
}


@dataclass(frozen=True)
class Model:
    """What an example knows of its model besides ``configs/``.

    Args:
        pipeline: name of diffusers' class. repository: on the Hugging Face Hub. preset: name in ``configs/``.
        aliases: other names that checkpoints give the pipeline.
        needed: packages besides those that every model needs.
        vae_dtype: the VAE's on an accelerator. tiling: whether the VAE decodes large videos in tiles.
        flags: adds flags of the model's own.
        load: ``arguments -> keywords`` of ``from_pretrained``; raises ImportError. call: of the pipeline's call.
    """

    pipeline: str
    repository: str
    preset: str
    aliases: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    vae_dtype: str = "bfloat16"
    tiling: bool = False
    flags: Callable[[argparse.ArgumentParser], Any] = lambda parser: None
    load: Callable[[argparse.Namespace], dict[str, Any]] = lambda arguments: {}
    call: Callable[[argparse.Namespace], dict[str, Any]] = lambda arguments: {"guidance_scale": arguments.guidance}


def parser(model: Model, description: str) -> argparse.ArgumentParser:
    """Describe the command line. A flag of LVSA that is not given has the default None: see :func:`knobs`."""
    formatter = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(description=description, formatter_class=formatter, allow_abbrev=False)
    top.add_argument("--model", default=model.repository, help="checkpoint folder, or a name on the Hugging Face Hub")
    top.add_argument("--prompt", default=PROMPT, metavar="TEXT")
    top.add_argument("--negative-prompt", metavar="TEXT")
    count, share, facts = number(int, 1), number(float, 0), shipped()[model.preset]
    for name, kind, default, text in (
        ("num-frames", count, facts["frames"], "4k + 1"),
        ("height", count, facts["height"], "pixels"),
        ("width", count, facts["width"], "pixels"),
        ("steps", count, facts["steps"], "denoising steps"),
        ("guidance", share, facts["guidance"], "scale"),
        ("fps", positive, facts["fps"], "frames a second"),
        ("seed", number(int, 0, 2**63 - 1), 42, "of the noise"),
    ):
        top.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=f"{text} (%(default)s)")
    top.add_argument("--output-dir", type=Path, default=Path("outputs"), metavar="DIR", help="(%(default)s)")
    top.add_argument("--output-name", type=file_name, metavar="NAME", help="default: prompt and settings")
    top.add_argument("--profile", action="store_true", help="print the time of each step and the peak memory")
    top.add_argument("--evaluate", action="store_true", help=evaluate.HELP)
    top.add_argument("--offload", action="store_true", help="weights wait on the host; needs an accelerator")
    model.flags(top)

    lvsa = top.add_argument_group("LVSA", "frames are video frames, unless a flag says latent frames")
    lvsa.add_argument("--lvsa", action=BooleanOptionalAction, default=False, help="sparse attention")
    kernel, same = lvsa.add_mutually_exclusive_group(), "the same as --backend flashinfer"
    kernel.add_argument("--backend", metavar="NAME", help="auto, flash, flashinfer, sdpa, or a kernel (auto)")
    kernel.add_argument("--flashinfer", action="store_const", const="flashinfer", dest="backend", help=same)
    _add(lvsa, SPARSE)
    lvsa.add_argument("--reference-latent-frames", type=int, metavar="N", help="training length; known from the model")
    lvsa.add_argument("--show-mask", action="store_true", default=None, help="draw the pattern of each step")
    riflex = top.add_argument_group("RIFLEx", "with or without --lvsa, for videos beyond the training length")
    riflex.add_argument("--riflex", action=BooleanOptionalAction, default=False, help="slow one temporal frequency")
    _add(riflex, RIFLEX)
    return top


def _add(group: Any, flags: Mapping[str, tuple[type, str]]) -> None:
    for name, (kind, text) in flags.items():
        metavar = "NAME" if kind is str else "N"
        how: dict[str, Any] = {"action": BooleanOptionalAction} if kind is bool else {"type": kind, "metavar": metavar}
        group.add_argument(f"--{name.replace('_', '-')}", help=text, **how)


def knobs(arguments: argparse.Namespace) -> dict[str, Any]:
    """The knobs of ``enable_lvsa`` that the flags ask for; empty if both --lvsa and --riflex are off.

    Without --riflex-s there is no ``riflex_s`` yet: it depends on the training length, which the model knows.

    Raises:
        ValueError: if a flag has no effect, or a value is out of range.
    """
    lvsa, riflex = arguments.lvsa, arguments.riflex
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    chosen: dict[str, Any] = {}
    for names, switch, on in (
        (("backend", *SPARSE, "show_mask"), "--lvsa", lvsa),
        (tuple(RIFLEX), "--riflex", riflex),
        (("reference_latent_frames",), "--lvsa or --riflex", lvsa or riflex),
    ):
        found = {name: given[name] for name in names if name in given}
        if found and not on:
            raise ValueError(f"--{next(iter(found)).replace('_', '-')} has an effect with {switch} only: give that too")
        chosen.update(found)
    chosen.pop("show_mask", None)
    if "key_frame_interval" in chosen:
        chosen.setdefault("auto_keyframes", False)
    if riflex and not lvsa:
        chosen["sparsity_scale"] = float(arguments.num_frames)  # more than there are frames: every call is dense
    Knobs.of({"riflex_s": 1.0, **chosen} if riflex else chosen)
    return chosen
