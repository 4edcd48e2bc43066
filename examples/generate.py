"""One video with a plain diffusers pipeline, with or without LVSA: the program behind the *_generate.py examples."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from generate_flags import Model, knobs, parser
from generate_pipeline import Job, Profile, draw, dtype_on, load, peak_memory_mib, plans, settled, video

from lvsa_core import show
from lvsa_core.diffusers import enable_lvsa
from lvsa_core.diffusers.families import FAMILIES
from lvsa_core.kernels import KernelUnavailable, select
from lvsa_vllm_omni.checkpoint import Checkpoint
from lvsa_vllm_omni.offline.files import write_json
from lvsa_vllm_omni.offline.geometry import check_frames, check_size
from lvsa_vllm_omni.offline.jobs import slug
from lvsa_vllm_omni.offline.record import versions
from lvsa_vllm_omni.offline.video import frames_of, write_mp4

NEEDED = ("diffusers", "transformers", "av")
INTERRUPTED = 130


def main(model: Model, description: str, argv: Sequence[str] | None = None) -> int:
    """Make one video; 0: it is there, 1: it failed, 2: nothing was tried, 130: interrupted."""
    arguments = parser(model, description).parse_args(argv)
    try:
        job = prepare(model, arguments)
    except (ValueError, TypeError, OSError, ImportError, KernelUnavailable) as error:
        return failed(error, 2)
    try:
        make(job)
    except KeyboardInterrupt:
        print("interrupted: no video was written", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # whatever it is, one sentence says it
        return failed(error, 1)
    return 0


def failed(error: Exception, status: int) -> int:
    """Say why in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    print(f"error: {lines[0] if lines else type(error).__name__}", file=sys.stderr)
    return status


def prepare(model: Model, arguments: argparse.Namespace) -> Job:
    """Check all that can be checked before the weights are loaded.

    Raises:
        ValueError, OSError, ImportError, KernelUnavailable: with the sentence for the user.
    """
    chosen = knobs(arguments)
    missing = [name for name in (*NEEDED, *model.needed) if not installed(name)]
    if missing:
        raise ImportError(f"not installed: {', '.join(missing)}; see examples/README.md")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = accelerator or torch.device("cpu")
    if arguments.offload and device.type == "cpu":
        raise ValueError("--offload keeps weights on the host of an accelerator, and this machine has no accelerator")
    checkpoint = Checkpoint.read(arguments.model)
    check_model(model, arguments, checkpoint.index)
    check_frames(arguments.num_frames, 4)
    check_size(arguments.height, arguments.width, checkpoint.size_multiple)
    if arguments.lvsa:
        config = checkpoint.transformer
        head_size = config.get("attention_head_dim") or config.get("head_dim") or 128
        select(chosen.get("backend", "auto"), device, dtype_on(device), head_size)
    name = arguments.output_name or f"{slug(arguments.prompt)}-{digest(arguments)}"
    job = Job(model, arguments, model.load(arguments), chosen, device, name)
    check_writable(job)
    return job


def installed(package: str) -> bool:
    """Whether a package is there, by the name that installs it."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def check_model(model: Model, arguments: argparse.Namespace, index: dict[str, Any]) -> None:
    """Refuse a checkpoint of another pipeline, and RIFLEx where LVSA does not know it."""
    made_for = index.get("_class_name")
    if made_for not in (model.pipeline, *model.aliases):
        raise ValueError(f"--model {arguments.model} is for {made_for}, and this example is for {model.pipeline}")
    family = next((family for family in FAMILIES if index["transformer"][1] in family.transformers), None)
    if arguments.riflex and family is not None and family.rope is None:
        known = " and ".join(family.name for family in FAMILIES if family.rope)
        raise ValueError(f"RIFLEx is for {known}, and this is {family.name}: leave --riflex out")


def digest(arguments: argparse.Namespace) -> str:
    """Eight hex digits that change with every setting."""
    settings = {key: str(value) for key, value in vars(arguments).items() if not key.startswith("output")}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def check_writable(job: Job) -> None:
    """Find out now, not after an hour of generation, whether the files can be written."""
    folder: Path = job.arguments.output_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"--output-dir {folder} cannot be written to: {reason}; name another folder") from error
    for path in (job.file(".mp4"), job.file(".json")):
        if path.is_dir():
            raise OSError(f"{path} is a folder: name another file with --output-name")


def make(job: Job) -> None:
    """Make the video and write its files; the JSON comes last and says that the video is finished."""
    arguments, start = job.arguments, time.perf_counter()
    print(f"loading {arguments.model}; a large model takes minutes", flush=True)
    pipe = load(job)
    loaded = time.perf_counter()
    chosen = settled(job, pipe) if arguments.lvsa or arguments.riflex else None
    lvsa = enable_lvsa(pipe, **asdict(chosen)) if chosen else None
    if lvsa is None or chosen is None or not arguments.lvsa:
        print("[LVSA] off: every frame attends to every frame; --lvsa switches it on", flush=True)
    else:
        patterns, decision = plans(job, pipe, chosen, lvsa.reference_latent_frames)
        sparse = decision.verdict == "sparse"
        summary = show.summary(patterns[0]) if sparse else f"total_lat_frames={patterns[0].frames} dense"
        print(f"[LVSA] {summary}: {decision.reason}", flush=True)
        if arguments.show_mask:
            draw(patterns, job.file(".png"))
    profile = Profile(pipe, job.device) if arguments.profile else None
    begin = time.perf_counter()
    frames = video(job, pipe)
    generated = time.perf_counter()
    job.file(".json").unlink(missing_ok=True)  # of an older video of this name, which ends here
    written = write_mp4(job.file(".mp4"), frames_of(frames), arguments.fps)
    seconds = {"load": loaded - start, "generation": generated - begin, "encode": time.perf_counter() - generated}
    record = {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()},
        "knobs": asdict(chosen) if chosen else None,
        "lvsa": {**asdict(lvsa.report()), "summary": str(lvsa.report())} if lvsa else None,
        "video": written,
        "timings_s": {key: round(value, 3) for key, value in seconds.items()},
        "steps_s": [round(value, 4) for value in profile.steps] if profile else None,
        "peak_memory_mib": peak_memory_mib(job.device),
        "versions": {**versions(), "diffusers": version("diffusers")},
    }
    write_json(job.file(".json"), record)
    if profile:
        peak = record["peak_memory_mib"]
        print(f"{profile}\npeak memory {'unknown: this PyTorch does not tell' if peak is None else f'{peak:.0f} MiB'}")
    if lvsa and arguments.lvsa:
        print(f"[LVSA] {str(lvsa.report()).removeprefix('LVSA ')}")
    print(f"{job.file('.mp4')}: {written['frames']} frames in {seconds['generation']:.1f} s")
