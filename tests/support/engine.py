"""The real engine in this process: one at a time."""

import gc
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from tests.support.capabilities import batches_requests, runs_one_device_inline

#: An accelerator's attention has no float32 kernels. Then rounding is that of bfloat16 through the whole model.
DTYPE = "bfloat16" if torch.accelerator.is_available() else "float32"

#: Of a video: through a few layers and the VAE. A wrong attention moves the frames by ``VISIBLE`` and more.
ROUNDING = 2e-2 if torch.accelerator.is_available() else 2e-4
VISIBLE = 0.02


@dataclass
class Engine:
    """A running engine and what tests ask of it."""

    omni: Any

    def video(self, frames: int, *, size: tuple[int, int] = (64, 64), steps: int = 3, **options: Any) -> np.ndarray:
        """Frames [F, H, W, 3] in 0..1 of one request; ``size`` is height and width in pixels."""
        prompt, parameters = _request(frames, size, steps, options)
        images = self.omni.generate(prompt, parameters, use_tqdm=False)[0].images
        video = np.asarray(images[0])
        if video.ndim == 3:  # HunyuanVideo: a list of frames in 8 bits
            return np.stack([np.asarray(image) for image in images]) / np.float32(255)
        return video[0] if video.ndim == 5 else video

    def denoised(self, frames: int, **options: Any) -> np.ndarray:
        """Latents [T, h, w, 3] in 0..1 of one request, mixed to three colours: a VAE takes most of a tiny model's time.

        It encodes an image once for all requests of a length and size.
        """
        with ExitStack() as stack:
            for vae, encode in self._vaes:
                stack.enter_context(patch.object(vae, "decode", _mix))
                stack.enter_context(patch.object(vae, "encode", encode))
            return self.video(frames, **options)

    def submit(
        self, name: str, frames: int, *, size: tuple[int, int] = (64, 64), steps: int = 3, **options: Any
    ) -> None:
        """Put one request into the engine's queue, and return at once; ``name`` is its id."""
        prompt, parameters = _request(frames, size, steps, options)
        self.omni.engine.add_request(
            request_id=name, prompt=prompt, sampling_params_list=[parameters], final_output_stage_ids=[0]
        )

    def outcomes(self, names: set[str], timeout: float = 120) -> dict[str, np.ndarray | str]:
        """Wait for what becomes of requests: the videos [outputs, F, H, W, 3], or the error."""
        found: dict[str, np.ndarray | str] = {}
        end = time.monotonic() + timeout
        while names - set(found):
            assert time.monotonic() < end, f"no answer to {names - set(found)}"
            message = self.omni.engine.try_get_output(timeout=0.1)
            if message is None or getattr(message, "request_id", None) not in names:
                continue
            output = getattr(message, "engine_outputs", None)
            error = getattr(message, "error", None) or getattr(output, "error", None)
            if error:
                found[message.request_id] = str(error)
            elif message.finished:
                found[message.request_id] = np.asarray(output.images[0])
        return found

    @property
    def transformers(self) -> list[Any]:
        """The transformers of the model, which lives in this process."""
        from lvsa_vllm_omni.hooks import SPECS

        modules = [(sys.modules.get(spec.transformer.partition(":")[0]), spec) for spec in SPECS.values()]
        return _alive(*(getattr(module, spec.transformer_class) for module, spec in modules if module))

    @cached_property
    def _vaes(self) -> list[tuple[Any, Any]]:
        """The VAEs of the model, each with an encoder that remembers."""
        from vllm_omni.diffusion.distributed.autoencoders.distributed_vae_executor import DistributedVaeMixin

        return [(vae, _remembered(vae.encode)) for vae in _alive(DistributedVaeMixin)]


def _alive(*classes: type) -> list[Any]:
    """The objects of these classes."""
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, classes)]


def _remembered(encode: Any) -> Any:
    """The same encoder, which computes nothing twice."""
    known: dict[Any, Any] = {}

    def encoded(x: torch.Tensor, *rest: Any, **more: Any) -> Any:
        key = (x.shape, x.numpy(force=True).tobytes(), rest, *more.items())
        if key not in known:
            known[key] = encode(x, *rest, **more)
        return known[key]

    return encoded


