"""Pipelines, loaded once, and given back untouched by every test."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

import lvsa_core.diffusers as lvsa_diffusers
from lvsa_core.diffusers import Lvsa
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint
from tests.support.videos import MADE_OF, load


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small lose more by waiting for threads than they gain by them, on a busy machine above all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def gradients() -> Iterator[None]:
    """What the pipeline of Cosmos 3 imports switches the recording of gradients off for the whole process."""
    yield
    torch.set_grad_enabled(True)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The folder of a kind's checkpoint."""

    @lru_cache
    def write(kind: str) -> Path:
        return write_checkpoint(kind, tmp_path_factory.mktemp("checkpoint") / kind)

    return lambda kind: write(MADE_OF.get(kind, kind))


@pytest.fixture(scope="session")
def pipeline(checkpoint: Callable[[str], Any]) -> Callable[[str], Any]:
    """The pipeline of a kind, shared: leave it as it was."""
    return lru_cache(lambda kind: load(kind, checkpoint(kind)))


@pytest.fixture
def fresh(checkpoint: Callable[[str], Any]) -> Callable[[str], Any]:
    """A pipeline of a kind for this test alone."""
    return lambda kind: load(kind, checkpoint(kind))


class Enable:
    """``enable_lvsa`` that keeps its handles."""

    def __init__(self) -> None:
        self.handles: list[Lvsa] = []

    def __call__(self, *args: Any, **knobs: Any) -> Lvsa:
        self.handles.append(lvsa_diffusers.enable_lvsa(*args, **knobs))
        return self.handles[-1]

    def undo(self) -> None:
        """Disable LVSA wherever it is enabled."""
        while self.handles:
            self.handles.pop().disable()


@pytest.fixture
def enable_lvsa() -> Iterator[Enable]:
    """``enable_lvsa``, undone at the end of the test."""
    enable = Enable()
    yield enable
    enable.undo()
