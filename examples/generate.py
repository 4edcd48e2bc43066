"""One video with a plain diffusers pipeline, with or without LVSA: the program behind the *_generate.py examples."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from generate_flags import Model, knobs, parser
from generate_profile import Profile, peak_memory_mib

from lvsa_core import Pattern, show
from lvsa_core.decide import decide
from lvsa_core.diffusers import enable_lvsa
from lvsa_core.diffusers.families import FAMILIES, family_of
from lvsa_core.facts import head_size, latent_frames, shipped, temporal_axis
from lvsa_core.kernels import KernelUnavailable, select
from lvsa_core.knobs import Knobs, with_recipe
from lvsa_core.positions import Remap, TemporalAxis, check_remap
from lvsa_core.riflex import no_riflex
from lvsa_vllm_omni.checkpoint import Checkpoint
from lvsa_vllm_omni.offline.evaluate import evaluated, missing_packages
from lvsa_vllm_omni.offline.files import write_json
from lvsa_vllm_omni.offline.geometry import check_frames, check_size
from lvsa_vllm_omni.offline.jobs import slug
from lvsa_vllm_omni.offline.record import versions
from lvsa_vllm_omni.offline.video import frames_of, write_mp4

NEEDED = ("diffusers", "transformers", "av")
INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """A video to make, checked.

    Args:
        loading: keywords of ``from_pretrained``. knobs: of ``enable_lvsa``; empty: LVSA and RIFLEx are off.
        device: that the pipeline runs on. file: path of the files, without their ending.
    """

    model: Model
    arguments: argparse.Namespace
    loading: dict[str, Any]
    knobs: dict[str, Any]
    device: torch.device
    file: str

    @property
    def dtype(self) -> torch.dtype:
        """The weights' type: bfloat16, whose convolutions are slow on most CPUs."""
        return torch.float32 if self.device.type == "cpu" else torch.bfloat16


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
    if arguments.evaluate and (missing := missing_packages()):
        raise ImportError(f"--evaluate needs what is not installed: {', '.join(missing)}; install the extra vqeval")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if arguments.offload and accelerator is None:
        raise ValueError("--offload keeps weights on the host of an accelerator, and this machine has no accelerator")
    checkpoint = Checkpoint.read(arguments.model)
    made_for = checkpoint.index.get("_class_name")
    if made_for not in (model.pipeline, *model.aliases):
        raise ValueError(f"--model {arguments.model} is for {made_for}, and this example is for {model.pipeline}")
    named = checkpoint.transformer.get("_class_name")
    family = next((family for family in FAMILIES if named in family.transformers), None)
    if arguments.riflex and family is not None and not family.own_tables:
        raise ValueError(no_riflex(family.name, "--riflex"))
    if with_recipe(chosen).get("anchor_positions") == "remap" and family is not None:
        check_remap(family.name, temporal_axis(family.name, checkpoint.transformer), 3, 0)
    check_frames(arguments.num_frames, shipped()[model.preset]["vae_temporal_factor"])
    check_size(arguments.height, arguments.width, checkpoint.size_multiple)
    settings = {key: str(value) for key, value in vars(arguments).items() if not key.startswith(("output", "evaluate"))}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    file = arguments.output_dir / (arguments.output_name or f"{slug(arguments.prompt)}-{digest}")
    job = Job(model, arguments, model.load(arguments), chosen, accelerator or torch.device("cpu"), str(file))
    if arguments.lvsa:
        select(chosen.get("backend", "auto"), job.device, job.dtype, head_size(checkpoint.transformer) or 128)
    check_writable(job)
    return job


