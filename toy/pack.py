"""Put what the trainings made into the package, as float16.

python -m toy.pack outputs/toy/transformer.pt outputs/toy/vae.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import save_file

from lvsa_vllm_omni.tiny.toy import WEIGHTS, toy_vae
from toy.pipeline import load


def main() -> None:
    """Write the one file of weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("transformer", type=Path, help="state of toy.train")
    parser.add_argument("vae", type=Path, help="state of toy.train_vae")
    arguments = parser.parse_args()
    states = {
        "transformer": load(arguments.transformer, "average")["average"],
        "vae": load(arguments.vae, "parts")["parts"][0],
    }
    assert states["vae"].keys() == toy_vae().state_dict().keys()
    weights = {
        f"{name}.{key}": value.half().contiguous() for name, state in states.items() for key, value in state.items()
    }
    save_file(weights, WEIGHTS)
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
