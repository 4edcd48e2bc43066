"""Python imports this first in every process that tests start.

The engine's 8,000 modules are imported at once: looking for garbage again and again meanwhile would take a fifth of the
time, and find none. And most of an engine's start is its warm-up picture of 512 x 512 pixels: in processes that a test
starts it is skipped, as the engine itself does for a model that makes none. ``tests.support.engine`` does the same in
the process that runs the tests.
"""

import gc
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

ENGINE = "vllm_omni.diffusion.diffusion_engine"


class WithoutWarmUp(MetaPathFinder):
    """Finds the engine's module as usual, and changes it once it has run; vLLM-Omni has no option for it."""

    looking = False

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != ENGINE or self.looking:
            return None
        self.looking = True  # for the others are asked now
        try:
            spec = find_spec(name)
        finally:
            self.looking = False
        assert spec is not None and spec.loader is not None
        execute: Any = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            assert hasattr(module, "get_dummy_run_num_frames"), "this vLLM-Omni begins its warm-up otherwise"
            module.get_dummy_run_num_frames = lambda *_, **__: 0

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


gc.set_threshold(100_000, 20, 20)
if "PYTEST_CURRENT_TEST" in os.environ:  # pytest sets it while a test runs
    sys.meta_path.insert(0, WithoutWarmUp())
