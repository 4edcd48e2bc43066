#!/usr/bin/env python
"""Make one video four times as long as the training length: dense, with LVSA, with its recipe for long videos.

    python examples/demo.py --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers

Without a model it takes Toy Wan, a small trained model that comes with the package; without an accelerator it runs the
engine on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from demo_compare import picture, side_by_side

from lvsa_core import show
from lvsa_core.decide import decide
from lvsa_vllm_omni.checkpoint import Checkpoint
from lvsa_vllm_omni.hooks import load_family
from lvsa_vllm_omni.presets import preset_of
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

ROOT = Path(__file__).resolve().parent.parent
PROMPT, TOY_PROMPT = "A red fox runs through fresh snow, the camera follows it", "a red ball, fast, blue sky"

#: bfloat16 convolutions are slow on most CPUs, an accelerator's attention has no float32, and here compiling takes
#: longer than it saves.
CPU = ("--engine-args", '{"dtype": "float32"}', "--eager")
#: Captions, and the knobs of LVSA that each of the requests brings.
SIDES: dict[str, dict[str, Any]] = {
    "dense attention": {"enabled": False},
    "with LVSA": {"enabled": True},
    "LVSA, recipe=long": {"enabled": True, "recipe": "long"},
}

#: What of the engine's output is shown: LVSA's lines, and the batch's own.
SHOWN = re.compile(r"(\[LVSA[^\]]*\].*)|^((?:starting the engine|error:|failed:|\d+ (?:of|videos)).*)")


def main() -> int:
    """0 if the videos and all that is drawn of them are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a checkpoint; default: Toy Wan")
    parser.add_argument("--prompt", default="", help=f"default: {PROMPT!r}, and of Toy Wan {TOY_PROMPT!r}")
    parser.add_argument("--horizon", type=float, default=4, help="length as a multiple of the training length")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--output-dir", type=Path, default=ROOT / "outputs" / "demo")
    arguments = parser.parse_args()
    output: Path = arguments.output_dir
    output.mkdir(parents=True, exist_ok=True)

    os.environ["LVSA_CPU"] = "1"  # only heeded where there is no accelerator
    model, prompt = arguments.model, arguments.prompt or (PROMPT if arguments.model else TOY_PROMPT)
    if not model:
        model = str(output / "toy-wan")
        print(f"== no model named: Toy Wan, a small trained model, in {model}", flush=True)
        write_checkpoint("toy-wan", output / "toy-wan", force=True)  # one that stands there may be an older package's
    wanted = wanted_for(model)
    options = () if arguments.model or torch.accelerator.is_available() else CPU

    videos, prompts, log = output / "videos", output / "prompts.jsonl", output / "engine.log"
    shutil.rmtree(videos, ignore_errors=True)  # a finished video would be skipped, and nothing shown
    prompts.write_text("".join(json.dumps({"prompt": prompt, "lvsa": knobs}) + "\n" for knobs in wanted.values()))
    batch = [sys.executable, str(ROOT / "examples" / "offline_lvsa.py"), "--model", model, "--prompts-file"]
    batch += [str(prompts), "--horizon", str(arguments.horizon), "--seed", str(arguments.seed)]
    print(f"== {arguments.horizon:g} times the training length, {', '.join(wanted)}: {prompt!r}", flush=True)
    code = follow([*batch, "--output-dir", str(videos), "--evaluate", *options], log)
    if code:
        print(f"error: the demo failed; the engine's own log is {log}", file=sys.stderr)
        return code
    found = {str(record["settings"]["request"]): (path, record) for path, record in records(videos)}
    sides = {caption: found[str(knobs)] for caption, knobs in wanted.items()}
    if any(sides[caption][1]["ran"]["sparse"] != knobs["enabled"] for caption, knobs in wanted.items()):
        print(f"error: the videos were made, but LVSA did not take part; see {log}", file=sys.stderr)
        return 1
    sparse = sides["with LVSA"][1]
    fps = float(sparse["video"]["fps"])
    files = {caption: path.with_suffix(".mp4") for caption, (path, _) in sides.items()}
    side_by_side(files, output / "together.mp4", fps)
    picture(files, output / "together.png", fps, f"{prompt}: {arguments.horizon:g} times the training length")
    draw(sparse, output / "pattern.png")
    for caption, (_, record) in sides.items():
        print(f"== {caption}: {verdict(record)}")
    for what, file in {
        "videos": "together.mp4",
        "picture": "together.png",
        "pattern": "pattern.png",
        "single": "videos",
        "log": "engine.log",
    }.items():
        print(f"== {what:8} {output / file}")
    return 0


def wanted_for(model: str) -> dict[str, dict[str, Any]]:
    """The requests that a model can have: the recipe is for families whose rotary embedding LVSA knows."""
    try:
        family = preset_of(Checkpoint.read(model), None, None).family
    except ValueError:  # a model that the batch refuses, with a sentence
        return SIDES
    return {text: knobs for text, knobs in SIDES.items() if "recipe" not in knobs or load_family(family).rope}


def records(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The JSON of every finished video."""
    return [(path, json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]


def verdict(record: dict[str, Any]) -> str:
    """What VQeval found of loops and freezes, and the time of the denoising."""
    found = record["vqeval"]
    if "error" in found:
        return str(found["error"])
    said = []
    for name, title in {"loop": "loop", "freeze": "frozen"}.items():
        dimension = found["dimensions"][name]
        if dimension["value"] is None:
            said.append(f"{title}: {dimension['reason']}")
            continue
        lag = dimension.get("lag_seconds")
        said.append(f"{title} {dimension['value']:.0%} of the frames" + (f", again after {lag:.1f} s" if lag else ""))
    return "; ".join(said)


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
                step = re.search(r"(\d+)/(\d+) \[.*it", line)
                # Bars before these lines are those of loading and warming up.
                engaged |= "Engine initialized" in line or "[LVSA] installed" in line
                if found := SHOWN.search(line):
                    print(f"   {(found[1] or found[2]).strip()}", flush=True)
                elif step and engaged and step[1] != last and (int(step[1]) % 5 == 0 or step[1] == step[2]):
                    last = step[1]  # a bar that is full draws itself once more
                    print(f"   denoising step {step[1]} of {step[2]}", flush=True)
        except KeyboardInterrupt:
            process.wait()
            return 130
        return process.wait()


def draw(record: dict[str, Any], target: Path) -> None:
    """Draw the pattern of a finished video at three denoising steps."""
    frames, steps = record["pattern"]["latent_frames"], range(min(3, record["pattern"]["keyframe_interval"]))
    plan, last = record["settings"]["plan"], record["settings"]["steps"] or 1
    show.figure([decide(frames, step, plan, steps=last)[0] for step in steps], target)


if __name__ == "__main__":
    sys.exit(main())
