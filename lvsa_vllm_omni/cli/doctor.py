"""`lvsa doctor`: what of LVSA would run on this machine, and what under which parallelism."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

from lvsa_vllm_omni.cli import CommandError, CommandFailed
from lvsa_vllm_omni.cli.tables import columns, markdown_table

DESCRIPTION = (
    "Check versions, settings, the installed engine, the device and every kernel without starting an engine, and tell "
    "in the last line what a server started now would do; status 1 if it would not start. --matrix tells what LVSA "
    "does under each kind of parallelism."
)
EXAMPLE = "LVSA_ENABLE=1 lvsa doctor --json"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `lvsa doctor`."""
    parser.add_argument("--matrix", action="store_true", help="what LVSA does under each kind of parallelism")
    parser.add_argument("--markdown", action="store_true", help="with --matrix: the table of docs/parallelism.md")
    parser.add_argument("--json", action="store_true", help="what was found as JSON")


def run(options: argparse.Namespace) -> Iterator[str]:
    """The lines of `lvsa doctor`.

    Raises:
        CommandError: if a setting is wrong. CommandFailed: if a server would not start; the lines before it say what
            does run.
    """
    if options.markdown and not options.matrix:
        raise CommandError("--markdown is for the table: give --matrix too")
    if options.matrix and options.json:
        raise CommandError("--json is for what is found on this machine: give it without --matrix")
    if options.matrix:
        yield from _matrix(options.markdown)
        return
    from lvsa_vllm_omni.cli.doctor_report import examine

    found: dict[str, Any] = {}
    for line in examine(found):
        if not options.json:
            yield line
    if options.json:
        yield json.dumps(found, indent=1)
    if found["problems"]:
        raise CommandFailed("a server does not start here: " + "; ".join(found["problems"]))


def _matrix(markdown: bool) -> Iterator[str]:
    from lvsa_vllm_omni import parallelism

    rows = list(parallelism.table())
    if markdown:
        yield from markdown_table(rows)
        return
    yield from columns([(title, *verdicts, flags) for title, flags, *verdicts, _how in rows])
    for option in parallelism.PLACEMENTS:
        yield from (f"{option.title}, {name}: {why}" for name, why in option.engine_limits.items())
