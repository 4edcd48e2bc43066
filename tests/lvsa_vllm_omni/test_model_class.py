"""A family's class in the installed engine, and what is read of its calls."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lvsa_vllm_omni.hooks import WAN, MissingModel
from lvsa_vllm_omni.model_class import read_arguments, resolve


def test_a_module_that_cannot_be_imported_is_a_missing_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_broken_module.py").write_text("from torch import nothing_of_this_name")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingModel, match=r"this vLLM-Omni has no a_broken_module \(cannot import name"):
        resolve(replace(WAN, transformer="a_broken_module:Transformer"))
    with pytest.raises(MissingModel, match="torch has no class Transformer; install"):
        resolve(replace(WAN, transformer="torch:Transformer"))


class Transformer:
    def forward(self, hidden_states: Any, timestep: Any, other: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "found"),
    [
        (("h", "t"), {}, {"hidden_states": "h", "timestep": "t"}),
        (("h",), {"timestep": "t", "other": 1}, {"hidden_states": "h", "timestep": "t"}),
        ((), {"hidden_states": "h"}, {"hidden_states": "h"}),
    ],
)
def test_arguments_by_position_or_name(args: Any, kwargs: Any, found: dict[str, Any]) -> None:
    assert read_arguments(Transformer, WAN, args, kwargs) == found
