"""The real engine, in this process: one at a time, shared by the tests of a module."""

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lvsa_log import Log

from lvsa_core import Pattern, TokenLayout, attend, reference_attend

HERE = Path(__file__).parent

#: An accelerator's attention has no float32 kernels. Then rounding is that of bfloat16 through the whole model.
DTYPE = "bfloat16" if torch.accelerator.is_available() else "float32"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts the engine."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Wan checkpoint, written as a user would have it written."""
    from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

    folder = tmp_path_factory.mktemp("checkpoint") / "wan"
    write_checkpoint("wan", folder)
    return folder


@dataclass
class Engine:
    """A running engine and what tests ask of it."""

    omni: Any

    def video(self, frames: int, *, size: tuple[int, int] = (64, 64), steps: int = 3, **options: Any) -> np.ndarray:
        """Frames [F, H, W, 3] in 0..1 of one request; ``size`` is height and width in pixels."""
        from vllm_omni.inputs.data import OmniDiffusionSamplingParams

        prompt: dict[str, Any] = {"prompt": options.pop("prompt", "a cat on a mat"), "negative_prompt": "bad"}
        if "image" in options:
            prompt["multi_modal_data"] = {"image": options.pop("image")}
        parameters = OmniDiffusionSamplingParams(
            height=size[0],
            width=size[1],
            num_frames=frames,
            num_inference_steps=steps,
            **{"seed": 42, "guidance_scale": 4.0, **options},
        )
        images = self.omni.generate(prompt, parameters, use_tqdm=False)[0].images
        video = np.asarray(images[0])
        if video.ndim == 3:  # HunyuanVideo: a list of frames in 8 bits
            return np.stack([np.asarray(image) for image in images]) / np.float32(255)
        return video[0] if video.ndim == 5 else video

    @property
    def transformers(self) -> list[Any]:
        """The transformers of the model, which lives in this process."""
        from lvsa_vllm_omni.hooks import SPECS

        modules = [(sys.modules.get(spec.transformer.partition(":")[0]), spec) for spec in SPECS.values()]
        classes = tuple(getattr(module, spec.transformer_class) for module, spec in modules if module)
        gc.collect()
        return [thing for thing in gc.get_objects() if isinstance(thing, classes)]


@contextmanager
def start(checkpoint: Path, settings: dict[str, str], **options: Any) -> Iterator[Engine]:
    """The engine under some LVSA_* variables, started as in a new process: plugins are loaded anew."""
    import vllm.plugins
    import vllm_omni.plugins
    from vllm_omni import Omni
    from vllm_omni.diffusion.attention.selector import _cached_get_backend_cls

    from lvsa_vllm_omni import journal, plugin

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
        omni = Omni(model=str(checkpoint), **{"dtype": DTYPE, "enforce_eager": True, **options})
        yield Engine(omni)
    finally:
        if omni is not None:
            omni.close()
        plugin.deactivate()
        os.environ.clear()  # the engine leaves its ports there, which an engine in another process would take too
        os.environ.update(before)
        gc.collect()


@pytest.fixture(scope="session")
def starting(checkpoint: Path) -> Callable[..., Any]:
    """``starting(settings, **engine options)``: a context manager that runs an engine."""

    def starter(settings: dict[str, str] | None = None, **options: Any) -> Any:
        return start(checkpoint, settings or {}, **options)

    return starter


@dataclass(frozen=True)
class Call:
    """One attention call of LVSA's as the engine made it."""

    step: int | None
    frames: int
    patches: int
    offset: int
    interval: int
    tokens: int


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What arrives in the sparse attention, beside the step that the pipeline publishes."""
    from lvsa_vllm_omni import compat, scope

    seen: list[Call] = []
    attend = scope.Forward.attend

    def watched(self: Any, q: Any, *more: Any) -> Any:
        step = compat.forward_context().denoise_step_idx
        pattern = self.pattern
        seen.append(
            Call(step, self.video.frames, self.video.patches, pattern.offset, pattern.keyframe_interval, q.shape[1])
        )
        return attend(self, q, *more)

    monkeypatch.setattr(scope.Forward, "attend", watched)
    return seen


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Pattern, TokenLayout]]:
    """The sparse calls, each of which is compared with the reference."""
    from lvsa_vllm_omni import scope

    seen: list[tuple[Pattern, TokenLayout]] = []

    def both(q: Any, k: Any, v: Any, pattern: Pattern, layout: TokenLayout, **more: Any) -> Any:
        out, expected = (f(q, k, v, pattern, layout, **more) for f in (attend, reference_attend))
        torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3 if q.dtype == torch.float32 else 6e-2)
        seen.append((pattern, layout))
        return out

    monkeypatch.setattr(scope, "attend", both)
    return seen


@pytest.fixture
def log() -> Iterator[Log]:
    """What the plugin logs during the test."""
    import lvsa_vllm_omni.journal  # noqa: F401  # vLLM sets up its loggers anew when it is first imported

    logger, seen = logging.getLogger("vllm.lvsa"), Log()
    logger.addHandler(seen)
    yield seen
    logger.removeHandler(seen)
