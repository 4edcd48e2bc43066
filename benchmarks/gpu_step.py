"""Times whole denoising steps on one GPU, dense and with LVSA, in one command, without a network and under 8 minutes.

    PYTHONPATH=. python benchmarks/gpu_step.py --json gpu-step.json --figure gpu-step.png

The transformers are Wan 2.1 1.3B (30 blocks), 14B (40) and HunyuanVideo 1.5 (54) at 480x832 in bfloat16; see
``step_models.py``. Their weights are random, which does not change the time. A step is two forwards, with and without
the prompt, and the update of the latents. Text encoder and VAE, which run once a video, are not in it.

Dense runs on the fastest dense kernel that this card has at that shape (FlashAttention-3, cuDNN, PyTorch's flash
attention), LVSA on the kernel that ``attend`` selects, with another denoising step's anchors in every run. Up to the
training length LVSA calls the same dense function. The runs of both sides take turns after a warm-up. Of every case it
prints

- seconds a step of both sides, medians, and their ratio. The targets, against dense FlashAttention-3: at least 2.4 at
  321 frames and 3.4 at 481 for Wan 2.1 1.3B, and within 1 % up to the training length for all models;
- the share of self-attention, from one forward of each side with an event of the device around each call;
- the largest memory that PyTorch held, weights included.

As in vLLM-Omni the blocks are compiled, all but the attention. Where that fails (it needs a C compiler), and with
``--no-compile``, they run as written. A model that does not fit into the memory runs with the weights of one block in
all of them. Both are printed. A case that would not end within ``--budget`` is named and not run: call again with its
``--models`` and ``--frames``. The JSON file is written after every case. The exit status is 1 if a case failed, 2 if
nothing can be run.

It needs PyTorch 2.11, this repository, and for FlashAttention-3 (Hopper) the wheel fa3-fwd. On a machine with a
network, with the other machine's Python and platform:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_24_x86_64 \\
        --dest wheels fa3-fwd

and there, after copying the folder:

    pip install --no-index --no-deps --find-links wheels fa3-fwd

``--small`` tries all of it on a processor in seconds: 2 blocks, 4 tokens a frame, float32. Its times mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent))  # for when this file is not run as a script
from gpu_step_cases import FRAMES, Bench, ordered_cases
from gpu_step_report import draw, table
from step_models import ARCHITECTURES


def parse_arguments() -> argparse.Namespace:
    """Command line; names are checked here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(ARCHITECTURES), help="default: %(default)s")
    parser.add_argument("--frames", default=",".join(map(str, FRAMES)), help="of video; default: %(default)s")
    parser.add_argument("--budget", type=float, default=420, metavar="SECONDS", help="run no case that would not fit")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, after every case")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the seconds there (needs matplotlib)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="compile blocks; default: on a GPU")
    parser.add_argument("--small", action="store_true", help="2 blocks of few tokens on the CPU, to see that it works")
    arguments = parser.parse_args()
    arguments.models = arguments.models.split(",")
    if unknown := [name for name in arguments.models if name not in ARCHITECTURES]:
        parser.error(f"{', '.join(unknown)}: not known; choose of {', '.join(ARCHITECTURES)}")
    try:
        arguments.frames = tuple(map(int, arguments.frames.split(",")))
    except ValueError:
        parser.error(f"--frames takes whole numbers separated by commas, got {arguments.frames}")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    if not (arguments.small or torch.cuda.is_available()):
        print("error: PyTorch finds no CUDA device; try it out with --small", file=sys.stderr)
        return 2
    bench = Bench(arguments, torch.device("cpu") if arguments.small else torch.device("cuda", 0))
    print(*(f"{name}: {value}" for name, value in bench.results["machine"].items()), sep="\n", flush=True)
    for name, frames in ordered_cases(arguments.models, arguments.frames):
        bench.case(name, frames)
        bench.save()
    cases = bench.results["cases"]
    print("", *table(cases), f"\n{bench.results['seconds']:.0f} s in all", sep="\n")
    if arguments.figure:
        draw(cases, arguments.figure)
    return int(bench.failed)


if __name__ == "__main__":
    sys.exit(main())