def installed(package: str) -> bool:
    """Whether a package is there, by the name that installs it."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


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
    for path in (f"{job.file}.mp4", f"{job.file}.json"):
        if Path(path).is_dir():
            raise OSError(f"{path} is a folder: name another file with --output-name")


def make(job: Job) -> None:
    """Make the video and write its files; the JSON comes last and says that the video is finished."""
    arguments, start = job.arguments, time.perf_counter()
    print(f"loading {arguments.model}; a large model takes minutes", flush=True)
    pipe = load(job)
    loaded = time.perf_counter()
    chosen = settled(job, pipe)
    lvsa = enable_lvsa(pipe, **asdict(chosen)) if chosen else None
    profile = Profile(pipe, job.device) if arguments.profile else None
    begin = time.perf_counter()
    frames = video(job, pipe)
    generated = time.perf_counter()
    record = Path(f"{job.file}.json")
    record.unlink(missing_ok=True)  # of an older video of this name, which ends here
    written = write_mp4(Path(f"{job.file}.mp4"), frames_of(frames), arguments.fps)
    seconds = {"load": loaded - start, "generation": generated - begin, "encode": time.perf_counter() - generated}
    peak = peak_memory_mib(job.device)
    made = {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items()},
        "knobs": asdict(chosen) if chosen else None,
        "lvsa": {**asdict(lvsa.report()), "summary": str(lvsa.report())} if lvsa else None,
        "video": written,
        "timings_s": {key: round(value, 3) for key, value in seconds.items()},
        "steps_s": [round(value, 4) for value in profile.steps] if profile else None,
        "peak_memory_mib": peak,
        "versions": {**versions(), "diffusers": version("diffusers")},
    }
    warnings: list[str] = []
    if arguments.evaluate:
        made["vqeval"], warnings = evaluated(Path(f"{job.file}.mp4"))
    write_json(record, made)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if profile:
        print(f"{profile}\npeak memory {'unknown: this PyTorch does not tell' if peak is None else f'{peak:.0f} MiB'}")
    if lvsa and arguments.lvsa:
        print(f"[LVSA] {str(lvsa.report()).removeprefix('LVSA ')}")
    print(f"{job.file}.mp4: {written['frames']} frames in {seconds['generation']:.1f} s")


def load(job: Job) -> Any:
    """The pipeline on its device."""
    import diffusers

    vae = job.dtype if job.device.type == "cpu" else getattr(torch, job.model.vae_dtype)
    pipeline = getattr(diffusers, job.model.pipeline)
    pipe = pipeline.from_pretrained(job.arguments.model, dtype={"default": job.dtype, "vae": vae}, **job.loading)
    if job.model.tiling:
        pipe.vae.enable_tiling()
    if job.arguments.offload:
        pipe.enable_model_cpu_offload(device=job.device)
    else:
        pipe.to(job.device)
    return pipe


def settled(job: Job, pipe: Any) -> Knobs | None:
    """The knobs, None without LVSA and RIFLEx; prints what they make of the video, and draws it where --show-mask is.

    RIFLEx's factor is the length of the video over the training length, unless a flag gives it.
    """
    arguments, chosen, family = job.arguments, dict(job.knobs), family_of(pipe.transformer)
    assert family is not None
    factor = shipped()[job.model.preset]["vae_temporal_factor"]
    joined = getattr(pipe.transformer.config, "patch_size_t", None) or 1  # latent frames of a frame of tokens
    frames = -(-latent_frames(arguments.num_frames, factor) // joined)
    reference = chosen.get("reference_latent_frames") or family.reference(pipe.transformer)
    if arguments.riflex:
        chosen.setdefault("riflex_s", max(1.0, frames / (chosen.get("riflex_train_len") or reference)))
    settled = Knobs.of(chosen)
    if not arguments.lvsa:
        print("[LVSA] off: every frame attends to every frame; --lvsa switches it on", flush=True)
        return settled if arguments.riflex else None
    plan, steps = settled.plan_arguments(reference, factor, joined), arguments.steps
    if settled.anchor_positions == "remap" and (axis := temporal_axis(family.name, pipe.transformer.config)):
        plan["remap"] = Remap(reference, TemporalAxis.of(*axis))
    patterns = [decide(frames, step, plan, steps=steps)[0] for step in range(steps)]
    decision = decide(frames, 0, plan, steps=steps)[1]
    summary = (
        show.summary(patterns[0], settled.rotate_after)
        if decision.verdict == "sparse"
        else f"total_lat_frames={frames} dense"
    )
    print(f"[LVSA] {summary}: {decision.reason}", flush=True)
    if arguments.show_mask:
        draw(patterns, Path(f"{job.file}.png"))
    return settled


def draw(patterns: list[Pattern], picture: Path) -> None:
    """Print the pattern of each denoising step, once for all steps that share it, and draw them side by side."""
    for pattern in dict.fromkeys(patterns):
        steps = [str(step) for step, other in enumerate(patterns) if other == pattern]
        print(f"[LVSA] step {', '.join(steps)}: {show.text(pattern)}")
    try:
        show.figure(list(dict.fromkeys(patterns)), picture)
        print(f"[LVSA] {picture}")
    except ModuleNotFoundError as error:
        print(f"[LVSA] no picture: {error}", file=sys.stderr)


def video(job: Job, pipe: Any) -> Any:
    """Frames [F, H, W, 3] in 0..1. The noise is the CPU's, so that a seed means the same on every device."""
    arguments = job.arguments
    result = pipe(
        prompt=arguments.prompt,
        negative_prompt=arguments.negative_prompt,
        num_frames=arguments.num_frames,
        height=arguments.height,
        width=arguments.width,
        num_inference_steps=arguments.steps,
        generator=torch.Generator().manual_seed(arguments.seed),
        output_type="np",
        **job.model.call(arguments),
    )
    return result.video if "video" in result else result.frames[0]
