#!/usr/bin/env python
"""The method's tables in one command: models, lengths, methods, prompts and seeds, through the engine.

    python benchmarks/reproduce.py --grid toy --output outputs/reproduce-toy          # the CPU, under 20 minutes
    python benchmarks/reproduce.py --grid quick --output outputs/reproduce            # one GPU, Wan 2.1 1.3B
    python benchmarks/reproduce.py --grid sota --models /models/wan-1.3b --horizons 1,2,4 --seeds 42,43

Every video is made by examples/offline_lvsa.py, all methods of a kernel on one engine, each by the knobs that its
request brings; with a JSON beside each that has the times, the memory, what ran, and VQeval's result. The same command
goes on where it stopped. What runs out of memory is a result too. Then, from all that is there, `results.json`,
`results.csv`, `tables.md` and one figure are written; --report writes them again and makes nothing. Options behind `--`
go to examples/offline_lvsa.py.

A video has two times: that of its whole request, and that of the denoising alone, by the engine's own profiler.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import root  # noqa: F401
import torch
from report import Results, names, numbers
from reproduce_report import write_report

from lvsa_vllm_omni.measure.machine import ROOT, facts
from lvsa_vllm_omni.offline.arguments import json_object
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

PROMPTS = Path(__file__).with_name("prompts.json")
#: Four of the colours that Toy Wan knows, each twice; both speeds, two skies.
TOY_PROMPTS = (
    "a red ball, fast, blue sky",
    "a green ball, slow, grey sky",
    "a blue ball, fast, grey sky",
    "a yellow ball, fast, blue sky",
    "a red ball, slow, grey sky",
    "a green ball, fast, blue sky",
    "a blue ball, slow, blue sky",
    "a yellow ball, fast, grey sky",
)
BATCH = ROOT / "examples" / "offline_lvsa.py"
#: Words of an error that means that the memory does not do, and what an engine that died of it says.
OUT_OF_MEMORY = ("out of memory", "outofmemory")


@dataclass(frozen=True)
class Method:
    """How a video is made.

    Args:
        knobs: what its request brings, by the length in multiples of the training length.
        kernel: the batch's --backend.
    """

    knobs: Callable[[float], dict[str, Any]]
    kernel: str = "auto"


METHODS = {
    "dense": Method(lambda _: {"enabled": False}),
    "dense+riflex": Method(lambda times: {"enabled": False, "riflex_scale": times}),
    "lvsa": Method(lambda _: {"enabled": True}),
    "lvsa+riflex": Method(lambda times: {"enabled": True, "riflex_scale": times}),
    "lvsa-0.75": Method(lambda _: {"enabled": True, "sparsity_scale": 0.75}),
    "lvsa-0.5": Method(lambda _: {"enabled": True, "sparsity_scale": 0.5}),
    "lvsa-long": Method(lambda _: {"enabled": True, "recipe": "long"}),
    "lvsa-no-rotation": Method(lambda _: {"enabled": True, "rotate_keyframes": False}),
    **{f"lvsa:{kernel}": Method(lambda _: {"enabled": True}, kernel) for kernel in ("flash", "flashinfer", "sdpa")},
}


@dataclass(frozen=True)
class Grid:
    """What is made: every method at every length of every model, of every prompt and seed."""

    models: tuple[str, ...]
    horizons: tuple[float, ...]
    methods: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...] = (42,)
    options: tuple[str, ...] = ()


def grids() -> dict[str, Grid]:
    """The grids by name."""
    prompts = tuple(json.loads(PROMPTS.read_text()))
    small, large = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Wan-AI/Wan2.1-T2V-14B-Diffusers"
    hunyuan = "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v"
    every = tuple(METHODS)
    scaling = ("dense", "lvsa")
    on_cpu = ("--eager", "--engine-args", '{"dtype": "float32"}') if not torch.accelerator.is_available() else ()
    return {
        "sota": Grid((small,), (1, 2, 3, 4, 6), every, prompts, (42, 43)),
        "scaling": Grid((small, large), (1, 2, 3, 4, 6), scaling, prompts[:1]),
        "hunyuan": Grid((hunyuan,), (1, 1.5, 2), ("dense", "dense+riflex", "lvsa", "lvsa+riflex"), prompts),
        "quick": Grid((small,), (1, 4), ("dense", "lvsa"), prompts[:2]),
        "toy": Grid(
            ("toy-wan",), (1, 4), ("dense", "dense+riflex", "lvsa", "lvsa-long"), TOY_PROMPTS, (42, 43), on_cpu
        ),
    }  # fmt: skip


def parse_arguments() -> argparse.Namespace:
    """Read the options; what is left out, the grid decides."""
    known = grids()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", choices=known, default="quick")
    parser.add_argument("--models", type=lambda text: text.split(","), help="folders or names on the hub, or toy-wan")
    parser.add_argument("--horizons", type=numbers(float), help="lengths, as multiples of the training length")
    parser.add_argument("--methods", type=names(METHODS), help=f"of {', '.join(METHODS)}")
    parser.add_argument("--prompts", type=int, metavar="N", help="only the first N prompts")
    parser.add_argument("--seeds", type=numbers(), help="such as 42,43")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "reproduce")
    parser.add_argument("--report", action="store_true", help="make no videos")
    parser.add_argument("--vbench", type=Path, metavar="DIR", help="also write the folder that VBench reads: vbench.py")
    parser.add_argument("--commit", help="of this repository, where git cannot tell it")
    words, more = _split(sys.argv[1:])
    arguments = parser.parse_args(words)
    grid = known[arguments.grid]
    chosen = {name: getattr(arguments, name) for name in ("models", "horizons", "methods", "seeds")}
    grid = replace(grid, **{name: tuple(value) for name, value in chosen.items() if value})
    if arguments.prompts:
        grid = replace(grid, prompts=grid.prompts[: arguments.prompts])
    arguments.what = replace(grid, options=profiled([*grid.options, *more]))
    return arguments


def profiled(options: list[str]) -> tuple[str, ...]:
    """The batch's options with the engine's profiler of its pipelines on, which tells the seconds of each part.

    Of several --engine-args the last counts, as in the batch.
    """
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--engine-args", type=json_object, default={})
    found, rest = reader.parse_known_args(options)
    return (*rest, "--engine-args", json.dumps({"enable_diffusion_pipeline_profiler": True, **found.engine_args}))


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before ``--`` and behind it."""
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def main() -> int:
    """0: all is there, 1: something is missing that is not out of memory."""
    arguments = parse_arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    grid: Grid = arguments.what
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    results = Results(arguments.output / "results.json", facts(device, arguments.commit))
    rows = results.rows
    for model in grid.models:
        for kernel in dict.fromkeys(METHODS[method].kernel for method in grid.methods):
            folder = arguments.output / model.rstrip("/").rpartition("/")[2] / kernel
            if not arguments.report:
                make(model, kernel, grid, folder)
            rows += collect(model, kernel, grid, folder)
    if arguments.vbench:
        from vbench import write_folder

        print(*write_folder(rows, arguments.output, arguments.vbench), sep="\n")
    write_report(results, arguments.output)
    missing = [row for row in rows if row["result"] not in ("made", "out of memory")]
    if missing:
        print(f"error: {len(missing)} of {len(rows)} videos are not there; {missing[0]['result']}", file=sys.stderr)
    return 1 if missing else 0


