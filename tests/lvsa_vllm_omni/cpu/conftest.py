"""The engine on the CPU platform as a plain user has it: LVSA is not switched on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import warm_up_of


@pytest.fixture(scope="session")
def running() -> Callable[..., Any]:
    """``running(checkpoint, **engine options)``: a context manager that runs an engine."""

    @contextmanager
    def run(checkpoint: Path, **options: Any) -> Iterator[Any]:
        from vllm_omni import Omni

        before = dict(os.environ)
        with warm_up_of(False):
            omni = Omni(model=str(checkpoint), **{"dtype": "float32", "enforce_eager": True, **options})
        try:
            yield omni
        finally:
            omni.close()
            os.environ.clear()  # the engine leaves its ports there, which an engine in another process would take too
            os.environ.update(before)

    return run
