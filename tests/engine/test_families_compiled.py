"""Every family compiled as the engine does by default: few graphs, the same video as eager."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import start
from families import FAMILIES

from lvsa_core import Pattern
from lvsa_vllm_omni import scope
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() or shutil.which("g++") or shutil.which("clang++")),
    reason="the engine compiles nothing where there is neither an accelerator nor a C++ compiler",
)


@pytest.mark.parametrize("name", ["wan-a14b", "hunyuan", "cosmos3"])
def test_two_graphs_in_fifty_rotating_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for two transformers, which share the class of their blocks."""
    from torch._dynamo.utils import counters

    family, folder = FAMILIES[name], write_checkpoint(name, tmp_path / name)
    with start(folder, {family.hook: "1"}, **family.options) as engine:
        eager = engine.video(family.long)

    offsets: set[int] = set()
    attend = scope.attend

    def noted(q: Any, k: Any, v: Any, pattern: Pattern, *given: Any, **more: Any) -> Any:
        offsets.add(pattern.offset)
        return attend(q, k, v, pattern, *given, **more)

    monkeypatch.setattr(scope, "attend", noted)
    torch._dynamo.reset()
    with start(folder, {family.hook: "1"}, **{**family.options, "enforce_eager": False}) as engine:
        dense = counters["stats"]["unique_graphs"]  # of the warm-up request
        engine.video(family.long, steps=50)
        assert len(offsets) >= 2
        assert 1 <= counters["stats"]["unique_graphs"] - dense <= 2
        assert np.abs(engine.video(family.long) - eager).max() < 2e-4 + 1.5 / 255  # HunyuanVideo's frames have 8 bits
