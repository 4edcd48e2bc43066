"""The command line, `lvsa`: one subcommand for each thing one does beside the engine."""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence

from lvsa_vllm_omni.cli import CommandError, bench, decode, doctor, models, serve, show
from lvsa_vllm_omni.hooks import SPECS
from lvsa_vllm_omni.tiny.checkpoint import KINDS, CheckpointError, write_checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lvsa`; returns the exit status: 0, or 2 with one sentence on stderr where the input is bad."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["serve"]:  # most of its options are the engine's
        options = argparse.Namespace(command="serve", run=serve.run, arguments=words[1:])
    else:
        options = _parser().parse_args(words)
    try:
        for line in options.run(options):
            print(line, flush=True)
    except (CheckpointError, CommandError) as error:
        print(f"lvsa {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who reads the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    """Build the parser; each subcommand names the function that runs it."""
    parser = argparse.ArgumentParser(prog="lvsa", description="LVSA sparse attention for vLLM-Omni, beside the engine.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    commands.add_parser("serve", help="the engine's own server, with LVSA on for the model that it serves")
    tiny = commands.add_parser(
        "tiny-checkpoint",
        help="write a small model, to try the plugin on a machine without an accelerator",
        description="Write a small model in the diffusers layout: no download, a few MB. Toy Wan (toy-wan) is trained: "
        "a ball bounces before a sun and a sky. The weights of the others are random, their videos are noise.",
    )
    tiny.add_argument("kind", metavar="KIND", help=f"kind of model: {', '.join(KINDS)}")
    tiny.add_argument("directory", metavar="DIR", help="where to write it")
    tiny.add_argument("--force", action="store_true", help="write into a directory that is not empty")
    tiny.add_argument("--seed", type=int, default=0, help="seed of random weights (default: 0)")
    tiny.set_defaults(run=_tiny_checkpoint)

    shown = commands.add_parser(
        "show",
        help="what LVSA does to a request: pattern, work and memory against dense",
        description="Tell what a server with the LVSA_* variables of this environment would do with a request: "
        "anchors, window, density, and FLOP, bytes and memory of the attention against dense. It needs no GPU.",
    )
    show.add_options(shown)
    shown.set_defaults(run=show.run)

    measured = commands.add_parser(
        "bench",
        help="time the attention of one layer against dense on this machine",
        description="Time dense attention, LVSA and the linear layers of one block of a model on this machine, after "
        "a check that LVSA's result is right, and tell what that makes end to end.",
    )
    bench.add_options(measured)
    measured.set_defaults(run=bench.run)

    checked = commands.add_parser(
        "doctor",
        help="what of LVSA runs on this machine, and under which parallelism",
        description="Check settings, the installed engine and the kernels without starting an engine; --matrix tells "
        "what LVSA does under each kind of parallelism.",
    )
    doctor.add_options(checked)
    checked.set_defaults(run=doctor.run)

    late = commands.add_parser(
        "decode",
        help="make the video of latents that LVSA_KEEP_LATENTS has left",
        description="Decode the latents of a request that ran out of memory in the decoder, or whose server died in "
        "it, in tiles, on a GPU or on the CPU. The file stays.",
        epilog="example: lvsa decode latents/video-1.safetensors --model Wan-AI/Wan2.1-T2V-14B-Diffusers -o one.mp4",
    )
    decode.add_options(late)
    late.set_defaults(run=decode.run)

    listed = commands.add_parser(
        "models",
        help="the models that LVSA knows",
        description="List the models that LVSA knows: what each was trained for, which of its attention is sparse, and "
        "where it has run. Families of installed packages are among them.",
    )
    models.add_options(listed)
    listed.set_defaults(run=models.run)
    return parser


def _tiny_checkpoint(options: argparse.Namespace) -> Iterator[str]:
    directory = write_checkpoint(options.kind, options.directory, seed=options.seed, force=options.force)
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
