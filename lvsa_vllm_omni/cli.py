"""The command line, `lvsa`: one subcommand for each thing one does beside the engine."""

import argparse
import sys
from collections.abc import Sequence

from lvsa_vllm_omni.cpu.checkpoint import KINDS, CheckpointError, write_checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lvsa`; returns the exit status: 0, or 2 with one sentence on stderr where the input is bad."""
    options = _parser().parse_args(arguments)
    status: int = options.run(options)
    return status


def _parser() -> argparse.ArgumentParser:
    """Build the parser; each subcommand names the function that runs it."""
    parser = argparse.ArgumentParser(prog="lvsa", description="LVSA sparse attention for vLLM-Omni, beside the engine.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    tiny = commands.add_parser(
        "tiny-checkpoint",
        help="write a small random model, to try the plugin on a machine without an accelerator",
        description="Write a small model with random weights in the diffusers layout: no download, a few MB. "
        "Its videos are noise; its attention is real.",
    )
    tiny.add_argument("kind", metavar="KIND", help=f"kind of model: {', '.join(KINDS)}")
    tiny.add_argument("directory", metavar="DIR", help="where to write it")
    tiny.add_argument("--force", action="store_true", help="write into a directory that is not empty")
    tiny.add_argument("--seed", type=int, default=0, help="seed of the random weights (default: 0)")
    tiny.set_defaults(run=_tiny_checkpoint)
    return parser


def _tiny_checkpoint(options: argparse.Namespace) -> int:
    try:
        directory = write_checkpoint(options.kind, options.directory, seed=options.seed, force=options.force)
    except CheckpointError as error:
        print(f"lvsa tiny-checkpoint: {error}", file=sys.stderr)
        return 2
    print(f"Wrote a tiny {options.kind} checkpoint to {directory}")
    print(f"Serve it on the CPU: LVSA_CPU=1 LVSA_WAN_HOOK=1 vllm serve {directory} --omni")
    return 0


if __name__ == "__main__":
    sys.exit(main())
