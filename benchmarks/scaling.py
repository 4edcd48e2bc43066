"""A model on paper of LVSA on many GPUs: bytes, time and memory of one layer under Ulysses, LVSA's exchange and both.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --gpus 8,40 --minutes 1,4 --network 25 --json scaling.json --figure scaling.png

Nothing is measured. The inputs are bandwidths and FLOP rates, and what a model's preset says about its shape; the bytes
follow from who holds which rows and heads. A placement u x r has Ulysses groups of u neighbouring GPUs and divides the
sequence among r of them, by LVSA's exchange; u must divide the heads. u x 1 is Ulysses alone, 1 x r the exchange alone.

- Ulysses: all-to-all of Q, K, V and the output within a group; each GPU sends (u - 1) / u of its rows of each.
- Exchange: the anchors and the windows' frames that a GPU lacks, from ``lvsa_core.sharded.exchange``, mean over steps.
  A GPU that holds an anchor sends it to every other.
- A transfer takes the bytes of a GPU over a link's bandwidth, the larger of sent and received, and a layer waits for
  the busiest GPU; links within and between machines work at the same time. No latency, no contention.
- The all-to-all overlaps with nothing. The exchange overlaps with attention to the anchors that a GPU holds itself, and
  with nothing else.
- LVSA's kernels and the linear layers run at the given rates; norms, text encoder and VAE take nothing.
- Memory of a GPU: the weights, and of one layer the hidden state and its norm, Q, K, V, what the placement gathers and
  copies, and two outputs.
- A video is no longer than the model's table of rotary positions, which its code in diffusers gives; rows beyond it are
  marked.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch
from report import Panel, Results, draw, gigabytes, numbers, parser_of, say, table
from scaling_model import Case, Cluster, dividing, longest, measure, placements, weights

from lvsa_core import FrameGrid, Placement
from lvsa_vllm_omni.measure.machine import facts
from lvsa_vllm_omni.presets import Preset, load_preset
from lvsa_vllm_omni.shape import Shape

#: Columns of the tables.
PLACEMENTS = ("Ulysses", "exchange", "hybrid", "best")


def parse_arguments() -> argparse.Namespace:
    rates = Cluster()
    parser = parser_of(__doc__)
    parser.add_argument("--preset", default="wan2.1-14b", help="a model of configs/ with a shape")
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--gpus", type=numbers(), default=[8, 16, 40, 64], help="separated by commas")
    parser.add_argument("--minutes", type=numbers(float), default=[1 / 3, 1, 2, 4], help="lengths of the video")
    parser.add_argument("--machine", type=int, default=rates.machine, help="GPUs of one machine")
    parser.add_argument("--nvlink", type=float, default=rates.nvlink / 1e9, help="GB/s of a GPU within a machine")
    parser.add_argument("--network", type=float, default=rates.network / 1e9, help="GB/s of a GPU between machines")
    parser.add_argument("--attention", type=float, default=rates.attention / 1e12, help="TFLOP/s of the attention")
    parser.add_argument("--linear", type=float, default=rates.linear / 1e12, help="TFLOP/s of the linear layers")
    parser.add_argument("--memory", type=float, default=80, help="GB of a GPU")
    arguments = parser.parse_args()
    arguments.preset = load_preset(arguments.preset)
    if arguments.preset.shape is None:
        parser.error(f"the preset {arguments.preset.name} has no [shape]")
    arguments.cluster = Cluster(
        arguments.nvlink * 1e9, arguments.network * 1e9, arguments.machine,
        arguments.attention * 1e12, arguments.linear * 1e12,
    )  # fmt: skip
    return arguments


def latent_frames(preset: Preset, minutes: float) -> int:
    """The latent frames of a video of that length."""
    return round(minutes * 60 * preset.fps) // preset.vae_temporal_factor + 1


def minutes_of(preset: Preset, frames: int) -> float:
    """The minutes of a video of so many latent frames."""
    return (frames - 1) * preset.vae_temporal_factor / preset.fps / 60


def most_frames(preset: Preset) -> int | None:
    """Latent frames in the model's table of rotary positions; None where it makes them for any length."""
    names = preset.match["transformer"]
    models = [getattr(diffusers, name, None) for name in ([names] if isinstance(names, str) else names)]
    tables = [inspect.signature(model).parameters.get("rope_max_seq_len") for model in models if model]
    return min((table.default for table in tables if table), default=None)


