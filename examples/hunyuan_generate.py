#!/usr/bin/env python
"""A video with HunyuanVideo 1.5 on plain diffusers, here of three times the training length.

python examples/hunyuan_generate.py --lvsa --num-frames 385 --prompt "A red fox runs through fresh snow"
"""

import argparse
import sys
from typing import Any

from generate import main
from generate_flags import Model


def load(arguments: argparse.Namespace) -> dict[str, Any]:
    """The guidance is a part of this pipeline, not an argument of its call."""
    from diffusers.guiders import ClassifierFreeGuidance

    return {"guider": ClassifierFreeGuidance(guidance_scale=arguments.guidance)}


HUNYUAN = Model(
    pipeline="HunyuanVideo15Pipeline",
    repository="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v",
    preset="hunyuan-video-1.5",
    tiling=True,
    load=load,
    call=lambda arguments: {},
)

if __name__ == "__main__":
    sys.exit(main(HUNYUAN, __doc__))
