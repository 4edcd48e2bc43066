"""The options that name a request, for the commands that ask about one."""

from __future__ import annotations

import argparse


def add_request_options(parser: argparse.ArgumentParser, frames: str) -> None:
    """Model, length and size; ``frames`` is the help of ``--frames``."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--preset", metavar="NAME", help="a model by its preset: a name in configs/ or a TOML file")
    which.add_argument("--model", metavar="DIR", help="a model by its checkpoint in the diffusers layout")
    parser.add_argument("--frames", required=True, metavar="N", help=frames)
    parser.add_argument("--size", metavar="WxH", help="pixels, such as 832x480 (default: the preset's)")
