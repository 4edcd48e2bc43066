"""A model on paper of LVSA on many GPUs: bytes, time and memory of one layer under Ulysses, LVSA's exchange and both.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --gpus 8,40 --minutes 1,4 --network 25 --json scaling.json --figure scaling.png

Nothing is measured. The inputs are bandwidths and FLOP rates, and what a model's preset says about its shape; the bytes
follow from who holds which rows and heads. A split u x r has Ulysses groups of u neighbouring GPUs and divides the
sequence among r of them, by LVSA's exchange; u must divide the heads. u x 1 is Ulysses alone, 1 x r the exchange alone.

- Ulysses: all-to-all of Q, K, V and the output within a group; each GPU sends (u - 1) / u of its rows of each.
- Exchange: the anchors and the windows' frames that a GPU lacks, from ``lvsa_core.sharded.exchange``, mean over steps.
  A GPU that holds an anchor sends it to every other.
- A transfer takes the bytes of a GPU over a link's bandwidth, the larger of sent and received, and a layer waits for
  the busiest GPU; links within and between machines work at the same time. No latency, no contention.
- The all-to-all overlaps with nothing. The exchange overlaps with attention to the anchors that a GPU holds itself, and
  with nothing else.
- LVSA's kernels and the linear layers run at the given rates; norms, text encoder and VAE take nothing.
- Memory of a GPU: the weights, and of one layer the hidden state and its norm, Q, K, V, what the strategy gathers and
  copies, and two outputs.
- A video is no longer than the model's table of rotary positions, which its code in diffusers gives; rows beyond it are
  marked.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import diffusers

from lvsa_core import FrameGrid
from lvsa_vllm_omni.presets import Preset, load_preset
from lvsa_vllm_omni.shape import Shape

sys.path.append(str(Path(__file__).parent))  # for when this file is not run as a script
from scaling_model import Case, Cluster, Split, dividing, longest, measure, splits, weights

#: Columns of the tables.
STRATEGIES = ("Ulysses", "exchange", "hybrid", "best")


def parse_arguments() -> argparse.Namespace:
    rates = Cluster()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="wan2.1-14b", help="a model of configs/ with a shape")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--gpus", type=_numbers(int), default=[8, 16, 40, 64], help="separated by commas")
    parser.add_argument("--minutes", type=_numbers(float), default=[1 / 3, 1, 2, 4], help="lengths of the video")
    parser.add_argument("--machine", type=int, default=rates.machine, help="GPUs of one machine")
    parser.add_argument("--nvlink", type=float, default=rates.nvlink / 1e9, help="GB/s of a GPU within a machine")
    parser.add_argument("--network", type=float, default=rates.network / 1e9, help="GB/s of a GPU between machines")
    parser.add_argument("--attention", type=float, default=rates.attention / 1e12, help="TFLOP/s of the attention")
    parser.add_argument("--linear", type=float, default=rates.linear / 1e12, help="TFLOP/s of the linear layers")
    parser.add_argument("--memory", type=float, default=80, help="GB of a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw bytes and times there (needs matplotlib)")
    arguments = parser.parse_args()
    arguments.preset = load_preset(arguments.preset)
    if arguments.preset.shape is None:
        parser.error(f"the preset {arguments.preset.name} has no [shape]")
    arguments.cluster = Cluster(
        arguments.nvlink * 1e9, arguments.network * 1e9, arguments.machine,
        arguments.attention * 1e12, arguments.linear * 1e12,
    )  # fmt: skip
    return arguments


def _numbers(kind: type) -> Callable[[str], list[Any]]:
    return lambda text: [kind(part) for part in text.split(",")]


def latent_frames(preset: Preset, minutes: float) -> int:
    """Of a video of that length."""
    return round(minutes * 60 * preset.fps) // preset.vae_temporal_factor + 1


def minutes_of(preset: Preset, frames: int) -> float:
    """Of a video of so many latent frames."""
    return (frames - 1) * preset.vae_temporal_factor / preset.fps / 60


def most_frames(preset: Preset) -> int | None:
    """Latent frames in the model's table of rotary positions; None where it makes them for any length."""
    names = preset.match["transformer"]
    models = [getattr(diffusers, name, None) for name in ([names] if isinstance(names, str) else names)]
    tables = [inspect.signature(model).parameters.get("rope_max_seq_len") for model in models if model]
    return min((table.default for table in tables if table), default=None)


