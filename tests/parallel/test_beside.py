"""Tokens before the video in the sequence that ranks divide: Cosmos 3's controls, VACE's reference images."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.placements import ALL, FAMILIES, Family, Placed
from tests.support.worker import Result

Run = Callable[..., list[Result]]


def controlled(rank: int, count: int) -> None:
    """Give every call of Cosmos 3's transformer that many controls, as the pipeline's transfer does."""
    from vllm_omni.diffusion.models.cosmos3.pipeline_cosmos3 import Cosmos3OmniDiffusersPipeline

    predict = Cosmos3OmniDiffusersPipeline.predict_noise

    def with_controls(self: Any, **kwargs: Any) -> Any:
        noise = torch.Generator().manual_seed(5)
        controls = [torch.randn(kwargs["hidden_states"].shape, generator=noise) for _ in range(count)]
        return predict(self, **kwargs, control_latents=controls)

    Cosmos3OmniDiffusersPipeline.predict_noise = with_controls


def same_video(run: Run, family: Family, placed: Placed, **case: Any) -> tuple[Result, list[Result]]:
    """What one rank and several do; the video and the pattern are the same."""
    size = placed.sizes[0]
    (one,), results = (
        run(family, replace(placed, ranks=1, parallel={}), size, **case),
        run(family, placed, size, **case),
    )
    for result in (one, *results):
        assert not result.error, result.error
        assert result.counts["request:sparse"] == 1 and result.patterns == one.patterns
    np.testing.assert_allclose(results[0].output, one.output, rtol=0, atol=1e-4)
    return one, results


@pytest.mark.parametrize("placement", ["ulysses2", "ring2"])
def test_one_control(run: Run, placement: str) -> None:
    one, results = same_video(run, FAMILIES["cosmos3"], ALL[placement], prepare=partial(controlled, count=1))
    whole = one.calls[0]
    assert whole.queries == 2 * whole.frames * whole.patches
    assert all(call.queries * call.heads < whole.queries * whole.heads for each in results for call in each.calls)


@pytest.mark.parametrize("placement", ["ulysses2", "ring2"])
def test_several_controls(run: Run, placement: str) -> None:
    """The engine computes them whole on every rank, and so does LVSA."""
    one, results = same_video(run, FAMILIES["cosmos3"], ALL[placement], prepare=partial(controlled, count=2))
    assert all(each.calls == one.calls for each in results)


@pytest.mark.parametrize("placement", ["ring2", "ulysses2", "allgather2"])
def test_a_reference_image(run: Run, placement: str) -> None:
    family = replace(FAMILIES["wan-vace"], image=True)
    one, _ = same_video(run, family, replace(ALL[placement], sizes=("even",)))
    assert one.calls[0].frames == 25 and one.calls[0].queries == 26 * one.calls[0].patches
