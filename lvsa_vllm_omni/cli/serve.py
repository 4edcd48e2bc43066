"""``lvsa serve``: the engine's own server, with LVSA on for the model that it serves.

It sets variables for the process that it becomes, and has no part in the server afterwards.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

DESCRIPTION = (
    "Find the family of MODEL, switch LVSA on for it, say in one line what will happen, and start the engine's own "
    "server."
)
EXAMPLE = "lvsa serve Wan-AI/Wan2.1-T2V-14B-Diffusers --port 8000 --ulysses-degree 4 --max-seconds 7200"
USAGE = f"""usage: lvsa serve MODEL [--max-seconds N] [--lvsa-SETTING VALUE ...] [any option of vllm serve]

{DESCRIPTION}

  MODEL                 a checkpoint folder, or a model on the Hugging Face Hub
  --max-seconds N       how long the longest request may take; with several workers the engine gives up after 600
  --lvsa-SETTING VALUE  any setting of docs/settings.md: --lvsa-window-size 8 is LVSA_WINDOW_SIZE=8

All else goes to `vllm serve MODEL --omni`, as it is.

example: {EXAMPLE}"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """None: most of the options of `lvsa serve` are the engine's, so it reads them itself."""


def run(options: argparse.Namespace) -> Iterator[str]:
    """Say what the server will do, and become the server; see :func:`lvsa_vllm_omni.cli.serve_run.start`.

    Args:
        options: with ``arguments``, those behind ``lvsa serve``.
    """
    if not options.arguments or options.arguments[0] in ("-h", "--help"):
        yield USAGE
        return
    from lvsa_vllm_omni.cli.serve_run import start

    yield from start(options.arguments)
