"""Copies and pickles of a pipeline under LVSA: untouched, and to be enabled by themselves."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from videos import FAMILIES, KNOBS, generate, transformers_of

Pipeline = Callable[[str], Any]
Enable = Callable[..., Any]


def saved_and_loaded(transformer: Any) -> Any:
    """Through ``torch.save``, the whole module and not its weights."""
    file = io.BytesIO()
    torch.save(transformer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def other_hook(transformer: Any, args: Any) -> None:
    """Does nothing, and is found by pickle."""


def realigned(pipe: Any) -> Any:
    """The same pipeline, its weights where a copy has them: as they are read from a file they give other roundings."""
    made = copy.deepcopy(pipe)
    made.set_progress_bar_config(disable=True)
    return made


WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda transformer: pickle.loads(pickle.dumps(transformer)),
    "torch.save": saved_and_loaded,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_copied_transformer_is_untouched(way: str, fresh: Pipeline, enable_lvsa: Enable) -> None:
    """RIFLEx has a hook of its own, on a module that a shallow copy shares; another's hook is copied as ever."""
    pipe = realigned(fresh("wan"))
    dense = generate("wan", pipe)
    pipe.transformer.register_forward_pre_hook(other_hook)
    enable_lvsa(pipe, **KNOBS, riflex_s=None if way == "copy" else 2)
    sparse = generate("wan", pipe)
    pipe.transformer = WAYS[way](own := pipe.transformer)
    assert [*pipe.transformer._forward_pre_hooks.values()] == [other_hook]
    assert not any(name.startswith("__") for name in vars(pipe.transformer))
    assert not pipe.transformer._forward_hooks_always_called and not pipe.transformer._forward_pre_hooks_with_kwargs
    assert torch.equal(generate("wan", pipe), dense)
    pipe.transformer = own
    assert torch.equal(generate("wan", pipe), sparse)


def test_a_pickle_does_not_name_lvsa(fresh: Pipeline, enable_lvsa: Enable) -> None:
    """It is as good where LVSA is not installed."""
    pipe = fresh("wan")
    enable_lvsa(pipe, **KNOBS, riflex_s=2)
    assert b"lvsa" not in pickle.dumps(pipe.transformer)


@pytest.mark.parametrize("kind", [*FAMILIES, "wan-a14b"])
def test_a_copied_pipeline_has_a_handle_of_its_own(kind: str, fresh: Pipeline, enable_lvsa: Enable) -> None:
    pipe = realigned(fresh(kind))
    dense = generate(kind, pipe)
    lvsa = enable_lvsa(pipe, **KNOBS)
    sparse = generate(kind, pipe)
    other = realigned(pipe)
    assert torch.equal(generate(kind, other), dense)

    handle = enable_lvsa(other, **KNOBS)
    assert torch.equal(generate(kind, other, steps=2), generate(kind, pipe, steps=2))
    assert torch.equal(generate(kind, pipe), sparse)
    assert (handle.report().steps, lvsa.report().steps) == (2, 3)
    lvsa.disable()
    assert torch.equal(generate(kind, pipe), dense) and torch.equal(generate(kind, other), sparse)
    handle.disable()
    assert torch.equal(generate(kind, other), dense)
    for transformer in (*transformers_of(pipe), *transformers_of(other)):
        assert not transformer._forward_pre_hooks and "__reduce_ex__" not in vars(transformer)