def named(shape: Shape, cluster: Cluster, gpus: int) -> dict[str, Split]:
    """The splits of the columns that the heads allow."""
    whole, machine = Split(gpus, 1), Split(cluster.machine, gpus // cluster.machine)
    wanted = {"Ulysses": whole, "exchange": Split(1, gpus)}
    if gpus > cluster.machine and gpus % cluster.machine == 0:
        wanted["hybrid"] = machine
    return {name: split for name, split in wanted.items() if split in splits(shape, gpus)}


def rows_of(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All numbers of every length on every number of GPUs."""
    preset, cluster = arguments.preset, arguments.cluster
    width, height = map(int, arguments.size.split("x"))
    patches, limit = preset.shape.patches(height, width), most_frames(preset)
    for gpus in arguments.gpus:

        def case(frames: int, split: Split, gpus: int = gpus) -> Case:
            grid = FrameGrid(dividing(frames, patches, gpus), patches)
            return Case(preset.shape, grid, preset.reference_latent_frames, split, cluster)

        fits = {split: longest(lambda frames, split=split: case(frames, split), arguments.memory * 1e9)  # type: ignore[misc]
                for split in splits(preset.shape, gpus)}  # fmt: skip
        for minutes in arguments.minutes:
            frames = latent_frames(preset, minutes)
            found = {split: measure(case(frames, split)) for split in fits}
            best = min(found, key=lambda split: found[split]["seconds"])
            yield {
                "gpus": gpus,
                "minutes": minutes,
                "frames": case(frames, best).grid.frames,
                "most_frames": limit,
                "most_minutes": None if limit is None else minutes_of(preset, limit),
                "all_gather": case(frames, best).gathered_by_all,
                "ways": {name: found[split] for name, split in
                         {**named(preset.shape, cluster, gpus), "best": best}.items()},
                "fits_minutes": {
                    name: minutes_of(preset, fits[split])
                    for name, split in named(preset.shape, cluster, gpus).items()
                },
            }  # fmt: skip


def report(rows: list[dict[str, Any]], memory: float) -> Iterator[str]:
    """The results as tables: time, bytes, memory."""
    heads = " | ".join(STRATEGIES)
    yield "Milliseconds of a layer, and the share of it that waits for transfers:"
    yield ""
    yield f"| video | latent frames | GPUs | {heads} |"
    yield "|" + "---|" * (3 + len(STRATEGIES))
    for row in rows:
        cells = []
        for name in STRATEGIES:
            way = row["ways"].get(name)
            split = f"{way['split']}: " if way and name in ("hybrid", "best") else ""
            cells.append(f"{split}{way['seconds'] * 1e3:.1f} ({way['waiting'] / way['seconds']:.0%})" if way else "-")
        yield f"| {length(row)} | {row['frames']} | {row['gpus']} | {' | '.join(cells)} |"
    yield from beyond(rows)
    yield ""
    yield "GB that a GPU receives for a layer, mean; in brackets what the busiest sends or receives:"
    yield ""
    yield "| video | GPUs | all-gather, ring | Ulysses | exchange | hybrid |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        ways = [row["ways"].get(name) for name in STRATEGIES[:3]]
        cells = [f"{way['received'] / 1e9:.2f} ({way['most'] / 1e9:.2f})" if way else "-" for way in ways]
        yield f"| {length(row)} | {row['gpus']} | {row['all_gather'] / 1e9:.2f} | {' | '.join(cells)} |"
    yield ""
    yield "GB of K and V on a GPU during a layer, as projected and as gathered:"
    yield ""
    yield "| video | GPUs | Ulysses | exchange | hybrid |"
    yield "|---|---|---|---|---|"
    for row in rows:
        ways = [row["ways"].get(name) for name in STRATEGIES[:3]]
        cells = [f"{way['keys'] / 1e9:.2f}" if way else "-" for way in ways]
        yield f"| {length(row)} | {row['gpus']} | {' | '.join(cells)} |"
    yield ""
    yield f"Minutes of the longest video that fits in {memory:g} GB, in brackets where the model's table ends before:"
    yield ""
    yield "| GPUs | Ulysses | exchange | hybrid |"
    yield "|---|---|---|---|"
    for gpus, fits in {row["gpus"]: row["fits_minutes"] for row in rows}.items():
        cells = [fitting(fits[name], rows[0]["most_minutes"]) if name in fits else "-" for name in STRATEGIES[:3]]
        yield f"| {gpus} | {' | '.join(cells)} |"


def fitting(minutes: float, most: float | None) -> str:
    """The longest video that can be requested, and what would fit if the model took more."""
    return f"{minutes:.1f}" if most is None or minutes <= most else f"{most:.1f} ({minutes:.1f})"


def beyond(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The note on the rows that are marked."""
    if any("*" in length(row) for row in rows):
        yield ""
        yield f"* beyond the model's table of positions: {rows[0]['most_frames']} latent frames"


def length(row: dict[str, Any]) -> str:
    """Of a row's video, for people; marked if the model cannot make it."""
    most = row["most_frames"]
    mark = "*" if most is not None and row["frames"] > most else ""
    return (f"{row['minutes']:g} min" if row["minutes"] >= 1 else f"{row['minutes'] * 60:.0f} s") + mark


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Bytes on the fewest GPUs, and times on the most that Ulysses can have beside a hybrid, by the video's length."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("No figure: matplotlib is not installed.", file=sys.stderr)
        return
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    few = min(row["gpus"] for row in rows)
    many = max((row["gpus"] for row in rows if {"Ulysses", "hybrid"} <= row["ways"].keys()), default=few)
    for panel, gpus, kind in ((left, few, "received"), (right, many, "waiting")):
        here = [row for row in rows if row["gpus"] == gpus]
        minutes = [row["minutes"] for row in here]
        unit = 1e9 if kind == "received" else 1e-3
        if kind == "received":
            panel.plot(
                minutes, [row["all_gather"] / unit for row in here], marker="o", label="all-gather, ring", color="C3"
            )
        else:
            panel.plot(minutes, [row["ways"]["best"]["computing"] / unit for row in here],
                       color="grey", linestyle="--", label="computing alone")  # fmt: skip
        for index, name in enumerate(STRATEGIES[:3]):
            ways = [row["ways"].get(name) for row in here]
            if all(ways):
                label = f"{name}, {ways[0]['split']}"
                panel.plot(minutes, [way[kind] / unit for way in ways], marker="o", label=label, color=f"C{index}")
        panel.set(xscale="log", yscale="log", xlabel="minutes of video", title=f"{gpus} GPUs")
        panel.set_xticks(minutes, [f"{value:.2g}" for value in minutes])
        panel.minorticks_off()
        panel.legend(fontsize="small")
    left.set_ylabel("GB received by a GPU, a layer")
    right.set_ylabel("ms of waiting for transfers, a layer")
    figure.savefig(file, dpi=80)


def inputs(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    shape, cluster = arguments.preset.shape, arguments.cluster
    return {
        "date": date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/scaling.py", *sys.argv[1:]]),
        "kind": "a model on paper; nothing is measured",
        "model": f"{arguments.preset.title}, {arguments.size}, {shape.heads} heads of {shape.head_size}, "
        f"{shape.blocks} layers, bfloat16, {arguments.preset.fps} fps",
        "weights": f"{weights(shape) / 1e9:.1f} GB on every GPU",
        "memory": f"{arguments.memory:g} GB",
        "rates": f"{cluster.nvlink / 1e9:g} GB/s a GPU and direction within a machine of {cluster.machine}, "
        f"{cluster.network / 1e9:g} GB/s between machines; {cluster.attention / 1e12:g} TFLOP/s attention, "
        f"{cluster.linear / 1e12:g} linear layers",
    }


def main() -> None:
    arguments = parse_arguments()
    results = {"inputs": inputs(arguments), "rows": list(rows_of(arguments))}
    print(*(f"{name}: {value}" for name, value in results["inputs"].items()), sep="\n", end="\n\n")
    print(*report(results["rows"], arguments.memory), sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.figure:
        draw(results["rows"], arguments.figure)


if __name__ == "__main__":
    main()
