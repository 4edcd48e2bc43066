#!/usr/bin/env python
"""Make one video four times as long as the training length with LVSA on, and show what LVSA did.

    python examples/demo.py --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers

Without a model it makes a tiny Wan checkpoint with random weights, whose video is noise; without an accelerator it runs
the engine on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lvsa_core import plan, show
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "A red fox runs through fresh snow, the camera follows it"

#: A size and a number of steps that a CPU does in seconds.
TINY = ("--height", "64", "--width", "64", "--steps", "8")
#: bfloat16 convolutions are slow on most CPUs, and an accelerator's attention has no float32.
CPU = ("--engine-args", '{"dtype": "float32"}')

#: What of the engine's output is shown: LVSA's lines, and the batch's own.
SHOWN = re.compile(r"(\[LVSA[^\]]*\].*)|^((?:starting the engine|error:|failed:|\d+ (?:of|videos)).*)")


def main() -> int:
    """0 if the video is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a checkpoint; default: a tiny one with random weights")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--horizon", type=float, default=4, help="length as a multiple of the training length")
    parser.add_argument("--output-dir", type=Path, default=ROOT / "outputs" / "demo")
    arguments = parser.parse_args()
    output: Path = arguments.output_dir
    output.mkdir(parents=True, exist_ok=True)

    os.environ["LVSA_CPU"] = "1"  # only heeded where there is no accelerator
    model: str = arguments.model
    options: tuple[str, ...] = ()
    if not model:
        model, options = str(output / "tiny-wan"), TINY if torch.accelerator.is_available() else TINY + CPU
        print(f"== no model named: a tiny Wan with random weights in {model}; its video will be noise", flush=True)
        if not (output / "tiny-wan" / "model_index.json").exists():
            write_checkpoint("wan", output / "tiny-wan", force=True)

    for old in ("demo.mp4", "demo.json"):
        (output / old).unlink(missing_ok=True)  # a finished video would be skipped, and nothing shown
    batch = [sys.executable, str(ROOT / "examples" / "offline_lvsa.py"), "--model", model, "--prompt", arguments.prompt]
    batch += ["--horizon", str(arguments.horizon), "--output-dir", str(output), "--output-name", "demo", *options]
    log = output / "engine.log"
    print(f"== {arguments.horizon:g} times the training length: {arguments.prompt!r}", flush=True)
    code = follow(batch, log)
    if code == 0 and "[LVSA] total_lat_frames" not in log.read_text(errors="replace"):
        print("error: the video was made, but LVSA did not take part", file=sys.stderr)
        code = 1
    if code:
        print(f"error: the demo failed; the engine's own log is {log}", file=sys.stderr)
        return code
    draw(output / "demo.json", output / "pattern.png")
    for name, path in {
        "video": "demo.mp4",
        "pattern": "pattern.png",
        "record": "demo.json",
        "log": "engine.log",
    }.items():
        print(f"== {name:8} {output / path}")
    return 0


def follow(command: Sequence[str], log: Path) -> int:
    """Run a command; its output goes to ``log``, the lines worth seeing and the progress also to the terminal."""
    with log.open("w") as record:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", bufsize=1
        )
        assert process.stdout is not None
        engaged, last = False, ""
        try:
            for line in process.stdout:  # a progress bar ends its lines with \r, which text mode reads as an end too
                record.write(line)
                step = re.search(r"(\d+/\d+) \[.*it", line)
                if found := SHOWN.search(line):
                    print(f"   {(found[1] or found[2]).strip()}", flush=True)
                    engaged |= "[LVSA] installed" in line  # bars before it are those of loading and warming up
                elif step and engaged and step[1] != last:  # a bar that is full draws itself once more
                    last = step[1]
                    print(f"   denoising step {last}", flush=True)
        except KeyboardInterrupt:
            process.wait()
            return 130
        return process.wait()


def draw(record: Path, picture: Path) -> None:
    """Draw the pattern of a finished video at three denoising steps."""
    made = json.loads(record.read_text())
    frames, steps = made["pattern"]["latent_frames"], range(min(3, made["pattern"]["keyframe_interval"]))
    show.figure([plan(frames, step=step, **made["settings"]["plan"]) for step in steps], picture)


if __name__ == "__main__":
    sys.exit(main())
