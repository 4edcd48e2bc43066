"""What `lvsa bench` does: it measures length by length, and loses nothing of what is measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from lvsa_core.kernels import KernelUnavailable, candidates, select
from lvsa_vllm_omni.cli import CommandError, CommandFailed, bench_report
from lvsa_vllm_omni.cli.request import Request, requests
from lvsa_vllm_omni.cli.timing import Bench, check, dense_choice, flash3, narrowed, time_block
from lvsa_vllm_omni.measure.machine import facts, is_out_of_memory
from lvsa_vllm_omni.settings import LvsaSettings

#: What a CPU is given of a model.
CPU_HEADS, CPU_PATCHES = 2, 195


def measure(options: argparse.Namespace) -> Iterator[str]:
    """The lines of `lvsa bench`; a row of the table comes as soon as it is measured.

    Raises:
        CommandError: if the input is bad. CommandFailed: if no kernel runs, its result is wrong, or memory runs out.
    """
    lengths = list(requests(options))
    device, dtype = _device(options)
    bench = _bench(lengths[0], options, device, dtype)
    results = _record(lengths[0], bench)
    _write(options.json, results)
    yield from bench_report.heading(results)
    failure = None
    for request in lengths:
        try:
            row = time_block(bench, request)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failure = f"out of memory at {request.frames} frames: take fewer frames, a smaller --size or fewer --heads"
            results["stopped"] = failure
        else:
            results["rows"].append(row)
            yield bench_report.row_line(row, results)
        _write(options.json, results)
        if failure:
            break
    yield from bench_report.legend(results)
    if failure:
        raise CommandFailed(failure)


def _device(options: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Where to measure, and in which numbers."""
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise CommandError(f"--device must be cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise CommandError(f"--device {name} is not there: PyTorch sees {count} CUDA devices")
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    else:
        device = torch.device("cpu")
    dtype = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    return device, getattr(torch, dtype)


def _bench(request: Request, options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Bench:
    """What is measured: the model's shape, or less of it, and a kernel whose result is right."""
    shape, cpu = request.model.shape, device.type == "cpu"
    heads = options.heads if options.heads is not None else min(CPU_HEADS, shape.heads) if cpu else shape.heads
    if not 1 <= heads <= shape.heads:
        raise CommandError(f"--heads must be from 1 to the model's {shape.heads}, got {heads}")
    if options.repeats < 1:
        raise CommandError(f"--repeats must be at least 1, got {options.repeats}")
    if not 0 <= options.patience < float("inf"):
        raise CommandError(f"--patience must be a number of seconds from 0, got {options.patience}")
    name = options.backend or LvsaSettings.load().kernel
    try:
        candidates(name)
    except KernelUnavailable as error:
        raise CommandError(str(error)) from None
    try:
        chosen = select(name, device, dtype, shape.head_size)
    except KernelUnavailable as error:
        raise CommandFailed(str(error)) from None
    patches = min(CPU_PATCHES, request.grid.patches) if cpu else request.grid.patches
    small = narrowed(shape, heads, patches / request.grid.patches)
    patience = options.patience if cpu else 0.0
    bench = Bench(shape, request.grid.patches, small, patches, device, dtype, chosen, options.repeats, patience)
    if wrong := check(bench):
        raise CommandFailed(f"{chosen.kernel.name} is wrong here, so nothing is measured: {wrong}")
    return bench


def _record(request: Request, bench: Bench) -> dict[str, Any]:
    """What the numbers depend on; rows are added as they are measured."""
    fa3 = flash3(bench)
    return {
        "machine": facts(bench.device),
        "model": request.model.title,
        "size": [request.width, request.height],
        "shape": asdict(bench.full),
        "measured_shape": asdict(bench.shape),
        "tokens_per_frame": request.grid.patches,
        "measured_tokens_per_frame": bench.patches,
        "scaled_down": bench.scaled_down,
        "dtype": str(bench.dtype).removeprefix("torch."),
        "repeats": bench.repeats,
        "kernel": bench.kernel.kernel.name,
        "kernel_choice": str(bench.kernel),
        "dense_kernels": {"dense": dense_choice(bench), **({"dense_fa3": fa3.name} if fa3 else {})},
        "left_out": bench_report.LEFT_OUT,
        "rows": [],
    }


def _write(file: Path | None, results: dict[str, Any]) -> None:
    if file is None:
        return
    try:
        file.write_text(json.dumps(results, indent=1) + "\n")
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror or error}") from None
