"""The step of a request, published by the pipeline or told by its timesteps."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lvsa_vllm_omni import step
from lvsa_vllm_omni.step import Request


class Context:
    """Stands for the engine's forward context, of which only the identity matters here."""


def test_a_published_step_is_taken_as_it_is() -> None:
    request = Request(Context())
    assert [request.advance(number, 0.5) for number in (0, 0, 1, 1, 5)] == [0, 0, 1, 1, 5]


def test_calls_with_one_timestep_are_one_step() -> None:
    """Also with a new tensor for each branch of guidance; falling or rising, a number or one for each token."""
    for values in ((900, 500, 100, 0), (0.0, 0.25, 0.5, 1.0)):
        request = Request(Context())
        timesteps = [torch.tensor([value]) for value in values]
        assert [request.advance(None, t) for t in timesteps for _ in range(2)] == [0, 0, 1, 1, 2, 2, 3, 3]
        request = Request(Context())
        assert [request.advance(None, t.clone()) for t in timesteps for _ in range(2)] == [0, 0, 1, 1, 2, 2, 3, 3]
        request = Request(Context())
        assert [request.advance(None, value) for value in values for _ in range(2)] == [0, 0, 1, 1, 2, 2, 3, 3]
    request, tokens = Request(Context()), torch.tensor([[0.0, 900.0, 900.0]])
    assert [request.advance(None, t) for t in (tokens, tokens.clone(), tokens / 2)] == [0, 0, 1]


def test_a_timestep_that_is_changed_in_place() -> None:
    request, timestep, steps = Request(Context()), torch.zeros(1), []
    for value in (900, 500, 100):
        timestep.fill_(value)
        steps += [request.advance(None, timestep), request.advance(None, timestep)]
    assert steps == [0, 0, 1, 1, 2, 2]


class Pipeline:
    """Publishes its timestep, as HunyuanVideo 1.5's does."""

    current_timestep: torch.Tensor | None = None


@pytest.mark.slow
def test_neighbouring_steps_that_half_precision_rounds_to_one_timestep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_pipeline", None)
    pipeline, request, steps = Pipeline(), Request(Context()), []
    step.enter(pipeline)
    for value in (999.0, 998.0, 997.0):
        pipeline.current_timestep = torch.tensor(value)
        rounded = pipeline.current_timestep.bfloat16()
        steps += [step.advance(request, rounded), step.advance(request, rounded.clone())]
    assert steps == [0, 0, 1, 1, 2, 2]


def test_guidance_in_an_interval_does_not_shift_the_step() -> None:
    request = Request(Context())
    values = iter((900, 500, 100, 0))
    steps = [request.advance(None, timestep) for branches in (1, 2, 2, 1) for timestep in [next(values)] * branches]
    assert steps == [0, 1, 1, 2, 2, 3]


def test_without_any_timestep_it_stays_step_0() -> None:
    request = Request(Context())
    assert [request.advance(None, None) for _ in range(3)] == [0, 0, 0]


def test_more_noise_again_is_the_first_step_of_another_run() -> None:
    """As a long transfer in chunks, of an engine that publishes no step; timesteps that rise throughout count on."""
    request = step.Request(None)
    assert [request.advance(None, t) for t in (1.0, 1.0, 0.6, 0.3, 1.0, 0.6, 0.3, 1.0)] == [0, 0, 1, 2, 0, 1, 2, 0]
    request = step.Request(None)
    assert [request.advance(None, t) for t in (0.0, 0.3, 0.6, 0.9)] == [0, 1, 2, 3]


def test_a_request_ends_with_its_context() -> None:
    context = Context()
    request = Request(context)
    assert request.runs_in(context)
    assert not request.runs_in(Context())
    del context
    assert not request.runs_in(None)


def test_a_request_in_several_runs_is_reported_anew() -> None:
    request = Request(Context())
    for number in (0, 1):
        request.advance(number, None)
        request.reported.add(number)
    assert request.advance(0, None) == 0
    assert not request.reported


def test_the_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pipeline tells goes before what the request asks for; a number that is none counts for nothing."""
    monkeypatch.setattr(step, "_pipeline", None)
    assert step.steps(Request(Context())) is None and step.steps(Request(Context(), steps=40)) == 40
    pipeline: Any = Pipeline()
    step.enter(pipeline)
    for told, expected in ((50, 50), (0, 40), (None, 40), ("50", 40)):
        pipeline._num_timesteps = told
        assert step.steps(Request(Context(), steps=40)) == expected


def test_the_steps_that_a_request_asks_for() -> None:
    """As a number, or as a list of the timesteps or of the noise."""
    assert step.steps_asked(SimpleNamespace(num_inference_steps=4, timesteps=[3, 2])) == 4
    assert step.steps_asked(SimpleNamespace(num_inference_steps=None, timesteps=[900, 500, 100])) == 3
    assert step.steps_asked(SimpleNamespace(timesteps=None, sigmas=torch.tensor([1.0, 0.5]))) == 2
    assert step.steps_asked(SimpleNamespace()) is None
