#!/usr/bin/env python
"""What LVSA does to a video beyond the training length, measured on Toy Wan, whose world has a known law.

Run it from the repository with the package installed:

    python benchmarks/quality.py
    python benchmarks/quality.py --lengths 4 --methods dense,lvsa --seeds 0-15 --json outputs/quality.json
    python benchmarks/quality.py --method wider=sparsity_scale:1.5 --methods lvsa,wider
    python benchmarks/quality.py --trainings toy-wan,outputs/toy/seed1.pt,outputs/toy/head64.pt

Every method makes the same videos, of the same prompts and seeds, by diffusers. In the latents the ball is found, and
its distance to itself at all lags, its speed, its rests, leaps and breaches of the law of motion, the drift of what
stands still (`toy_track.py` says how). The tables give mean and spread, then each method's paired difference from
LVSA with a 95 % interval of the bootstrap over the videos; "truth" are videos of the world itself. Of several
trainings there are tables of each, and of all videos together. What is done stands
in the file of --json, and the same command goes on from there. --videos also decodes, writes mp4 files with a JSON
beside each, and measures them by VQeval.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import root  # noqa: F401
import torch
import toy_track as track
from report import Panel, Results, draw, interval, names, numbers, parser_of, say, table
from toy_methods import METHODS, STANDARD, grouped
from tqdm import tqdm

from lvsa_core.diffusers import enable_lvsa
from lvsa_core.facts import shipped
from lvsa_core.knobs import Knobs
from lvsa_vllm_omni.measure.machine import facts
from toy import world
from toy.pipeline import GUIDANCE, asked, decode, load, pipeline, sample

#: What is measured, with digits; the difference of the first few is what the paired table shows.
MEASURES = {
    "loop": 2, "speed": 2, "frozen": 2, "leaps": 3, "breaches": 2, "valid": 2, "colour": 2, "sun_drift": 2,
    "sun_valid": 2, "sky_sd": 2, "marks": 2,
}  # fmt: skip
PAIRED = ("loop", "speed", "frozen", "breaches", "sun_drift", "sky_sd")
#: What a figure shows, if all would be too many.
DRAWN = ("dense", "lvsa", "window", "riflex", "remap", "long")
#: The training whose weights are the package's, and the name of all together.
PACKAGE, ALL = "toy-wan", "all trainings"


def parse_arguments() -> argparse.Namespace:
    """Read the options; a knob that Knobs refuses ends here."""
    parser = parser_of(__doc__)
    parser.add_argument("--lengths", type=numbers(float), default=[1, 2, 4, 6], help="multiples of the training length")
    parser.add_argument(
        "--methods",
        help=f"of {', '.join(METHODS)}, and those of --method; default: {', '.join(STANDARD)}, and those of --method",
    )
    parser.add_argument(
        "--method", action="append", default=[], metavar="NAME=KNOB:VALUE,...",
        help="another method: knobs of enable_lvsa, values in JSON",
    )  # fmt: skip
    parser.add_argument("--seeds", type=seeds, default=list(range(16)), help="such as 0-15 or 3,5; default: 0-15")
    parser.add_argument("--against", default="lvsa", help="the method of the paired differences; default: lvsa")
    parser.add_argument("--guidance", type=float, default=GUIDANCE, help="of the sampling; 1: none")
    parser.add_argument("--from-image", action="store_true", help="give each video the first picture of the true one")
    parser.add_argument("--batch", type=int, default=8, help="videos at once")
    parser.add_argument("--videos", type=Path, metavar="DIR", help="also decode, write mp4 files and run VQeval")
    parser.add_argument(
        "--trainings", type=lambda text: [None if part == PACKAGE else Path(part) for part in text.split(",")],
        default=[None], help=f"states of toy.train, separated by commas; {PACKAGE}: the package's weights, the default",
    )  # fmt: skip
    arguments = parser.parse_args()
    arguments.known = dict(METHODS)
    try:
        for text in arguments.method:
            name, _, rest = text.partition("=")
            knobs = {key: json.loads(value) for key, _, value in (part.partition(":") for part in rest.split(","))}
            Knobs.of(knobs)
            arguments.known[name] = lambda _, knobs=knobs: knobs
        arguments.methods = names(arguments.known)(
            arguments.methods or ",".join([*STANDARD, *(name for name in arguments.known if name not in METHODS)])
        )
    except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
        parser.error(f"{error}")
    if arguments.against not in arguments.methods:
        arguments.against = arguments.methods[0]
    if missing := [str(path) for path in arguments.trainings if path and not path.is_file()]:
        how = f"{missing[0]} --images 0.5" if arguments.from_image else missing[0]
        parser.error(f"--trainings {missing[0]}: no such file; python -m toy.train {how} makes it")
    if arguments.from_image and (free := [path for path in arguments.trainings if not path or not has_images(path)]):
        parser.error(
            f"--from-image takes trainings that were given first frames, and {free[0] or PACKAGE} was not: "
            "python -m toy.train FILE --images 0.5 makes one, --trainings names it"
        )
    return arguments


def has_images(path: Path) -> bool:
    """Whether a training's clips had their first frames given."""
    return bool(load(path, "average").get("images"))


