#!/usr/bin/env python
"""Make videos from prompts with LVSA on vLLM-Omni's offline API: one mp4 and one JSON for each prompt.

    python examples/offline_lvsa.py --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --horizon 4 --prompt "A cat surfs at dusk"

Run the same command again after an interruption: what is finished is skipped. See examples/README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from lvsa_core.facts import latent_frames
from lvsa_vllm_omni.checkpoint import Checkpoint
from lvsa_vllm_omni.offline.arguments import OFFLOAD, parser
from lvsa_vllm_omni.offline.engine import EngineStartError, OfflineEngine, one_line
from lvsa_vllm_omni.offline.environment import dense_environment, sparse_environment
from lvsa_vllm_omni.offline.evaluate import add_to_record, evaluated, missing_packages
from lvsa_vllm_omni.offline.files import write_json
from lvsa_vllm_omni.offline.jobs import Job, is_finished
from lvsa_vllm_omni.offline.plan import jobs_of, lvsa_flags
from lvsa_vllm_omni.offline.record import video_record
from lvsa_vllm_omni.offline.video import frames_of, write_mp4
from lvsa_vllm_omni.presets import Preset, preset_of
from lvsa_vllm_omni.settings import LvsaSettings

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a batch; 0: every video is there, 1: some failed, 2: nothing was tried, 130: interrupted."""
    arguments = parser(__doc__ or "").parse_args(argv)
    try:
        preset, jobs = prepare(arguments)
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(arguments.output_dir, os.W_OK):  # known now, and not when the first video is there
            raise ValueError(f"--output-dir {arguments.output_dir}: name a folder that this user may write to")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    todo = [job for job in jobs if not is_finished(job, arguments.output_dir)]
    print(f"{len(jobs)} videos in {arguments.output_dir}, {len(jobs) - len(todo)} of them finished already")
    if arguments.evaluate and (missing := missing_packages()):
        print(
            f"error: --evaluate needs what is not installed: {', '.join(missing)}; install the extra vqeval",
            file=sys.stderr,
        )
        return 2
    if arguments.evaluate:
        evaluate_finished([job for job in jobs if job not in todo], arguments.output_dir)
    if not todo:
        return 0
    missing = [name for name in ("vllm_omni", "av", "tqdm") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"error: not installed: {', '.join(missing)}; see examples/README.md", file=sys.stderr)
        return 2
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    # A handle of its own: the engine puts a process name before every line that goes through sys.stdout and sys.stderr.
    with open(os.dup(sys.stderr.fileno()), "w", buffering=1) as console:
        try:
            failures = run(arguments, preset, jobs, todo, console)
        except KeyboardInterrupt:
            done = sum(is_finished(job, arguments.output_dir) for job in jobs)
            print(
                f"{done} of {len(jobs)} videos are finished; run the same command again to make the others",
                file=console,
            )
            return INTERRUPTED
        for name, reason in failures.items():
            print(f"failed: {name}: {reason}", file=console)
        print(f"{len(jobs) - len(failures)} of {len(jobs)} videos are finished", file=console)
    return 1 if failures else 0


def prepare(arguments: argparse.Namespace) -> tuple[Preset, list[Job]]:
    """Check the command line, and switch LVSA on or off in the environment that the engine's processes inherit."""
    checkpoint = Checkpoint.read(arguments.model)
    preset = preset_of(checkpoint, arguments.family, LvsaSettings.load().preset)
    flags = lvsa_flags(arguments)
    if arguments.backend == "dense":
        environment = dense_environment(os.environ)
    else:
        environment = sparse_environment(os.environ, preset.family, flags)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    settings = LvsaSettings.load()
    if arguments.backend != "dense":
        settings.check_backend()  # now, not when the engine has been started for it
    return preset, jobs_of(arguments, checkpoint, preset, settings)


def run(
    arguments: argparse.Namespace, preset: Preset, jobs: list[Job], todo: list[Job], console: TextIO
) -> dict[str, str]:
    """Make the videos one after the other on one engine; returns the names of those that failed, with the reason.

    One request at a time, so that each video is on the disk as soon as it can be.
    """
    from tqdm import tqdm

    options = {"enforce_eager": arguments.eager, **OFFLOAD[arguments.offload]}
    if jobs[0].settings.flow_shift is not None:
        options["flow_shift"] = jobs[0].settings.flow_shift
    failures: dict[str, str] = {}
    print(f"starting the engine with {arguments.model}; a large model takes minutes", file=console)
    with (
        OfflineEngine(arguments.model, {**options, **arguments.engine_args}) as engine,
        tqdm(total=len(jobs), initial=len(jobs) - len(todo), unit="video", file=console, dynamic_ncols=True) as bar,
    ):
        for position, job in enumerate(todo):
            bar.set_description(job.name)
            try:
                for warning in make(job, engine, arguments, preset):
                    bar.write(f"warning: {job.name}: {warning}", file=console)
            except EngineStartError as error:
                failures.update({left.name: str(error) for left in todo[position:]})
                break
            except Exception as error:  # whatever it is, the other videos are made
                failures[job.name] = one_line(error)
                bar.write(f"failed: {job.name}: {failures[job.name]}", file=console)
            bar.update()
    return failures


def evaluate_finished(jobs: list[Job], folder: Path) -> None:
    """Evaluate the finished videos that have not been evaluated yet."""
    for job in jobs:
        for warning in add_to_record(job.video(folder), job.record(folder)) or []:
            print(f"warning: {job.name}: {warning}", file=sys.stderr)


def make(job: Job, engine: OfflineEngine, arguments: argparse.Namespace, preset: Preset) -> list[str]:
    """Make one video and write its files; returns what VQeval warns of.

    The record comes last: a video with a record is finished.
    """
    engine.start()
    start = time.perf_counter()
    output = engine.generate(job.settings)
    generated = time.perf_counter()
    job.record(arguments.output_dir).unlink(missing_ok=True)  # of an older video of this name, which ends here
    video = write_mp4(job.video(arguments.output_dir), frames_of(output.images), job.settings.fps)
    timings = {
        "engine_start": engine.start_seconds,
        "generation": generated - start,
        "encode": time.perf_counter() - generated,
    }
    settings = job.settings
    if (video["frames"], video["height"], video["width"]) != (settings.frames, settings.height, settings.width):
        raise ValueError(f"the engine made another length or size than was asked for, see {video}")
    latent = latent_frames(settings.frames, preset.vae_temporal_factor)
    record = video_record(job.settings, latent, video, timings, output, engine.events)
    record["run"] = {"offload": arguments.offload, "eager": arguments.eager}
    warnings: list[str] = []
    if arguments.evaluate:
        record["vqeval"], warnings = evaluated(job.video(arguments.output_dir))
    write_json(job.record(arguments.output_dir), record)
    return warnings


def interrupt(number: int, frame: FrameType | None) -> None:
    """Let everything close in order; a second Ctrl-C ends the process at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.write(2, b"\ninterrupted: closing the engine\n")
    raise KeyboardInterrupt


if __name__ == "__main__":  # the engine's processes import this file
    status = main()
    if status == INTERRUPTED:
        # A thread of the engine may still compute, and an orderly exit aborts on it. Workers end with their request.
        os._exit(status)
    sys.exit(status)
