"""`lvsa show`: pattern, work and memory of a request, before there is a GPU."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lvsa_vllm_omni.cli import CommandError, CommandFailed
from lvsa_vllm_omni.cli.request_options import add_request_options

if TYPE_CHECKING:
    from lvsa_core import Pattern
    from lvsa_vllm_omni.cli.request import Request

DESCRIPTION = (
    "Tell what a server with the LVSA_* variables of this environment would do with a request: anchors, window, "
    "density, and FLOP, bytes and memory of the attention against dense. It needs no GPU."
)
EXAMPLE = "lvsa show --preset wan2.1-14b --frames 321 --size 832x480 --html pattern.html"

#: Patterns that fit side by side.
MOST_DRAWN = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `lvsa show`."""
    add_request_options(parser, "length in video frames, as for the server")
    parser.add_argument("--step", type=int, default=0, metavar="N", help="denoising step, from 0 (default: 0)")
    parser.add_argument("--all-steps", action="store_true", help="the anchors of every step until they repeat")
    parser.add_argument(
        "--rows", action="store_true", help="a row of letters for each frame: G anchor, W window, X both"
    )
    parser.add_argument("--png", metavar="FILE", help=f"draw it; with --all-steps the first {MOST_DRAWN} steps")
    parser.add_argument("--html", metavar="FILE", help="a page to look at it: every step, with a slider")
    parser.add_argument("--tflops", type=float, metavar="X", help="TFLOP/s that a device reaches: adds the least time")
    parser.add_argument("--bandwidth", type=float, metavar="X", help="TB/s of its memory, together with --tflops")
    parser.add_argument("--json", action="store_true", help="the same numbers as JSON")


def run(options: argparse.Namespace) -> Iterator[str]:
    """The lines of `lvsa show`.

    Raises:
        CommandError: if the input is bad or the picture cannot be drawn.
    """
    from lvsa_vllm_omni.cli.request import requests
    from lvsa_vllm_omni.cli.show_report import numbers, text

    if options.step < 0:
        raise CommandError(f"--step must be at least 0, got {options.step}")
    found = list(requests(options))
    if len(found) > 1:
        raise CommandError(f"--frames takes one length here, got {options.frames!r}")
    request, rates = found[0], _rates(options)
    if options.png:
        drawn = request.rotation()[:MOST_DRAWN] if options.all_steps else [request.at(options.step)[0]]
        _draw(drawn, options.png)
    result = numbers(request, options.step, rates, all_steps=options.all_steps, rows=options.rows)
    if options.html:
        _write_page(request, result, options.step, options.html)
    if options.json:
        yield json.dumps(result, indent=1)
        return
    yield from text(result)
    for file in filter(None, (options.png, options.html)):
        yield f"\nDrawn: {file}"
    if request.hint:
        yield f"\n{request.hint}"


def _rates(options: argparse.Namespace) -> tuple[float, float] | None:
    """FLOP and bytes a second, if both are given."""
    given = {"--tflops": options.tflops, "--bandwidth": options.bandwidth}
    if all(value is None for value in given.values()):
        return None
    for name, value in given.items():
        if value is None or not 0 < value < float("inf"):
            got = "nothing" if value is None else value
            raise CommandError(
                f"{name} must be a number above 0, such as {650 if name == '--tflops' else 4.3}, got {got}"
            )
    return options.tflops * 1e12, options.bandwidth * 1e12


def _write_page(request: Request, result: dict[str, Any], step: int, file: str) -> None:
    try:
        from lvsa_vllm_omni.cli.show_page import page
    except ModuleNotFoundError as error:
        raise CommandFailed(f"a page needs {error.name}: pip install {error.name}") from None
    if Path(file).suffix.lower() not in (".html", ".htm"):
        raise CommandError(f"--html must name a file that ends in .html, got {file!r}")
    try:
        Path(file).write_text(page(request, result, step), "utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror or error}") from None


def _draw(patterns: list[Pattern], file: str) -> None:
    """Anchors and windows; where anchors are moved, the distances at which frames are seen.

    Raises:
        CommandError: a file that cannot be written. CommandFailed: without matplotlib.
    """
    from lvsa_core import show

    if not file.lower().endswith(".png"):
        raise CommandError(f"--png must name a file that ends in .png, got {file!r}")
    try:
        show.figure(patterns, file, None if (remap := patterns[0].remap) is None else remap.length)
    except ModuleNotFoundError as error:
        raise CommandFailed(str(error)) from None
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror or error}") from None