def requests(kernel: str, grid: Grid) -> Iterator[tuple[str, float, str, int, dict[str, Any]]]:
    """Every video of a kernel: method, horizon, prompt, seed, and its line of the prompt file; the short ones first."""
    for horizon in sorted(grid.horizons):
        for method in grid.methods:
            if METHODS[method].kernel != kernel or (horizon == 1 and "riflex" in method):
                continue
            for seed in grid.seeds:
                for prompt in grid.prompts:
                    line = {"prompt": prompt, "seed": seed, "horizon": horizon, "lvsa": METHODS[method].knobs(horizon)}
                    yield method, horizon, prompt, seed, line


def make(model: str, kernel: str, grid: Grid, folder: Path) -> None:
    """Make the videos of one kernel; each length is a batch, so that one that runs out of memory ends alone."""
    folder.mkdir(parents=True, exist_ok=True)
    if model == "toy-wan":
        model = str(folder.parent / "checkpoint")
        if not Path(model, "model_index.json").exists():
            write_checkpoint("toy-wan", model, force=True)
        os.environ["LVSA_CPU"] = "1"
    for horizon in sorted(grid.horizons):
        lines = [request[-1] for request in requests(kernel, replace(grid, horizons=(horizon,)))]
        if not lines:
            continue
        place = folder / f"{horizon:g}x"
        place.mkdir(exist_ok=True)
        prompts = place / "prompts.jsonl"
        prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
        command = [sys.executable, str(BATCH), "--model", model, "--prompts-file", str(prompts)]
        command += ["--output-dir", str(place), "--backend", kernel, "--evaluate", *grid.options]
        print(f"== {model}, {horizon:g}x, {kernel}: {len(lines)} videos", flush=True)
        with (place / "engine.log").open("a") as log:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                if line.startswith(("failed:", "error:")) or "videos" in line.partition(" in ")[0]:
                    print(f"   {line.strip()}", flush=True)
            process.wait()


