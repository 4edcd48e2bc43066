"""The command line of the *_generate.py examples: one for all models, whose defaults come from their model cards."""

from __future__ import annotations

import argparse
from argparse import BooleanOptionalAction
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lvsa_core.knobs import Knobs
from lvsa_vllm_omni.offline.arguments import file_name, number, positive

PROMPT = "A red fox runs through fresh snow, the camera follows it"
#: Flags of the sparse attention, which are without effect unless --lvsa is given.
SPARSE = (
    "flashinfer",
    "backend",
    "window_size",
    "n_first_frames",
    "key_frame_interval",
    "auto_keyframes",
    "rotate_keyframes",
    "sparsity_scale",
    "show_mask",
)
RIFLEX = ("riflex_s", "riflex_k", "riflex_train_len")


@dataclass(frozen=True)
class Model:
    """What an example knows of its model; the numbers are those of the model card.

    Args:
        pipeline: name of diffusers' class. repository: on the Hugging Face Hub.
        frames, height, width, steps, guidance, fps: of a video.
        aliases: other names that checkpoints give the pipeline.
        needed: packages besides those that every model needs.
        vae_dtype: the VAE's on an accelerator. tiling: whether the VAE decodes large videos in tiles.
        flags: adds flags of the model's own.
        load: ``arguments -> keywords`` of ``from_pretrained``; raises ImportError. call: of the pipeline's call.
    """

    pipeline: str
    repository: str
    frames: int
    height: int
    width: int
    steps: int
    guidance: float
    fps: float
    aliases: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()
    vae_dtype: str = "bfloat16"
    tiling: bool = False
    flags: Callable[[argparse.ArgumentParser], Any] = lambda parser: None
    load: Callable[[argparse.Namespace], dict[str, Any]] = lambda arguments: {}
    call: Callable[[argparse.Namespace], dict[str, Any]] = field(
        default=lambda arguments: {"guidance_scale": arguments.guidance}
    )


def parser(model: Model, description: str) -> argparse.ArgumentParser:
    """Describe the command line. A flag of LVSA that is not given has the default None: see :func:`knobs`."""
    formatter = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(description=description, formatter_class=formatter, allow_abbrev=False)
    top.add_argument("--model", default=model.repository, help="checkpoint folder, or a name on the Hugging Face Hub")
    top.add_argument("--prompt", default=PROMPT, metavar="TEXT")
    top.add_argument("--negative-prompt", metavar="TEXT")
    count, share = number(int, 1), number(float, 0)
    top.add_argument("--num-frames", type=count, default=model.frames, metavar="N", help="4k + 1 (%(default)s)")
    top.add_argument("--height", type=count, default=model.height, metavar="PIXELS", help="(%(default)s)")
    top.add_argument("--width", type=count, default=model.width, metavar="PIXELS", help="(%(default)s)")
    top.add_argument("--steps", type=count, default=model.steps, metavar="N", help="denoising steps (%(default)s)")
    top.add_argument("--guidance", type=share, default=model.guidance, metavar="X", help="scale (%(default)s)")
    top.add_argument("--seed", type=number(int, 0, 2**63 - 1), default=42, metavar="N", help="(%(default)s)")
    top.add_argument("--fps", type=positive, default=model.fps, metavar="X", help="frames a second (%(default)s)")
    top.add_argument("--output-dir", type=Path, default=Path("outputs"), metavar="DIR", help="(%(default)s)")
    top.add_argument("--output-name", type=file_name, metavar="NAME", help="default: prompt and settings")
    top.add_argument("--profile", action="store_true", help="print the time of each step and the peak memory")
    top.add_argument("--offload", action="store_true", help="weights wait on the host; needs an accelerator")
    model.flags(top)

    lvsa = top.add_argument_group("LVSA", "frames are video frames, unless a flag says latent frames")
    lvsa.add_argument("--lvsa", action=BooleanOptionalAction, default=False, help="sparse attention")
    kernel = lvsa.add_mutually_exclusive_group()
    kernel.add_argument("--flashinfer", action="store_true", default=None, help="the same as --backend flashinfer")
    kernel.add_argument("--backend", metavar="NAME", help="auto, flash, flashinfer, sdpa, or a kernel (auto)")
    lvsa.add_argument("--window-size", type=int, metavar="N", help="half window (12)")
    lvsa.add_argument("--n-first-frames", type=int, metavar="N", help="leading frames that stay anchors (4)")
    lvsa.add_argument("--key-frame-interval", type=int, metavar="N", help="frames from anchor to anchor")
    lvsa.add_argument("--auto-keyframes", action=BooleanOptionalAction, help="that, from the training length (on)")
    lvsa.add_argument("--rotate-keyframes", action=BooleanOptionalAction, help="anchors move each step (on)")
    lvsa.add_argument("--sparsity-scale", type=float, metavar="X", help="multiplies the frames attended to (1)")
    lvsa.add_argument("--reference-latent-frames", type=int, metavar="N", help="training length; known from the model")
    lvsa.add_argument("--show-mask", action="store_true", default=None, help="draw the pattern of each step")
    riflex = top.add_argument_group("RIFLEx", "with or without --lvsa, for videos beyond the training length")
    riflex.add_argument("--riflex", action=BooleanOptionalAction, default=False, help="slow one temporal frequency")
    riflex.add_argument("--riflex-s", type=float, metavar="S", help="factor; default: length over training length")
    riflex.add_argument("--riflex-k", type=int, metavar="K", help="which frequency; default: the intrinsic one")
    riflex.add_argument("--riflex-train-len", type=int, metavar="N", help="training length in latent frames")
    return top


def knobs(arguments: argparse.Namespace) -> dict[str, Any]:
    """The knobs of ``enable_lvsa`` that the flags ask for; empty if both --lvsa and --riflex are off.

    Raises:
        ValueError: if a flag has no effect, or a value is out of range.

    Without --riflex-s there is no ``riflex_s`` yet: it depends on the training length, which the model knows.
    """
    given = {name for name, value in vars(arguments).items() if value is not None}
    for names, switch in ((SPARSE, "lvsa"), (RIFLEX, "riflex")):
        lost = [name for name in names if name in given]
        if lost and not getattr(arguments, switch):
            raise ValueError(f"--{lost[0].replace('_', '-')} has an effect with --{switch} only: give that too")
    if not arguments.lvsa and not arguments.riflex:
        if arguments.reference_latent_frames is not None:
            raise ValueError("--reference-latent-frames has an effect with --lvsa or --riflex only: give one of them")
        return {}
    wanted = {*SPARSE, *RIFLEX, "reference_latent_frames"} - {"flashinfer", "show_mask"}
    chosen = {name: getattr(arguments, name) for name in sorted(wanted & given)}
    if arguments.flashinfer:
        chosen["backend"] = "flashinfer"
    if "key_frame_interval" in chosen:
        chosen.setdefault("auto_keyframes", False)
    if not arguments.lvsa:
        chosen["sparsity_scale"] = float(arguments.num_frames)  # more than there are frames: every call is dense
    Knobs.of({"riflex_s": 1.0, **chosen} if arguments.riflex else chosen)
    return chosen
