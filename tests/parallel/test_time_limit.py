"""The engine's time-out of a request on several workers is said at start-up, once, unless the user has raised it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.placements import FAMILIES
from tests.support.ranks import Ranks
from tests.support.worker import Case

SENTENCE = (
    "[LVSA] vLLM-Omni gives up a request after 600 s on several workers, and may shut them all down: for long videos "
    "set {} to more seconds than one takes, and start again"
)
WORKERS, OUTPUT = "VLLM_OMNI_DLO_DP_WAVE_TIMEOUT", "VLLM_OMNI_ASYNC_OUTPUT_TIMEOUT"


def workers_raised(rank: int) -> None:
    """As if the variable had been set when the engine was imported."""
    from vllm_omni.diffusion.executor import multiproc_executor

    assert multiproc_executor._DLO_DP_WAVE_TIMEOUT_S == 600
    multiproc_executor._DLO_DP_WAVE_TIMEOUT_S = 7200.0


def both_raised(rank: int) -> None:
    workers_raised(rank)
    os.environ[OUTPUT] = "7200"


@pytest.mark.parametrize(
    ("ranks_", "prepare", "variables"),
    [
        (2, None, f"{WORKERS} and {OUTPUT}"),
        (2, workers_raised, OUTPUT),
        (2, both_raised, None),
        (1, None, None),
    ],
)
def test_the_warning(
    ranks: Ranks,
    checkpoint: Callable[..., Path],
    ranks_: int,
    prepare: Callable[[int], None] | None,
    variables: str | None,
) -> None:
    """A model with two transformers: still one line, by the first rank."""
    family = FAMILIES["wan-a14b"]
    results = ranks.run(
        Case(
            model=str(checkpoint(family.kind)),
            ranks=ranks_,
            parallel={"ulysses_degree": ranks_},
            request={"height": 64, "width": 64, "num_frames": 5, "num_inference_steps": 1},
            settings={family.hook: "1"},
            prepare=prepare,
            decode=False,
        )
    )
    said = [[line for line in result.log if "gives up a request" in line] for result in results]
    assert not any(result.error for result in results), results[0].error
    assert said == [[SENTENCE.format(variables)] if variables else [], *[[]] * (ranks_ - 1)]
