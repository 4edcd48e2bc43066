"""``python -m lvsa_vllm_omni.cli``: the command `lvsa` where its script is not on the path."""

import sys

from lvsa_vllm_omni.cli.main import main

sys.exit(main())
