"""The engine behind a batch: started when the first video needs it, kept through failures, closed once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from lvsa_vllm_omni.offline.events import engine_arguments, events_of
from lvsa_vllm_omni.offline.jobs import VideoSettings
from lvsa_vllm_omni.request_knobs import KEY


class EngineStartError(RuntimeError):
    """The engine did not start; no request can be made."""


class OfflineEngine:
    """vLLM-Omni's offline engine that makes one video at a time.

    `Omni.generate` closes the engine when a request fails, and loading a model again takes minutes. Here a failed
    request leaves the engine running; an engine that has died (a worker was killed) starts again for the next video.

    Use it under `if __name__ == "__main__":`, because the engine's processes import the main module again.
    """

    def __init__(self, model: str, arguments: Mapping[str, Any]) -> None:
        """Remember what to start: the checkpoint, and further keyword arguments of `Omni`."""
        self._model = model
        asking = engine_arguments(arguments)
        self._arguments = {**asking, **arguments}
        self._can_ask = bool(asking)
        self._omni: Any = None
        self.start_seconds = 0.0
        self.events: Counter[str] = Counter()

    def __enter__(self) -> OfflineEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the engine is started and takes requests."""
        if self._omni is None:
            return False
        try:
            self._omni.check_health()
        except Exception:
            return False
        return True

    def start(self) -> None:
        """Start the engine unless it is alive; `start_seconds` then says how long it took, imports included.

        Raises:
            EngineStartError: with the engine's own reason.
        """
        if self.alive:
            return
        self.close()
        begin = time.perf_counter()
        try:
            self._omni = _kept_open()(model=self._model, **self._arguments)
        except Exception as error:
            raise EngineStartError(f"the engine did not start: {one_line(error)}") from error
        self.start_seconds = time.perf_counter() - begin

    def generate(self, settings: VideoSettings) -> Any:
        """Make one video; `events` then holds what LVSA counted meanwhile, by the names of its journal.

        Returns:
            The engine's `OmniRequestOutput`, with the frames in `.images`.

        Raises:
            RuntimeError: the engine refused the request, failed in it or returned nothing; another request may be sent.
            ValueError: an image of the prompt has changed.
        """
        from vllm_omni.inputs.data import OmniDiffusionSamplingParams

        self.start()
        prompt: dict[str, Any] = {"prompt": settings.prompt}
        if settings.negative_prompt is not None:
            prompt["negative_prompt"] = settings.negative_prompt
        images = [image.load() for image in settings.images]
        if images:
            prompt["multi_modal_data"] = {"image": images if len(images) > 1 else images[0]}
        parameters = OmniDiffusionSamplingParams(
            height=settings.height,
            width=settings.width,
            num_frames=settings.frames,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            seed=settings.seed,
            # Some pipelines and versions take whole rates only as integers.
            fps=int(settings.fps) if float(settings.fps).is_integer() else settings.fps,
            extra_args={KEY: dict(settings.request)} if settings.request else {},
        )
        before = self._events()
        try:
            outputs = self._omni.generate(prompt, parameters, use_tqdm=False)
        except Exception as error:
            raise RuntimeError(one_line(error)) from error
        self.events = self._events() - before
        if not outputs:
            raise RuntimeError("the engine returned no output")
        if outputs[-1].error:
            raise RuntimeError(str(outputs[-1].error))
        return outputs[-1]

    def _events(self) -> Counter[str]:
        """Events since the engine's worker started, by name."""
        return events_of(self._omni.engine) if self._can_ask else Counter()

    def close(self) -> None:
        """End the engine and its processes; safe to call twice."""
        omni, self._omni = self._omni, None
        if omni is not None:
            omni.shutdown()


def _kept_open() -> Any:
    """The class of the engine, imported only when one starts."""
    from vllm_omni import Omni

    class BatchOmni(Omni):
        def close(self) -> None:
            """Called by `generate` when a request fails: stay open, `shutdown` ends this engine."""

    return BatchOmni


def one_line(error: BaseException) -> str:
    """The last line of an error's text: the engine sends whole tracebacks of its workers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
