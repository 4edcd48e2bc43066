"""The command line, `lvsa`: one subcommand for each thing one does beside the engine."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Protocol, cast

from lvsa_vllm_omni.cli import CommandError

#: Each command's module, a :class:`Command`, and its line of help. A module is imported when its command is given;
#: what it needs beyond its options it imports in ``run``, so that help does not wait for it.
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("serve", "the engine's own server, with LVSA on for its model"),
    "env": ("env", "every setting: type, default, value and its source"),
    "doctor": ("doctor", "what of LVSA runs on this machine"),
    "models": ("models", "the models that LVSA knows"),
    "show": ("show", "what LVSA does to a request: pattern, work, memory"),
    "bench": ("bench", "time one layer's attention against dense"),
    "decode": ("decode", "make the video of latents that LVSA_KEEP_LATENTS has left"),
    "tiny-checkpoint": ("tiny_checkpoint", "write a small model, to try LVSA without an accelerator"),
}

_EXAMPLE = "example: "
_STATUS = "exit status: 0 done; 1 this machine cannot do it; 2 the input is wrong. The last two come with a sentence."


class Command(Protocol):
    """What a module of :data:`COMMANDS` holds."""

    DESCRIPTION: str
    """what the command does, in a sentence or two"""
    EXAMPLE: str
    """a command line that one may copy"""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's options."""

    def run(self, options: argparse.Namespace) -> Iterator[str]:
        """The lines that the command prints.

        Raises:
            CommandError: if the input is bad. CommandFailed: if this machine cannot do it.
        """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lvsa`; returns the exit status: 0, or that of the error, with its sentence on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = words[0] if words and words[0] in COMMANDS else None
    command = None if name is None else cast(Command, import_module(f"{__package__}.{COMMANDS[name][0]}"))
    parser = None if name == "serve" else _parser(name, command)  # most options of serve are the engine's
    options = parser.parse_args(words) if parser else argparse.Namespace(arguments=words[1:])
    assert command is not None  # else the parser has ended the program
    try:
        for line in command.run(options):
            print(line, flush=True)
    except CommandError as error:
        print(f"lvsa {name}: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # who reads the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser(name: str | None, command: Command | None) -> argparse.ArgumentParser:
    """Every command with its line of help, and the options of the one that is given."""
    parser = argparse.ArgumentParser(
        prog="lvsa",
        description="LVSA sparse attention for vLLM-Omni, beside the engine.",
        epilog=f"{_EXAMPLE}lvsa show --preset wan2.1-14b --frames 321\n\n{_STATUS}",
        formatter_class=_Formatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for each, (_, line) in COMMANDS.items():
        below = commands.add_parser(each, help=line, formatter_class=_Formatter)
        if command is not None and each == name:
            below.description, below.epilog = command.DESCRIPTION, f"{_EXAMPLE}{command.EXAMPLE}"
            command.add_options(below)
    return parser


class _Formatter(argparse.HelpFormatter):
    """Leaves examples as they are, so that one can copy them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLE) else super()._fill_text(text, width, indent)
