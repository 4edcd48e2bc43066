"""The step of a request, published by the pipeline or told by the timestep object."""

from lvsa_vllm_omni.step import Request


class Context:
    """Stands for the engine's forward context, of which only the identity matters here."""


def test_a_published_step_is_taken_as_it_is() -> None:
    request = Request(Context())
    assert [request.advance(step, object()) for step in (0, 0, 1, 1, 5)] == [0, 0, 1, 1, 5]


def test_calls_with_one_timestep_object_are_one_step() -> None:
    request = Request(Context())
    timesteps = [object() for _ in range(4)]
    guided = [request.advance(None, timestep) for timestep in timesteps for _ in range(2)]
    assert guided == [0, 0, 1, 1, 2, 2, 3, 3]


def test_guidance_in_an_interval_does_not_shift_the_step() -> None:
    request = Request(Context())
    steps = [request.advance(None, timestep) for branches in (1, 2, 2, 1) for timestep in [object()] * branches]
    assert steps == [0, 1, 1, 2, 2, 3]


def test_without_any_timestep_it_stays_step_0() -> None:
    request = Request(Context())
    assert [request.advance(None, None) for _ in range(3)] == [0, 0, 0]


def test_a_request_ends_with_its_context() -> None:
    context = Context()
    request = Request(context)
    assert request.runs_in(context)
    assert not request.runs_in(Context())
    del context
    assert not request.runs_in(None)


def test_a_request_in_several_runs_is_reported_anew() -> None:
    request = Request(Context())
    for step in (0, 1):
        request.advance(step, None)
        request.reported.add(step)
    assert request.advance(0, None) == 0
    assert not request.reported
