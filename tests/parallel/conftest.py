"""Ranks, tiny checkpoints and what one rank makes of a request, each made once and only where a test asks for it."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.placements import Family, Placed
from tests.support.ranks import Ranks
from tests.support.vace import write_vace
from tests.support.worker import Case, Result

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts workers of the engine, on the CPU."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)
            item.add_marker(pytest.mark.multiproc)
            item.add_marker(pytest.mark.skipif(torch.accelerator.is_available(), reason="ranks are CPU processes"))


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """Where cases run."""
    return Ranks(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``checkpoint(kind, **sizes)``: the folder of a tiny checkpoint."""
    from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

    @cache
    def written(kind: str, **sizes: Any) -> Path:
        if kind == "wan-vace":
            return write_vace(written("wan", **sizes), tmp_path_factory.mktemp("checkpoint") / kind)
        return write_checkpoint(kind, tmp_path_factory.mktemp("checkpoint") / kind, **sizes)

    return written


@pytest.fixture(scope="session")
def run(ranks: Ranks, checkpoint: Callable[..., Path]) -> Callable[..., list[Result]]:
    """``run(family, placement, size, settings, **case)``: the results of the ranks.

    LVSA is on unless settings say otherwise; ``case`` has further fields of it.
    """

    def runner(
        family: Family,
        placement: Placed,
        size: str | tuple[int, int],
        settings: dict[str, str] | None = None,
        **case: Any,
    ) -> list[Result]:
        height, width = family.sizes[size] if isinstance(size, str) else size
        made = Case(
            model=str(checkpoint(family.kind, **placement.checkpoint(family))),
            ranks=placement.ranks,
            parallel=placement.parallel,
            engine=family.options,
            request={"height": height, "width": width, "num_frames": family.long, "num_inference_steps": 3},
            image=family.request().get("image"),
            settings={family.hook: "1", "LVSA_STRICT": "1"} if settings is None else settings,
            decode=placement.decode,
            **case,
        )
        return ranks.run(made)

    return runner


@pytest.fixture(scope="session")
def alone(run: Callable[..., list[Result]]) -> Callable[..., Result]:
    """``alone(family, placement, size)``: what one rank makes of the same checkpoint and request."""
    made: dict[Any, Result] = {}

    def runner(family: Family, placement: Placed, size: str) -> Result:
        key = (family.kind, size, placement.decode, *placement.checkpoint(family).items())
        if key not in made:
            made[key] = run(family, replace(placement, ranks=1, parallel={}), size)[0]
        return made[key]

    return runner
