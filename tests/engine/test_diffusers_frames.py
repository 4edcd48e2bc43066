"""``enable_lvsa`` on plain diffusers gives the engine's frames, for the same checkpoint, seed and scheduler.

What is compared are whole videos beyond the training length, frame by frame. The two sides share the checkpoint and the
seed, from which both draw the same noise, and nothing of LVSA but its core: the engine has its own transformers, hooks
and seam. What differs between the pipelines for reasons of theirs, and is made the same here:

- Wan and Cosmos 3: the engine has a UniPC scheduler of its own, whatever the checkpoint says; diffusers gets that one,
  with the engine's default shift.
- HunyuanVideo 1.5: diffusers takes the guidance from a part of the pipeline; the engine's frames have 8 bits.
- Cosmos 3: diffusers adds the system's prompt and sentences on length and size to the prompt, the engine does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvsa_core.diffusers import enable_lvsa
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint
from tests.support.engine import DTYPE, ROUNDING, VISIBLE, Engine, start
from tests.support.families import FAMILIES, latent

PROMPT, GUIDANCE, STEPS, SEED = "a cat on a mat", 4.0, 3, 42
#: Height and width: two patches of the largest, for the VAEs take most of the time.
SIZE = (32, 64)
#: That of every request which the tests' engine gets.
NEGATIVE = "bad"


@dataclass(frozen=True)
class Case:
    """A family on both sides.

    Args:
        kind: of checkpoint. hook: the variable that switches the engine's LVSA on. frames: video frames.
        shift: of the engine's UniPC scheduler by default; None: both sides take the checkpoint's scheduler.
        call: of diffusers' pipeline beyond what all share. engine: options of the engine.
        step: between neighbouring values of the engine's frames, which are rounded to the nearest; 0: floats.
    """

    kind: str
    hook: str
    frames: int
    shift: float | None
    call: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    step: float = 0.0


_GUIDED = {"guidance_scale": GUIDANCE}
CASES = [
    Case("wan", "LVSA_WAN_HOOK", 97, shift=5.0, call=_GUIDED),
    Case("toy-wan", "LVSA_WAN_HOOK", 97, shift=5.0, call=_GUIDED),  # a trained one
    Case("hunyuan", FAMILIES["hunyuan"].hook, FAMILIES["hunyuan"].long, shift=None, step=1 / 255),
    Case(
        "cosmos3",
        FAMILIES["cosmos3"].hook,
        FAMILIES["cosmos3"].long,
        shift=10.0,
        call={
            **_GUIDED,
            "use_system_prompt": False,
            "add_resolution_template": False,
            "add_duration_template": False,
            "enable_safety_check": False,
        },
        engine=FAMILIES["cosmos3"].options,
    ),
]


def engine_video(case: Case, folder: Path) -> np.ndarray:
    """Frames [F, H, W, 3] in 0..1 of the engine with LVSA on."""
    with start(folder, {case.hook: "1"}, **case.engine) as engine:
        assert isinstance(engine, Engine)
        return engine.video(case.frames, size=SIZE, steps=STEPS, prompt=PROMPT, guidance_scale=GUIDANCE, seed=SEED)


def scheduler(kind: str, shift: float) -> Any:
    """The engine's UniPC scheduler, called as diffusers calls one; before 0.30 that of Wan is shifted when made too."""
    from vllm_omni.diffusion.models.schedulers import FlowUniPCMultistepScheduler
    from vllm_omni.diffusion.models.wan2_2.pipeline_wan2_2 import build_wan_scheduler

    made = build_wan_scheduler("unipc", shift).config.shift if "wan" in kind else 1.0

    class Shifted(FlowUniPCMultistepScheduler):
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            super().set_timesteps(num_inference_steps, device=device, shift=shift)

    return Shifted(num_train_timesteps=1000, shift=made, prediction_type="flow_prediction")


def diffusers_pipeline(case: Case, folder: Path) -> Any:
    """The pipeline of the checkpoint, with the engine's scheduler where that is another."""
    from diffusers import DiffusionPipeline
    from diffusers.guiders import ClassifierFreeGuidance

    parts = {"guider": ClassifierFreeGuidance(guidance_scale=GUIDANCE)} if case.kind == "hunyuan" else {}
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=getattr(torch, DTYPE), local_files_only=True, **parts)
    pipe.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    pipe.set_progress_bar_config(disable=True)
    if case.shift is not None:
        pipe.scheduler = scheduler(case.kind, case.shift)
    return pipe


def diffusers_video(case: Case, pipe: Any) -> np.ndarray:
    """Frames [F, H, W, 3] in 0..1 of a diffusers pipeline."""
    result = pipe(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        num_frames=case.frames,
        height=SIZE[0],
        width=SIZE[1],
        num_inference_steps=STEPS,
        generator=torch.Generator(pipe.device).manual_seed(SEED),
        output_type="np",
        **case.call,
    )
    return np.asarray(result.video if case.kind == "cosmos3" else result.frames[0])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose more by waiting for threads than they gain by them, on a busy machine above all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_diffusers_gives_the_frames_of_the_engine(case: Case, tmp_path: Path) -> None:
    folder = write_checkpoint(case.kind, tmp_path / case.kind)
    engine = engine_video(case, folder)
    pipe = diffusers_pipeline(case, folder)
    dense = diffusers_video(case, pipe)
    assert np.abs(engine - dense).max() > VISIBLE
    lvsa = enable_lvsa(pipe)
    sparse = diffusers_video(case, pipe)
    assert engine.shape == sparse.shape == (case.frames, *SIZE, 3)
    assert np.abs(engine - sparse).max() < ROUNDING + case.step / 2
    report = lvsa.report()
    assert (report.frames, report.steps, report.sparse_steps) == (latent(case.frames), STEPS, STEPS)
