"""``python -m lvsa_vllm_omni.serve MODEL``: the same as ``lvsa serve MODEL``."""

import sys

from lvsa_vllm_omni.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
