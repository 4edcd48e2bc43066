"""The command line: its commands and their flags."""

from __future__ import annotations

import argparse
from pathlib import Path

from vqeval.errors import InputError
from vqeval.evaluation import Settings
from vqeval.learned import Learned
from vqeval.scores import PROFILES

_DESCRIPTION = "Measure long videos: freezes, loops, there-and-back, drift and more; docs/evaluation.md explains each."


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(prog="vqeval", description=_DESCRIPTION, allow_abbrev=False)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    evaluate = _command(commands, "evaluate", "measure videos, each by itself or against a reference")
    evaluate.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    evaluate.add_argument("--reference", type=Path, metavar="VIDEO", help="the same prompt and seed at training length")
    _outputs(evaluate, None)
    _measures(evaluate)

    batch = _command(commands, "batch", "measure the videos of a folder, or those that a CSV table lists")
    batch.add_argument(
        "source", type=Path, metavar="DIR|CSV", help="columns: video, and where wanted prompt, reference"
    )
    _outputs(batch, Path("vqeval-results"))
    _measures(batch)

    compare = _command(commands, "compare", "compare two folders of videos of the same prompts and seeds")
    compare.add_argument(
        "a", type=Path, metavar="A", help="a folder of videos, each with the JSON that names its prompt"
    )
    compare.add_argument("b", type=Path, metavar="B", help="another")
    _outputs(compare, Path("vqeval-comparison"))
    _measures(compare)

    calibrate = _command(commands, "calibrate", "count false alarms on videos of yours that are known to be good")
    calibrate.add_argument("source", type=Path, metavar="DIR|CSV")
    _outputs(calibrate, Path("vqeval-calibration"))

    check = _command(commands, "selfcheck", "edit videos in ways whose effect is known, and check that each is seen")
    check.add_argument("videos", nargs="*", type=Path, metavar="VIDEO", help="default: rendered clips")
    check.add_argument("--thorough", action="store_true", help="every kind of loop on every clip")
    check.add_argument("--output", type=Path, metavar="DIR", help="write selfcheck.json there")
    return top


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)


def _outputs(command: argparse.ArgumentParser, default: Path | None) -> None:
    text = "write JSON, CSV and HTML there" + ("" if default is None else " (%(default)s)")
    command.add_argument("--output", type=Path, default=default, metavar="DIR", help=text)


def _measures(command: argparse.ArgumentParser) -> None:
    composite = command.add_argument_group("composite")
    composite.add_argument("--weights", type=_weights, metavar="NAME=X,...", help="weights of the geometric mean")
    composite.add_argument(
        "--profile", choices=PROFILES, default="equal", help="paper: weights of the published tables"
    )
    learned = command.add_argument_group("learned dimensions", "computed when their weights are given")
    learned.add_argument("--prompt", metavar="TEXT", help="measure text alignment with it; needs --clip")
    learned.add_argument("--clip", metavar="DIR", help="CLIP: a folder, or a name on the Hugging Face Hub")
    learned.add_argument("--dino", metavar="DIR", help="DINOv2: the same")
    learned.add_argument("--image-quality", metavar="NAME[=FILE]", help="a metric of pyiqa, such as musiq")
    learned.add_argument("--raft", metavar="FILE", help="RAFT of torchvision: its weights, or small or large")
    learned.add_argument("--device", metavar="NAME", help="of PyTorch; default: an accelerator if there is one")


def _weights(text: str) -> dict[str, float]:
    found = {}
    for part in text.split(","):
        name, equals, number = part.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=NUMBER, such as loop=2")
    return found


def settings_of(options: argparse.Namespace) -> Settings:
    """How videos are evaluated.

    Raises:
        InputError: --weights and --profile exclude each other.
    """
    if options.weights is not None and options.profile != "equal":
        raise InputError("--weights and --profile exclude each other: a profile brings its own weights")
    learned = Learned(options.clip, options.dino, options.image_quality, options.raft, options.prompt, options.device)
    return Settings(learned, options.weights, options.profile)
