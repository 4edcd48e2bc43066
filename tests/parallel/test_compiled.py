"""Placements with torch.compile, which is the engine's default."""

import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.support.placements import ALL, FAMILIES
from tests.support.worker import Result

pytestmark = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")


@pytest.mark.parametrize(("family", "placement"), [("hunyuan", "ring2"), ("cosmos3", "ulysses2")])
def test_compiled_blocks(
    run: Callable[..., list[Result]], alone: Callable[..., Result], family: str, placement: str
) -> None:
    """The exchange and the text's tensors pass through the opaque operator."""
    about, placed = FAMILIES[family], ALL[placement]
    compiled = replace(about, options={**about.options, "enforce_eager": False})
    one, results = alone(about, placed, "even"), run(compiled, placed, "even")
    for result in results:
        assert not result.error, result.error
        assert result.patterns == one.patterns and result.counts == one.counts
    np.testing.assert_allclose(results[0].output, one.output, rtol=0, atol=2e-4)
