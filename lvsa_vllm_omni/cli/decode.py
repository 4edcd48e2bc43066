"""`lvsa decode`: the video of latents that LVSA_KEEP_LATENTS has left, as their request ran out of memory, or died."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lvsa_vllm_omni.cli import CommandError, CommandFailed

DESCRIPTION = (
    "Decode the latents of a request that ran out of memory in the decoder, or whose server died in it, in tiles, on a "
    "GPU or on the CPU. The file stays."
)
EXAMPLE = "lvsa decode latents/video-1.safetensors --model Wan-AI/Wan2.1-T2V-14B-Diffusers -o one.mp4"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `lvsa decode`."""
    parser.add_argument("latents", metavar="LATENTS", type=Path, help="file in the folder of LVSA_KEEP_LATENTS")
    parser.add_argument("--model", required=True, metavar="MODEL", help="that made them: folder, or name on the Hub")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="MP4", help="the video; -1, -2 if several")
    parser.add_argument("--fps", type=float, help="video frames a second (default: the request's, else the model's)")
    parser.add_argument("--device", help="cuda, cuda:1, cpu (default: a GPU if there is one)")
    parser.add_argument("--no-tiles", action="store_true", help="decode whole frames: more memory, no seams of tiles")


def run(options: argparse.Namespace) -> Iterator[str]:
    """Decode; the latents stay where they are.

    Raises:
        CommandError: latents, model or device cannot be used. CommandFailed: memory runs out.
    """
    import torch

    from lvsa_vllm_omni.checkpoint import Checkpoint, CheckpointError
    from lvsa_vllm_omni.latents import LatentsError, read
    from lvsa_vllm_omni.measure.machine import is_out_of_memory
    from lvsa_vllm_omni.offline.video import frames_of, write_mp4
    from lvsa_vllm_omni.presets import PresetError, preset_of

    folder = options.output.absolute().parent
    if not os.access(folder, os.W_OK):
        raise CommandError(f"{folder} is no folder that can be written to: give another with -o")
    try:
        latents, about = read(options.latents)
        checkpoint = Checkpoint.read(options.model)
        fps = options.fps or about.get("fps") or preset_of(checkpoint, None, None).fps
    except (CheckpointError, PresetError, LatentsError) as error:
        raise CommandError(str(error)) from None
    if not fps or fps <= 0:
        raise CommandError("the frame rate is not known: give it with --fps, a number above 0")
    try:
        device = torch.device(options.device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CommandError(f"--device {options.device}: {reason}; give another, such as cpu") from None
    vae = _vae(options.model, checkpoint, latents)
    if not options.no_tiles:
        vae.enable_tiling()
    for number, one in enumerate(latents, 1):
        target = options.output
        if len(latents) > 1:
            target = target.with_stem(f"{target.stem}-{number}")
        try:
            with torch.inference_mode(), _precision(device, vae.dtype):
                pictures = vae.to(device).decode(one[None].to(device, vae.dtype), return_dict=False)[0][0].cpu()
            made = write_mp4(target, frames_of(_shown(frame) for frame in pictures.unbind(1)), float(fps))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise CommandFailed(f"{device} runs out of memory at {tuple(one.shape)}: give --device cpu") from None
        except (OSError, ValueError) as error:
            raise CommandError(f"{target} cannot be written: {error}") from None
        yield f"{target}: {made['frames']} frames of {made['width']}x{made['height']}, {made['seconds']} s"


def _shown(frame: Any) -> Any:
    """A frame [3, H, W] of -1 to 1 as an array [H, W, 3] of 0 to 1."""
    return (frame.float() / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()


def _vae(model: str, checkpoint: Any, latents: Any) -> Any:
    """The model's VAE in the precision of the latents.

    Raises:
        CommandError: the model has none that decodes such latents.
    """
    import diffusers

    name = str(checkpoint.index.get("vae", ["", ""])[1] or "")
    kind = getattr(diffusers, name, None) if name.startswith("AutoencoderKL") else None
    channels = checkpoint.vae.get("z_dim") or checkpoint.vae.get("latent_channels")
    if kind is None or not hasattr(kind, "enable_tiling"):
        raise CommandError(f"--model {model}: its VAE {name!r} is none that diffusers decodes videos with")
    if channels != latents.shape[1]:
        raise CommandError(f"--model {model} has latents of {channels} channels, these have {latents.shape[1]}")
    diffusers.utils.logging.set_verbosity(logging.CRITICAL)  # what it says of an error is said once, below
    try:
        return kind.from_pretrained(model, subfolder="vae", torch_dtype=latents.dtype, use_safetensors=True).eval()
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CommandError(f"--model {model}: its VAE cannot be loaded ({reason})") from None


def _precision(device: Any, dtype: Any) -> Any:
    """The engine decodes in half precision under autocast."""
    import torch

    half = dtype in (torch.float16, torch.bfloat16)
    return torch.autocast(device.type, dtype, enabled=half)
