"""What LVSA did for one video: the engine's worker is asked, and a batch does without where it cannot be."""

from typing import Any

import pytest

from lvsa_vllm_omni.offline import events
from lvsa_vllm_omni.offline.events import WorkerEvents, engine_arguments, events_of, ran_record


class Engine:
    """Answers every call to its workers alike."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def collective_rpc(self, method: str) -> Any:
        assert method == "lvsa_events"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


COUNTED = {"request:sparse": 2, "fallback:mask": 8}


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        ([[COUNTED]], COUNTED),
        ([COUNTED], COUNTED),
        ([[COUNTED], [{"request:sparse": 1}]], {"request:sparse": 3, "fallback:mask": 8}),  # two replicas
        ([], {}),
        ([[]], {}),
        ([{"supported": False, "error": "no such method"}], {}),
        (RuntimeError("the engine is dead"), {}),
    ],
)
def test_the_answers_of_an_engine(answer: Any, counted: dict[str, int]) -> None:
    assert events_of(Engine(answer)) == counted


def test_the_worker_is_asked_by_a_name_that_the_engine_can_import() -> None:
    assert engine_arguments({"dtype": "float32"}) == {"worker_extension_cls": f"{events.__name__}.WorkerEvents"}
    assert callable(WorkerEvents.lvsa_events)


@pytest.mark.parametrize("own", ["worker_extension_cls", "custom_pipeline_args"])
def test_a_worker_of_the_callers_own_stays(own: str) -> None:
    assert engine_arguments({own: "mine"}) == {}


@pytest.mark.parametrize(
    ("counted", "ran"),
    [
        ({}, None),
        ({"request:sparse": 1}, {"sparse": True, "fallbacks": {}}),
        ({"request:dense": 1}, {"sparse": False, "fallbacks": {}}),
        ({"request:sparse": 1, "fallback:mask": 8}, {"sparse": True, "fallbacks": {"mask": 8}}),
        ({"fallback:layout": 2}, {"sparse": False, "fallbacks": {"layout": 2}}),
    ],
)
def test_what_the_record_says(counted: dict[str, int], ran: Any) -> None:
    assert ran_record(counted) == ran