def _mix(latents: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
    """A decoder: pictures [B, 3, T, h, w] in -1..1 of latents [B, C, T, h, w], each of whose channels shows."""
    channels = latents.shape[1]
    colours = torch.randn(3, channels, generator=torch.Generator().manual_seed(0)) / channels**0.5
    return (torch.einsum("oc,bcfhw->bofhw", colours.to(latents), latents).tanh(),)


def _request(frames: int, size: tuple[int, int], steps: int, options: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The prompt and the sampling parameters of a request."""
    from vllm_omni.inputs.data import OmniDiffusionSamplingParams

    prompt: dict[str, Any] = {"prompt": options.pop("prompt", "a cat on a mat"), "negative_prompt": "bad"}
    if "image" in options:
        prompt["multi_modal_data"] = {"image": options.pop("image")}
    defaults = {"seed": 42, "guidance_scale": 4.0, "num_inference_steps": steps}
    place = {"height": size[0], "width": size[1], "num_frames": frames}
    return prompt, OmniDiffusionSamplingParams(**place, **(defaults | options))


@contextmanager
def start(checkpoint: Path, settings: dict[str, str], *, warm_up: bool = False, **options: Any) -> Iterator[Engine]:
    """The engine under some LVSA_* variables, started as in a new process: plugins are loaded anew.

    Args:
        warm_up: whether the engine makes its first picture of 512 x 512 pixels, which takes most of the start.
    """
    import vllm.plugins
    import vllm_omni.plugins
    from vllm_omni import Omni
    from vllm_omni.diffusion.attention.selector import _cached_get_backend_cls
    from vllm_omni.diffusion.distributed.parallel_state import destroy_distributed_env

    from lvsa_vllm_omni import journal, plugin

    logging.getLogger("vllm_omni.worker.gpu_memory_utils").addFilter(_without_exceptions)
    before = dict(os.environ)
    for name in before:
        if name.startswith("LVSA_") and name != "LVSA_CPU":
            del os.environ[name]
    os.environ.update(settings)
    plugin.deactivate()
    journal.reset()
    _cached_get_backend_cls.cache_clear()
    vllm.plugins.plugins_loaded = vllm_omni.plugins.omni_plugins_loaded = False
    omni = None
    try:
        with warm_up_of(warm_up):
            omni = Omni(model=str(checkpoint), **options_of(options))
        yield Engine(omni)
    finally:
        if omni is not None:
            omni.close()
        else:  # an engine that did not start may leave its groups in this process
            destroy_distributed_env()
        plugin.deactivate()
        os.environ.clear()  # the engine leaves its ports there, which an engine in another process would take too
        os.environ.update(before)
        gc.collect()
        if not gc.get_freeze_count():
            gc.freeze()  # the engine collects at each start and end: it need not look at all that was imported


def _without_exceptions(record: logging.LogRecord) -> bool:
    """A log record without the exception that it names: pytest keeps records, and its frames hold worker and model."""
    if isinstance(record.args, tuple):
        record.args = tuple(str(thing) if isinstance(thing, BaseException) else thing for thing in record.args)
    return True


def options_of(asked: dict[str, Any]) -> dict[str, Any]:
    """The options of an engine on this release: its worker is in this process if it has one device."""
    options = {"dtype": DTYPE, "enforce_eager": True, **asked}
    several = any(name.endswith(("_degree", "_parallel_size", "num_replicas")) for name in options)
    if not several and not runs_one_device_inline():
        options.setdefault("distributed_executor_backend", "tests.support.inline_executor.InlineExecutor")
    if not batches_requests():  # and some of these releases refuse to be asked for it
        options.pop("max_num_seqs", None)
    return options


@contextmanager
def warm_up_of(wanted: bool) -> Iterator[None]:
    """Engines that start here make their warm-up picture, or skip it as for a model that asks for none of its frames.

    vLLM-Omni has no option for it.
    """
    if wanted:
        yield
    else:
        with patch("vllm_omni.diffusion.diffusion_engine.get_dummy_run_num_frames", lambda *_, **__: 0):
            yield
