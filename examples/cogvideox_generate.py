#!/usr/bin/env python
"""A video with CogVideoX on plain diffusers, here of four times the training length.

python examples/cogvideox_generate.py --lvsa --num-frames 193 --prompt "A red fox runs through fresh snow"
"""

import sys

from generate import main
from generate_flags import Model

COGVIDEOX = Model(
    pipeline="CogVideoXPipeline",
    repository="THUDM/CogVideoX-5b",
    preset="cogvideox",
    needed=("sentencepiece", "protobuf"),  # of its tokenizer
    tiling=True,
)

if __name__ == "__main__":
    sys.exit(main(COGVIDEOX, __doc__))
