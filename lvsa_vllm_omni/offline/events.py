"""What LVSA did in the engine's worker, which may be another process: asked before and after each video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

_FALLBACK = "fallback:"


class WorkerEvents:
    """What the engine adds to its worker's class, so that it can be asked for the journal."""

    def lvsa_events(self) -> dict[str, int]:
        """Events since the worker started, by name: `lvsa_vllm_omni.journal.counts`."""
        from lvsa_vllm_omni import journal

        return dict(journal.counts)


def engine_arguments(given: Mapping[str, Any]) -> dict[str, str]:
    """The argument of the engine that adds `WorkerEvents`; empty where the caller has a worker class of their own."""
    if {"worker_extension_cls", "custom_pipeline_args"} & given.keys():
        return {}
    return {"worker_extension_cls": f"{__name__}.{WorkerEvents.__name__}"}


def events_of(engine: Any) -> Counter[str]:
    """Events of the engine's replicas since they started, of the first worker of each; empty if none can be asked."""
    try:
        answers = engine.collective_rpc(WorkerEvents.lvsa_events.__name__)
    except Exception:  # an engine that cannot answer makes videos all the same
        return Counter()
    return _added(answers)


def _added(answers: Any) -> Counter[str]:
    """The counts in lists of lists of answers, added up; what is no count is no answer."""
    if isinstance(answers, list):
        return sum(map(_added, answers), Counter())
    counted = isinstance(answers, dict) and all(type(count) is int for count in answers.values())
    return Counter(answers if counted else {})


def ran_record(events: Mapping[str, int]) -> dict[str, Any] | None:
    """How one video's request ran, as JSON.

    Args:
        events: of this video, by name.

    Returns:
        `sparse`: whether the request was one for LVSA; `fallbacks`: attention calls that ran dense all the same, by
        reason. None: nothing is known, as where LVSA is off.
    """
    if not events:
        return None
    fallbacks = {name.removeprefix(_FALLBACK): n for name, n in sorted(events.items()) if name.startswith(_FALLBACK)}
    return {"sparse": events.get("request:sparse", 0) > 0, "fallbacks": fallbacks}
