"""`lvsa tiny-checkpoint`: a small model on the disk, and what one does with it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator

from lvsa_vllm_omni.cli import CommandError, CommandFailed
from lvsa_vllm_omni.hooks import SPECS
from lvsa_vllm_omni.tiny.checkpoint import KINDS, CheckpointError, write_checkpoint

DESCRIPTION = (
    "Write a small model in the diffusers layout: no download, a few MB. Toy Wan (toy-wan) is trained: a ball bounces "
    "before a sun and a sky. The weights of the others are random, their videos are noise."
)
EXAMPLE = "lvsa tiny-checkpoint toy-wan /tmp/toy-wan"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `lvsa tiny-checkpoint`."""
    parser.add_argument("kind", metavar="KIND", help=f"kind of model: {', '.join(KINDS)}")
    parser.add_argument("directory", metavar="DIR", help="where to write it")
    parser.add_argument("--force", action="store_true", help="write into a directory that is not empty")
    parser.add_argument("--seed", type=int, default=0, help="seed of random weights (default: 0)")


def run(options: argparse.Namespace) -> Iterator[str]:
    """The lines of `lvsa tiny-checkpoint`.

    Raises:
        CommandError: if there is no such kind, or it cannot be written there. CommandFailed: if the engine is missing.
    """
    try:
        directory = write_checkpoint(options.kind, options.directory, seed=options.seed, force=options.force)
    except CheckpointError as error:
        missing = isinstance(error.__cause__, ModuleNotFoundError)
        raise (CommandFailed if missing else CommandError)(str(error)) from None
    yield f"Wrote a tiny {options.kind} checkpoint to {directory}"
    yield _next_step(options.kind, shlex.quote(str(directory)))


def _next_step(kind: str, directory: str) -> str:
    """What one does with a tiny checkpoint: the engine serves it, or diffusers runs it."""
    family = kind.removeprefix("toy-").partition("-")[0]
    if family not in SPECS:
        return (
            f"Run it with diffusers: python examples/{family}_generate.py --model {directory} --lvsa --num-frames 65 "
            "--height 64 --width 64 --steps 4"
        )
    serve = f"LVSA_CPU=1 {SPECS[family].setting}=1 vllm serve {directory} --omni"
    return f"Serve it on the CPU: {serve}{' --no-guardrails' if family == 'cosmos3' else ''}"