def named(shape: Shape, cluster: Cluster, gpus: int) -> dict[str, Placement]:
    """The placements of the columns that the heads allow."""
    wanted = {"Ulysses": Placement(ulysses=gpus), "exchange": Placement(ring=gpus)}
    if gpus > cluster.machine and gpus % cluster.machine == 0:
        wanted["hybrid"] = Placement(ulysses=cluster.machine, ring=gpus // cluster.machine)
    allowed = placements(shape, gpus)
    return {name: placement for name, placement in wanted.items() if placement in allowed}


def rows_of(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All numbers of every length on every number of GPUs."""
    preset, cluster = arguments.preset, arguments.cluster
    width, height = map(int, arguments.size.split("x"))
    patches, limit = preset.shape.patches(height, width), most_frames(preset)
    for gpus in arguments.gpus:

        def case(frames: int, placement: Placement, gpus: int = gpus) -> Case:
            grid = FrameGrid(dividing(frames, patches, gpus), patches)
            return Case(preset.shape, grid, preset.reference_latent_frames, placement, cluster)

        fits = {placement: longest(lambda frames, placement=placement: case(frames, placement), arguments.memory * 1e9)  # type: ignore[misc]
                for placement in placements(preset.shape, gpus)}  # fmt: skip
        for minutes in arguments.minutes:
            frames = latent_frames(preset, minutes)
            found = {placement: measure(case(frames, placement)) for placement in fits}
            best = min(found, key=lambda placement: found[placement]["seconds"])
            yield {
                "gpus": gpus,
                "minutes": minutes,
                "frames": case(frames, best).grid.frames,
                "most_frames": limit,
                "most_minutes": None if limit is None else minutes_of(preset, limit),
                "all_gather": case(frames, best).gathered_by_all,
                "ways": {name: found[placement] for name, placement in
                         {**named(preset.shape, cluster, gpus), "best": best}.items()},
                "fits_minutes": {
                    name: minutes_of(preset, fits[placement])
                    for name, placement in named(preset.shape, cluster, gpus).items()
                },
            }  # fmt: skip


def lines(rows: list[dict[str, Any]], memory: float) -> Iterator[str]:
    """The results as tables: time, bytes, memory."""

    def cells(row: dict[str, Any], cell: Callable[[dict[str, Any]], str], columns: tuple[str, ...]) -> list[str]:
        return [cell(row["ways"][name]) if name in row["ways"] else "-" for name in columns]

    def time(way: dict[str, Any]) -> str:
        return f"{way['seconds'] * 1e3:.1f} ({way['waiting'] / way['seconds']:.0%})"

    def place(row: dict[str, Any]) -> list[str]:
        return [length(row), str(row["gpus"])]

    ways, most = PLACEMENTS[:3], rows[0]["most_minutes"]
    titles = " | ".join(ways)
    yield "Milliseconds of a layer, and the share of it that waits for transfers:"
    yield ""
    yield from table(
        f"video | latent frames | GPUs | {' | '.join(PLACEMENTS)}",
        [[length(row), str(row["frames"]), str(row["gpus"]), *cells(row, time, ("Ulysses", "exchange")),
          *cells(row, lambda way: f"{way['placement']}: {time(way)}", ("hybrid", "best"))] for row in rows],
    )  # fmt: skip
    if any("*" in length(row) for row in rows):
        yield ""
        yield f"* beyond the model's table of positions: {rows[0]['most_frames']} latent frames"
    yield ""
    yield "GB that a GPU receives for a layer, mean; in brackets what the busiest sends or receives:"
    yield ""
    yield from table(
        f"video | GPUs | all-gather, ring | {titles}",
        [[*place(row), gigabytes(row["all_gather"]),
          *cells(row, lambda way: f"{gigabytes(way['received'])} ({gigabytes(way['most'])})", ways)] for row in rows],
    )  # fmt: skip
    yield ""
    yield "GB of K and V on a GPU during a layer, as projected and as gathered:"
    yield ""
    yield from table(
        f"video | GPUs | {titles}",
        [[*place(row), *cells(row, lambda way: gigabytes(way["keys"]), ways)] for row in rows],
    )
    yield ""
    yield f"Minutes of the longest video that fits in {memory:g} GB, in brackets where the model's table ends before:"
    yield ""
    fits = {row["gpus"]: row["fits_minutes"] for row in rows}
    yield from table(
        f"GPUs | {titles}",
        [[str(gpus), *(fitting(found[name], most) if name in found else "-" for name in ways)]
         for gpus, found in fits.items()],
    )  # fmt: skip


def fitting(minutes: float, most: float | None) -> str:
    """The longest video that can be requested, and what would fit if the model took more."""
    return f"{minutes:.1f}" if most is None or minutes <= most else f"{most:.1f} ({minutes:.1f})"


def length(row: dict[str, Any]) -> str:
    """The length of a row's video, for people; marked if the model cannot make it."""
    most = row["most_frames"]
    mark = "*" if most is not None and row["frames"] > most else ""
    return (f"{row['minutes']:g} min" if row["minutes"] >= 1 else f"{row['minutes'] * 60:.0f} s") + mark


def panels(rows: list[dict[str, Any]]) -> list[Panel]:
    """Bytes on the fewest GPUs, and times on the most that Ulysses can have beside a hybrid, by the video's length."""
    few = min(row["gpus"] for row in rows)
    many = max((row["gpus"] for row in rows if {"Ulysses", "hybrid"} <= row["ways"].keys()), default=few)
    found = []
    for gpus, kind, unit, label in (
        (few, "received", 1e9, "GB received by a GPU, a layer"),
        (many, "waiting", 1e-3, "ms of waiting for transfers, a layer"),
    ):
        here = [row for row in rows if row["gpus"] == gpus]
        drawn = {}
        for name in PLACEMENTS[:3]:
            ways = [row["ways"].get(name) for row in here]
            if all(ways):
                points = zip((row["minutes"] for row in here), (way[kind] / unit for way in ways), strict=True)
                drawn[f"{name}, {ways[0]['placement']}"] = [*points]
        if kind == "received":
            drawn["all-gather, ring"] = [(row["minutes"], row["all_gather"] / unit) for row in here]
        else:
            drawn["computing alone"] = [(row["minutes"], row["ways"]["best"]["computing"] / unit) for row in here]
        options = {"xscale": "log", "yscale": "log", "xlabel": "minutes of video", "ylabel": label}
        found.append(Panel(drawn, {**options, "title": f"{gpus} GPUs"}))
    return found


def inputs(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the numbers depend on."""
    shape, cluster = arguments.preset.shape, arguments.cluster
    return {
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
    results = Results(arguments.json, facts(torch.device("cpu"), arguments.commit) | inputs(arguments))
    results.rows.extend(rows_of(arguments))
    results.save()
    say(*lines(results.rows, arguments.memory))
    draw(arguments.figure, panels(results.rows))


if __name__ == "__main__":
    main()