def seeds(text: str) -> list[int]:
    """The type of --seeds."""
    try:
        first, dash, last = text.partition("-")
        return [*range(int(first), int(last) + 1)] if dash else [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes 0-15 or 3,5, got {text}") from None


def main() -> int:
    """0 when every video is measured."""
    arguments = parse_arguments()
    try:
        results = Results(arguments.json, facts(torch.device("cpu"), arguments.commit), resume=True)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    keys = ("training", "length", "method", "seed")
    done = {tuple(row[key] for key in keys) for row in results.rows}
    wanted = [
        (training, length, method)
        for training in arguments.trainings for length in arguments.lengths for method in arguments.methods
    ]  # fmt: skip
    pipe_of = cache(partial(pipeline, images=arguments.from_image))
    with tqdm(total=len(wanted) * len(arguments.seeds), unit="video", mininterval=5) as bar:
        for training, length, method in wanted:
            name = training.stem if training else PACKAGE
            left = [seed for seed in arguments.seeds if (name, length, method, seed) not in done]
            bar.update(len(arguments.seeds) - len(left))
            for start in range(0, len(left), arguments.batch):
                some = left[start : start + arguments.batch]
                bar.set_postfix_str(f"{name} {length:g}x {method}")
                begun = time.perf_counter()
                rows = videos(pipe_of(training), method, length, some, arguments, name)
                each = (time.perf_counter() - begun) / len(some)
                results.rows.extend(
                    {"training": name, "length": length, "method": method, "seed": seed, "seconds": each, **row}
                    for seed, row in zip(some, rows, strict=True)
                )
                results.save()
                bar.update(len(some))
    trainings = list(dict.fromkeys(row["training"] for row in results.rows))
    for training in [*trainings, ALL] if len(trainings) > 1 else trainings:
        of_it = [row for row in results.rows if training in (row["training"], ALL)]
        for length in arguments.lengths:
            chosen = [row for row in of_it if row["length"] == length and row["method"] in arguments.methods]
            videos_a_row = len({(row["training"], row["seed"]) for row in chosen})
            say(f"{training}, {length:g} x {world.LENGTH} latent frames, {videos_a_row} videos a row", "")
            say(*means(chosen, truth(length, arguments.seeds)))
            say(*differences(chosen, arguments.against))
    draw(arguments.figure, panels(results.rows, arguments))
    return 0


def frames_of(length: float) -> int:
    """Latent frames of a multiple of the training length in video frames: 21, 41, 81, 121."""
    return round(length * (world.LENGTH - 1)) + 1


def videos(
    pipe: Any, method: str, length: float, some: Sequence[int], arguments: argparse.Namespace, training: str
) -> Iterator[dict[str, Any]]:
    """Make and measure videos of one method."""
    clips, frames, known = asked(some), frames_of(length), arguments.known[method]
    knobs = dict(known(length)) if known and not (method == "riflex" and length <= 1) else None
    images = world.pixels(clips, 1)[0][:, :, 0] if arguments.from_image else None
    with grouped(knobs or {}):
        lvsa = None if knobs is None else enable_lvsa(pipe, **knobs)
        try:
            latents = sample(pipe, clips.prompts(), some, frames, arguments.guidance, images)
            pattern = lvsa and lvsa._generation.pattern
        finally:
            if lvsa:
                lvsa.disable()
    measured = track.measure(latents, clips)
    if pattern and 1 < len(pattern.anchors) < frames - 2:
        measured["marks"] = track.marks(latents, pattern.anchors)
    rows: list[dict[str, Any]] = [{name: found[i] for name, found in measured.items()} for i in range(len(some))]
    if arguments.videos:
        folder = arguments.videos / training / f"{length:g}x" / method
        for row, seed, prompt, one in zip(rows, some, clips.prompts(), latents, strict=True):
            row["vqeval"] = written(pipe, folder / f"{seed:04d}.mp4", one, prompt, seed)
    return iter(rows)


def written(pipe: Any, path: Path, latents: torch.Tensor, prompt: str, seed: int) -> dict[str, Any]:
    """Write a video and the JSON beside it, and judge it."""
    from lvsa_vllm_omni.offline import write_mp4
    from vqeval import evaluate

    path.parent.mkdir(parents=True, exist_ok=True)
    frames = ((decode(pipe, latents[None])[0] / 2 + 0.5) * 255).round().byte().permute(1, 2, 3, 0).numpy()
    write_mp4(path, frames, fps=shipped()["toy-wan"]["fps"])
    judged = evaluate(path).model_dump(mode="json")
    path.with_suffix(".json").write_text(json.dumps({"settings": {"prompt": prompt, "seed": seed}, "vqeval": judged}))
    return judged


def truth(length: float, seeds: Sequence[int]) -> dict[str, list[float]]:
    """The measures of the world's own clips."""
    clips = asked(seeds)
    return track.measure(world.latents(clips, frames_of(length)), clips)


def means(rows: Sequence[dict[str, Any]], truth: dict[str, list[float]]) -> list[str]:
    """The table of means and spreads."""
    methods = dict.fromkeys(row["method"] for row in rows)
    values = {
        method: {name: [r[name] for r in rows if r["method"] == method and name in r] for name in MEASURES}
        for method in methods
    }
    cells = [
        [
            method,
            *(
                f"{np.mean(found[name]):.{digits}f} ± {np.std(found[name]):.{digits}f}" if found.get(name) else "-"
                for name, digits in MEASURES.items()
            ),
        ]
        for method, found in ({"truth": truth} | values).items()
    ]
    return table(" | ".join(["method", *MEASURES]), cells)


def differences(rows: Sequence[dict[str, Any]], against: str) -> list[str]:
    """The table of paired differences."""
    sides: dict[str, dict[tuple[str, int], dict[str, Any]]] = {}
    for row in rows:
        sides.setdefault(row["method"], {})[row["training"], row["seed"]] = row
    base = sides.pop(against)
    cells = []
    for method, found in sides.items():
        pairs = [(found[video], base[video]) for video in found if video in base]
        apart = {name: np.array([one[name] - other[name] for one, other in pairs]) for name in PAIRED}
        cells.append(
            [
                method,
                *(f"{d.mean():+.2f} [{low:+.2f}, {high:+.2f}]" for d in apart.values() for low, high in [interval(d)]),
            ]
        )
    return table(" | ".join([f"minus {against}", *PAIRED]), cells) if cells else []


def panels(rows: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> list[Panel]:
    """Loop, frozen steps and drift over the length; of many methods those that are most unlike."""
    drawn = [method for method in arguments.methods if len(arguments.methods) <= len(DRAWN) or method in DRAWN]
    lines: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for length in sorted(arguments.lengths):
        true = truth(length, arguments.seeds)
        for method in ("truth", *drawn):
            for name in ("loop", "frozen", "sun_drift"):
                found = [row[name] for row in rows if (row["method"], row["length"]) == (method, length)]
                value = float(np.mean(true[name] if method == "truth" else found))
                lines.setdefault(name, {}).setdefault(method, []).append((length, value))
    titles = {
        "loop": "distance to itself, cells",
        "frozen": "share of frozen steps",
        "sun_drift": "drift of the sun, cells",
    }
    return [
        Panel(lines[name], {"title": title, "xlabel": "length / training length"}) for name, title in titles.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
