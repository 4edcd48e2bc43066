#!/usr/bin/env python
"""A video with Wan 2.1 or 2.2 on plain diffusers, here of four times the training length.

python examples/wan_generate.py --lvsa --num-frames 321 --prompt "A red fox runs through fresh snow"
"""

import sys

from generate import main
from generate_flags import Model

WAN = Model(
    pipeline="WanPipeline",
    repository="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    preset="wan2.1-1.3b",
    vae_dtype="float32",  # as the model card has it: in bfloat16 the pictures lose detail
)

if __name__ == "__main__":
    sys.exit(main(WAN, __doc__))
