"""The command line of a batch."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lvsa_vllm_omni.hooks import family_names
from lvsa_vllm_omni.offline import evaluate
from lvsa_vllm_omni.offline.prompts import PromptSpec

OFFLOAD = {"none": {}, "cpu": {"enable_cpu_offload": True}, "layerwise": {"enable_layerwise_offload": True}}
"""--offload -> arguments of the engine."""


def parser(description: str) -> argparse.ArgumentParser:
    """Describe the command line; what the model's preset decides has the default None."""
    top = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--model", required=True, help="checkpoint folder, or a model on the Hugging Face Hub")
    top.add_argument("--family", choices=family_names(), help="default: detected from the checkpoint")
    what = top.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", action="append", metavar="TEXT", help="repeat it for several videos")
    fields = ", ".join(PromptSpec.model_fields)
    what.add_argument("--prompts-file", metavar="FILE", help=f"one prompt a line, or JSON lines with {fields}")

    video = top.add_argument_group("video", "what is left out, the model's preset decides")
    video.add_argument("--negative-prompt", metavar="TEXT", help="of every prompt without its own")
    image = "of every prompt without its own: the first frame; repeat it for several references (Wan VACE)"
    video.add_argument("--image", action="append", type=Path, metavar="FILE", help=image)
    length = video.add_mutually_exclusive_group()
    length.add_argument("--num-frames", type=number(int, 1), metavar="N", help="length in video frames")
    length.add_argument("--horizon", type=positive, metavar="X", help="length as a multiple of the training length")
    video.add_argument("--height", type=number(int, 1), metavar="PIXELS")
    video.add_argument("--width", type=number(int, 1), metavar="PIXELS")
    video.add_argument("--steps", type=number(int, 1), metavar="N", help="denoising steps")
    video.add_argument("--guidance", type=number(float, 0), metavar="X", help="classifier-free guidance scale")
    seed = number(int, 0, 2**63 - 1)
    video.add_argument(
        "--seed", type=seed, default=42, metavar="N", help="of every prompt without its own (%(default)s)"
    )
    video.add_argument("--fps", type=positive, metavar="X", help="video frames a second")
    video.add_argument("--flow-shift", type=positive, metavar="X", help="shift of the noise schedule")

    lvsa = top.add_argument_group("LVSA", "a flag wins over its LVSA_* variable; the others stay valid")
    lvsa.add_argument("--backend", choices=("auto", "flash", "flashinfer", "sdpa", "dense"), help="dense: without LVSA")
    lvsa.add_argument("--sparsity-scale", type=float, metavar="X", help="multiplies the attention budget")
    lvsa.add_argument("--reference-latent-frames", type=int, metavar="N", help="training length in latent frames")
    lvsa.add_argument("--no-rotate", action="store_true", help="keep the anchors of the first step")

    kept = "keep each video's latents there until it is decoded: `lvsa decode` goes on where memory ran out"
    lvsa.add_argument("--keep-latents", type=Path, metavar="DIR", help=kept)

    engine = top.add_argument_group("engine")
    engine.add_argument("--offload", choices=tuple(OFFLOAD), default="none", help="weights wait on the host")
    engine.add_argument("--eager", action="store_true", help="without torch.compile")
    engine.add_argument("--engine-args", type=json_object, default={}, metavar="JSON", help="'{\"ulysses_degree\": 2}'")

    top.add_argument("--output-dir", type=Path, default=Path("outputs"), metavar="DIR", help="default: %(default)s")
    top.add_argument("--output-name", type=file_name, metavar="NAME", help="name of a single video's files")
    top.add_argument("--evaluate", action="store_true", help=evaluate.HELP)
    return top


def number(kind: type[int] | type[float], low: float, high: float = math.inf) -> Callable[[str], Any]:
    """An argparse type: a number in low..high."""

    def convert(text: str) -> int | float:
        value = kind(text)
        if not low <= value <= high or math.isinf(value):
            raise argparse.ArgumentTypeError(f"must be {low} or more" + ("" if math.isinf(high) else f", up to {high}"))
        return value

    convert.__name__ = kind.__name__
    return convert


def positive(text: str) -> float:
    """An argparse type: a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def json_object(text: str) -> dict[str, Any]:
    """An argparse type: a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text}")
    return value


def file_name(text: str) -> str:
    """An argparse type: the name of a file in the output folder; an ending .mp4 is dropped."""
    name = text.removesuffix(".mp4")
    if not name or name != Path(name).name or name.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is not a file name; --output-dir names the folder")
    return name
