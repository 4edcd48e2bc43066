#!/usr/bin/env python
"""A video with Cosmos 3 on plain diffusers, here of twice the training length.

    python examples/cosmos_generate.py --lvsa --num-frames 377 --prompt "A red fox runs through fresh snow"

The model's guardrail checks prompt and video. It needs the package cosmos_guardrail; --no-guardrail leaves it out.
"""

import argparse
import importlib.util
import sys
from typing import Any

from generate import main
from generate_flags import Model


def flags(parser: argparse.ArgumentParser) -> None:
    """The guardrail is on unless the checkpoint leaves it out."""
    parser.add_argument(
        "--guardrail", action=argparse.BooleanOptionalAction, default=True, help="check prompt and video (on)"
    )


def load(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load the guardrail or not; raises ImportError if it is not installed."""
    if not arguments.guardrail:
        return {"enable_safety_checker": False}
    if importlib.util.find_spec("cosmos_guardrail") is None:
        raise ImportError(
            "Cosmos 3 checks prompt and video with cosmos_guardrail, which is not installed: "
            "uv pip install cosmos_guardrail, or leave the checks out with --no-guardrail"
        )
    return {}


def call(arguments: argparse.Namespace) -> dict[str, Any]:
    """The frame rate is part of what the model is told."""
    return {
        "guidance_scale": arguments.guidance,
        "fps": arguments.fps,
        "enable_safety_check": arguments.guardrail,
    }


COSMOS = Model(
    pipeline="Cosmos3OmniPipeline",
    repository="nvidia/Cosmos3-Nano",
    preset="cosmos3",
    aliases=("Cosmos3OmniDiffusersPipeline",),
    flags=flags,
    load=load,
    call=call,
)

if __name__ == "__main__":
    sys.exit(main(COSMOS, __doc__))
