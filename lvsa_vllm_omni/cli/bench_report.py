"""The results of `lvsa bench` as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lvsa_vllm_omni.cli.tables import line, scaled

#: What the end-to-end effect knows nothing of.
LEFT_OUT = "text encoder, VAE, attention to text outside the video's sequence, norms, rotary positions, communication"

#: Column of a time -> its title.
TIMES = {"dense": "dense", "dense_fa3": "dense FA3", "lvsa": "LVSA", "linear": "linear"}


def heading(results: dict[str, Any]) -> Iterator[str]:
    """What the numbers depend on, and the titles of the columns."""
    machine, shape = results["machine"], results["measured_shape"]
    yield f"{machine['date']}, {machine['device'] or machine['processor']}, {machine['versions']}"
    yield (
        f"{results['model']} at {'x'.join(map(str, results['size']))}, {results['dtype']}: {shape['heads']} heads of "
        f"{shape['head_size']}, {results['measured_tokens_per_frame']} tokens a frame; "
        f"medians of {results['repeats']}, interleaved"
    )
    if results["scaled_down"]:
        yield (
            f"SCALED DOWN from {results['shape']['heads']} heads and {results['tokens_per_frame']} tokens a frame: the "
            f"ratios carry over to the model, the times do not"
        )
    yield f"dense: {', '.join(results['dense_kernels'].values())}; LVSA: {results['kernel_choice']}"
    yield "checked: attend agrees with the reference on a small case of this head size"
    yield ""
    yield line(*_columns(results))


def row_line(row: dict[str, Any], results: dict[str, Any]) -> str:
    """One length."""
    times, sparse = row["seconds"], row["verdict"] == "sparse"
    cells = [
        str(row["frames"]),
        str(row["latent_frames"]),
        f"{row['density']:.3f}",
        *(scaled(times[name], "s") if name in times else "dense" for name in _times(results)),
        f"{row['ratio']:.3f}" if sparse else "-",
        f"{row['overhead']:.3f}" if sparse else "-",
        f"{row['end_to_end']:.2f}x",
    ]
    return line(cells, _columns(results)[1]) + ("" if row["quiet"] else "  (other programs ran)")


def legend(results: dict[str, Any]) -> Iterator[str]:
    """What the columns are, and which lengths run dense for which reason."""
    yield ""
    for row in results["rows"]:
        if row["verdict"] != "sparse":
            yield f"{row['frames']} frames run on the engine's own attention: {row['reason']}."
    yield "Times are of one layer at step 0. ratio: LVSA over the fastest dense; divided by the density it is 1 where"
    yield "only attended pairs cost time. end to end: (dense + linear) / (LVSA + linear), what to expect of a block."
    if results["scaled_down"]:
        yield "For it the measured times were multiplied by the whole model's FLOP over those measured."
    yield "It leaves out what both share:"
    yield f"{results['left_out']}."


def _times(results: dict[str, Any]) -> list[str]:
    """The columns of times that there are."""
    return [name for name in TIMES if name != "dense_fa3" or name in results["dense_kernels"]]


def _columns(results: dict[str, Any]) -> tuple[list[str], list[int]]:
    """Titles and widths."""
    times = [TIMES[name] for name in _times(results)]
    titles = ["frames", "latent", "density", *times, "ratio", "ratio/density", "end to end"]
    return titles, [max(9 if title in times else 6, len(title)) for title in titles]
