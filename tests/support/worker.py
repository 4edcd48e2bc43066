"""One rank of a placement: the engine's own worker and one request, without the engine around it."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.support.attended import Call, watch_calls
from tests.support.log import Log

#: Imported once, before the ranks are forked: the worker, and the models, which the engine imports by name.
MODULES = (
    "vllm_omni.diffusion.worker.diffusion_worker",
    "vllm_omni.diffusion.diffusion_engine",
    "vllm_omni.diffusion.models.wan2_2.pipeline_wan2_2",
    "vllm_omni.diffusion.models.wan2_2.pipeline_wan2_2_i2v",
    "vllm_omni.diffusion.models.wan2_2.pipeline_wan2_2_vace",
    "vllm_omni.diffusion.models.hunyuan_video.pipeline_hunyuan_video_1_5",
    "vllm_omni.diffusion.models.cosmos3.pipeline_cosmos3",
    "vllm_omni.diffusion.models.hunyuan_video.pipeline_hunyuan_video_1_5_i2v",
    "lvsa_vllm_omni.cpu.worker",
    "lvsa_vllm_omni.plugin",
    "lvsa_vllm_omni.adopt",
    "lvsa_vllm_omni.backend",
    *(f"lvsa_vllm_omni.hooks.{name}_hook" for name in ("wan", "hunyuan", "cosmos3")),
)


@dataclass(frozen=True)
class Case:
    """A model in a placement, and one request.

    Args:
        model: folder of the checkpoint. ranks: number of processes.
        parallel: fields of the engine's ``DiffusionParallelConfig``. engine: other fields of ``OmniDiffusionConfig``.
        request: fields of ``OmniDiffusionSamplingParams``. earlier: other fields of requests that the same worker
            serves before it. image: PIL image, for a model that needs one.
        settings: LVSA_* variables.
        prepare: called with the rank before the plugin is loaded, for what only some ranks have.
        decode: whether the VAE runs; without it the output is what it would have decoded, sooner and more exact.
    """

    model: str
    ranks: int = 1
    parallel: Mapping[str, Any] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)
    earlier: Sequence[Mapping[str, Any]] = ()
    image: Any = None
    settings: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[int], None] | None = None
    decode: bool = True


@dataclass
class Result:
    """What one rank did.

    Attributes:
        output: what the pipeline returned (or, without ``decode``, denoised), as float32; None where this rank
            returns nothing.
        sent: bytes of keys and values that LVSA's exchange has sent.
        calls: every sparse attention call, also of earlier requests. counts: the journal's counters.
        log: the plugin's log lines.
        error: the traceback of what stopped the rank, empty if nothing did.
        seconds: that starting the worker and running the request took.
    """

    rank: int
    output: Any = None
    sent: int = 0
    calls: list[Call] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    error: str = ""
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def patterns(self) -> list[tuple[int, int, int, int]]:
        """Frames, patches, offset and interval of the calls, each as long as it did not change."""
        found: list[tuple[int, int, int, int]] = []
        for call in self.calls:
            pattern = (call.frames, call.patches, call.offset, call.interval)
            if not found or found[-1] != pattern:
                found.append(pattern)
        return found


def main(case: Case, rank: int, port: int, log: Path, pipe: Connection) -> None:
    """Run a case as one of its ranks, send the result and end; the output of the process goes to ``log``."""
    gc.freeze()  # the engine collects often: it need not look at what was imported, nor copy its pages
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
        result = Result(rank)
        try:
            _run(case, result, port)
        except BaseException:
            result.error = traceback.format_exc()
        pipe.send(result)
        sys.stdout.flush()
        sys.stderr.flush()


def _run(case: Case, result: Result, port: int) -> None:
    """Start the worker, run the request, shut down; fills in the result on the way."""
    for name in [name for name in os.environ if name.startswith("LVSA_") and name != "LVSA_CPU"]:
        del os.environ[name]
    os.environ.update(case.settings)
    for name in MODULES:
        importlib.import_module(name)
    from vllm_omni.plugins import load_omni_general_plugins

    from lvsa_core.sharded.transfers import traffic

    with _watched(result):
        began = time.monotonic()
        if case.prepare is not None:
            case.prepare(result.rank)
        load_omni_general_plugins()
        config = _config(case, port)
        worker = _worker_class()(local_rank=result.rank, rank=result.rank, od_config=config)
        ready = time.monotonic()
        if not case.decode:
            worker.model_runner.pipeline.vae.decode = _stop
        for other in (*case.earlier, {}):
            request = _request(case, config, other)
            try:
                result.output = _array(_output(worker.execute_model(request, config)))
            except _Denoised as stop:
                result.output = _array(stop.latents)
        result.sent = traffic.keys
        result.seconds = (ready - began, time.monotonic() - ready)
        worker.shutdown()


def _config(case: Case, port: int) -> Any:
    """The engine's configuration, with what the engine reads from the checkpoint."""
    from vllm_omni.diffusion.data import DiffusionParallelConfig, OmniDiffusionConfig

    config = OmniDiffusionConfig.from_kwargs(
        model=case.model,
        **{"dtype": "float32", "enforce_eager": True, "num_gpus": case.ranks, **case.engine},
        parallel_config=DiffusionParallelConfig(**case.parallel),
    )
    config.enrich_config()
    config.master_port = port  # the configuration takes another one where it finds this in use, by rank 0 for example
    return config


def _worker_class() -> Any:
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm_omni.platforms import current_omni_platform

    return resolve_obj_by_qualname(current_omni_platform.get_diffusion_worker_cls())


def _request(case: Case, config: Any, other: Mapping[str, Any]) -> Any:
    """The request, but for other fields, as it comes to a worker, through the model's own preprocessing."""
    from vllm_omni.diffusion.registry import get_diffusion_pre_process_func
    from vllm_omni.diffusion.request import OmniDiffusionRequest
    from vllm_omni.inputs.data import OmniDiffusionSamplingParams

    prompt: dict[str, Any] = {"prompt": "a cat on a mat", "negative_prompt": "bad"}
    if case.image is not None:
        prompt["multi_modal_data"] = {"image": case.image}
    parameters = OmniDiffusionSamplingParams(**{"seed": 42, "guidance_scale": 4.0, **case.request, **other})
    request = OmniDiffusionRequest(prompt=prompt, sampling_params=parameters, request_id="request")
    prepare = get_diffusion_pre_process_func(config)
    return prepare(request) if prepare is not None else request


class _Denoised(Exception):
    """Ends a request in the place of the VAE."""

    def __init__(self, latents: Any) -> None:
        super().__init__("denoised")
        self.latents = latents


def _stop(latents: Any, *_: Any, **__: Any) -> None:
    raise _Denoised(latents)


def _output(output: Any) -> Any:
    """The tensor that the pipeline returned, None where this rank returns nothing."""
    if output is None:
        return None
    if output.error:
        raise RuntimeError(output.error)
    found = output.media.video.tensor if output.media is not None else output.output
    while isinstance(found, (tuple, list, dict)):
        found = next(iter(found.values() if isinstance(found, dict) else found), None)
    return found


def _array(tensor: Any) -> Any:
    return None if tensor is None else tensor.detach().float().cpu().numpy()


@contextmanager
def _watched(result: Result) -> Any:
    """Note the sparse attention calls, the plugin's log lines and its counters."""
    from lvsa_vllm_omni import journal

    with pytest.MonkeyPatch.context() as patch, Log() as log:
        result.calls = watch_calls(patch)
        try:
            yield
        finally:
            result.log = log.messages
            result.counts = dict(journal.counts)