def collect(model: str, kernel: str, grid: Grid, folder: Path) -> list[dict[str, Any]]:
    """A row for every video, made or not."""
    rows = []
    for horizon in sorted(grid.horizons):
        place = folder / f"{horizon:g}x"
        records = {}
        for path in sorted(place.glob("*.json")):
            record = json.loads(path.read_text())
            settings = record["settings"]
            key = (settings["prompt"], settings["seed"], json.dumps(settings.get("request", {}), sort_keys=True))
            records[key] = (path, record)
        log = place / "engine.log"
        text = log.read_text(errors="replace").lower() if log.exists() else ""
        for method, _, prompt, seed, line in requests(kernel, replace(grid, horizons=(horizon,))):
            row: dict[str, Any] = {
                "model": model.rstrip("/").rpartition("/")[2], "horizon": horizon, "method": method,
                "prompt": prompt, "seed": seed,
            }  # fmt: skip
            found = records.get((prompt, seed, json.dumps(line["lvsa"], sort_keys=True)))
            if found:
                row |= {"result": "made", "file": str(found[0].with_suffix(".mp4").relative_to(folder.parents[1]))}
                row |= of_record(found[1])
            elif any(words in text for words in OUT_OF_MEMORY):
                row["result"] = "out of memory"
            else:
                row["result"] = f"not made, see {log}" if text else "not tried"
            rows.append(row)
    return rows


def of_record(record: dict[str, Any]) -> dict[str, Any]:
    """What the tables use of a video's JSON."""
    judged = record.get("vqeval", {})
    dimensions = judged.get("dimensions", {})
    return {
        "frames": record["settings"]["frames"],
        "seconds": record["timings_s"]["generation"],
        "denoising_seconds": denoising(record["engine_durations"]),
        "peak_memory_gb": record["peak_memory_mib"] and record["peak_memory_mib"] * 2**20 / 1e9,
        "density": (record.get("pattern") or {}).get("density", 1.0),
        "sparse": bool((record.get("ran") or {}).get("sparse")),
        "fallbacks": (record.get("ran") or {}).get("fallbacks", {}),
        "composite": judged.get("composite"),
        **{name: found["value"] for name, found in dimensions.items()},
        "loop_lag_seconds": dimensions.get("loop", {}).get("lag_seconds"),
    }


def denoising(durations: dict[str, float]) -> float | None:
    """Seconds of the denoising, of the parts of a pipeline that the engine's profiler has timed; None without it.

    Where a pipeline has no part of that name, it is what the other parts leave.
    """
    parts = {name.partition(".")[2]: seconds for name, seconds in durations.items() if "Pipeline." in name}
    if "diffuse" in parts or not parts:
        return parts.get("diffuse")
    return parts.pop("forward") - sum(parts.values())


if __name__ == "__main__":
    sys.exit(main())
