"""Where LVSA meets the engine's model runner: the model that was loaded, the pipeline that runs, its errors."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from lvsa_core.kernels import release
from lvsa_vllm_omni import compat, journal, request_journal, step
from lvsa_vllm_omni.hooks import SPECS, dense_reason
from lvsa_vllm_omni.latents import Keeper
from lvsa_vllm_omni.request_knobs import asked_by, signature
from lvsa_vllm_omni.scope import Scope
from lvsa_vllm_omni.seam import MARK, scope_of, watch_decoder
from lvsa_vllm_omni.settings import LvsaSettings


def install(unused: Callable[[str, str, str], None], settings: LvsaSettings) -> Callable[[], None]:
    """Know the running pipeline and what its request asks of LVSA; tell of a model without it; answer clients' errors.

    Target: ``load_model``, ``execute_model`` and, where there is one, ``execute_model_batch`` of
        ``DiffusionModelRunner``; ``use_tiling`` of a VAE, while it decodes a long video.
    Why: LVSA that is switched on for a model it does not know must not be silent; some pipelines alone know the
        denoising step; and the executor of a single device turns every exception of a request into an internal server
        error, also one of the client's (``OmniClientError``), which the executor of several devices answers with its
        own status. What a request brings for LVSA is wrong or right before anything is computed. Between requests the
        engine may go to sleep, and must find the memory free.
    How: look for scopes in the model that was loaded; remember which pipeline runs; hand a client's error on as the
        engine's own output does.
    Remove when: the engine tells plugins of its models; ``UniProcDiffusionExecutor`` keeps the status.

    Args:
        unused: called with the name of the pipeline's class, the setting that would switch LVSA on for it if there is
            one, and the reason where its model is known to stay dense.
        settings: where requests are told of, and whether their latents are kept.

    Returns:
        A function that takes the patch off again.
    """
    try:
        from vllm_omni.diffusion.data import DiffusionOutput
        from vllm_omni.diffusion.worker.diffusion_model_runner import DiffusionModelRunner
    except ImportError:  # another version's runner: the lines about requests still tell what is dense
        return lambda: None
    keeper = Keeper(Path(settings.keep_latents).expanduser(), journal.not_kept) if settings.keep_latents else None
    cls: Any = DiffusionModelRunner
    client_error = compat.client_error_class()
    if MARK in vars(cls):
        return vars(cls)[MARK]
    originals = {
        name: getattr(cls, name)
        for name in ("load_model", "execute_model", "execute_model_batch")
        if hasattr(cls, name)
    }
    original_load, original_execute = originals["load_model"], originals["execute_model"]

    @functools.wraps(original_load)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original_load(self, *args, **kwargs)
        pipeline: Any = getattr(self, "pipeline", None)
        if isinstance(pipeline, torch.nn.Module) and not _scopes(pipeline):
            classes = {type(module) for module in pipeline.modules()}
            unused(type(pipeline).__name__, _switch(classes), dense_reason({cls.__name__ for cls in classes}))
        if hasattr(getattr(pipeline, "vae", None), "decode"):
            watch_decoder(pipeline.vae, decoding(pipeline))
        return result

    @functools.wraps(original_execute)
    def execute_model(self: Any, req: Any, *args: Any, **kwargs: Any) -> Any:
        def run() -> Any:
            try:
                enter(self, [req])
                return original_execute(self, req, *args, **kwargs)
            except client_error as error:
                if not hasattr(DiffusionOutput, "from_exception"):
                    raise
                return DiffusionOutput.from_exception(error)

        return told(self, [req], run)

    def execute_model_batch(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        requests = [new.req for new in getattr(scheduler_output, "scheduled_new_reqs", ())]

        def run() -> Any:  # a client's error keeps its status: the engine answers each request of a batch by itself
            enter(self, requests)
            return originals["execute_model_batch"](self, scheduler_output, *args, **kwargs)

        return told(self, requests, run)

    def decoding(pipeline: Any) -> Callable[..., AbstractContextManager[None]]:
        """Around the decoder of a pipeline: the latents are kept, and long videos decoded in tiles."""
        longest = min((scope.arguments["reference_frames"] for scope in _scopes(pipeline)), default=None)

        @contextmanager
        def around(vae: Any, latents: torch.Tensor, chunks: bool) -> Iterator[None]:
            # Where the VAE hands frames on in chunks, its memory does not grow with the length, and tiles are refused.
            long = longest is not None and latents.shape[2] > longest and not chunks
            tiles = settings.tiled_decoding and long and getattr(vae, "use_tiling", None) is False
            with ExitStack() as stack:
                if keeper:
                    stack.enter_context(keeper.decoding(vae, latents))
                if tiles:
                    vae.use_tiling = True
                    stack.callback(setattr, vae, "use_tiling", False)
                yield

        return around

    def told(self: Any, requests: list[Any], run: Callable[[], Any]) -> Any:
        """Run requests together; afterwards they are told of, and memory is free."""
        begin, result, raised = time.perf_counter(), None, None
        if keeper:
            keeper.begin(requests)
        try:
            result = run()
            return result
        except BaseException as error:
            raised = f"{type(error).__name__}: {error}"
            raise
        finally:
            model, seconds = type(getattr(self, "pipeline", None)).__name__, time.perf_counter() - begin
            failed = request_journal.tell(settings.journal, model, requests, step.ran(), seconds, raised, result)
            if keeper:
                keeper.end(failed)
            try:
                release()
            except RuntimeError:  # a device out of use; the request's own error says more
                if raised is None:
                    raise

    def enter(self: Any, requests: list[Any]) -> None:
        """Requests are about to run; several of them bring the same knobs, see :func:`_install_scheduler`."""
        pipeline = getattr(self, "pipeline", None)
        step.enter(pipeline)  # what ran before is told
        asked = asked_by(requests[0]) if requests else None
        if len({*map(signature, requests)}) > 1:  # an engine whose scheduler is another one
            raise client_error("extra_params.lvsa: the requests of a batch bring different knobs, send them alone")
        if asked is not None:
            try:
                _check(pipeline, asked)
            except ValueError as error:
                raise client_error(str(error)) from None
        step.enter(
            pipeline, asked, step.steps_asked(getattr(requests[0], "sampling_params", None)) if requests else None
        )

    def undo() -> None:
        if vars(cls).get(MARK) is undo:
            undo_scheduler()
            for name, original in originals.items():
                setattr(cls, name, original)
            delattr(cls, MARK)

    cls.load_model, cls.execute_model = load_model, execute_model
    if "execute_model_batch" in originals:
        cls.execute_model_batch = functools.wraps(originals["execute_model_batch"])(execute_model_batch)
    undo_scheduler = _install_scheduler()
    setattr(cls, MARK, undo)
    return undo


def _install_scheduler() -> Callable[[], None]:
    """Keep requests that bring different knobs for LVSA out of one batch: its transformer calls have one pattern.

    Target: ``_build_sampling_params_key`` of the scheduler's classes.
    Why: requests of one key run in lock-step, and ``extra_args`` are not in it.
    How: what a request brings for LVSA becomes a part of the key's ``condition_key``.
    Remove when: the engine has a place for it in the key.

    Returns:
        A function that takes the patch off again.
    """
    try:
        from vllm_omni.diffusion.sched.base_scheduler import BaseScheduler
        from vllm_omni.diffusion.sched.request_scheduler import RequestScheduler
    except ImportError:  # a version without batches of requests
        return lambda: None
    name, originals = "_build_sampling_params_key", {}

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def build(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            key = original(self, request, *args, **kwargs)
            if asked_by(request) is None or not hasattr(key, "condition_key"):
                return key
            return dataclasses.replace(key, condition_key=(key.condition_key, signature(request)))

        return build

    for cls in (BaseScheduler, RequestScheduler):
        if name in vars(cls):
            originals[cls] = vars(cls)[name]
            setattr(cls, name, wrapped(originals[cls]))

    def undo() -> None:
        for cls, original in originals.items():
            setattr(cls, name, original)

    return undo


def _check(pipeline: Any, asked: Any) -> None:
    """Whether the running model can do what a request asks of LVSA.

    Raises:
        ValueError: with the sentence for the client.
    """
    scopes = _scopes(pipeline)
    for scope in scopes:
        scope.choose(asked)
    if not scopes and not (isinstance(asked, dict) and asked.get("enabled") is False):
        raise ValueError(f"extra_params.lvsa: this server runs {type(pipeline).__name__} without LVSA, leave it out")


def _scopes(pipeline: Any) -> list[Scope]:
    """LVSA on the transformers of a pipeline."""
    modules = pipeline.modules() if isinstance(pipeline, torch.nn.Module) else ()
    return [found for module in modules if (found := scope_of(module))]


def _switch(classes: set[type]) -> str:
    """The setting of the family that has one of these classes or its base, empty if none has."""
    names = {base.__name__ for cls in classes for base in cls.__mro__}
    return next((spec.setting for spec in SPECS.values() if spec.transformer_class in names), "")
