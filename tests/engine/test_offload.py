"""Offloading moves the model's weights while LVSA runs; LVSA holds none of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lvsa_core.call import running
from lvsa_vllm_omni import diagnostics, seam, step
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint
from tests.support.attended import before_calls
from tests.support.capabilities import has_module
from tests.support.engine import start

LONG = 97
BLOCKS, CALLS = 4, 3 * 2  # of the transformer, in three steps with two branches of guidance
MOVED = {"extra_args": {"lvsa": {"recipe": "long"}}}
SETTINGS = {"LVSA_WAN_HOOK": "1", "LVSA_STRICT": "1", "LVSA_STEP_TIME_LOG": "1"}

#: What is moved as a whole, or block by block. Pinned memory needs an accelerator.
PINNED = torch.accelerator.is_available()
OFFLOADS: dict[str, dict[str, Any]] = {
    "model": {"enable_cpu_offload": True, "pin_cpu_memory": PINNED},
    "blocks": {"diffusion_offload_config": {"mode": "layer", "components": ["dit"], "pin_memory": PINNED}},
}
#: Where the engine has no such configuration.
OLDER_BLOCKS: dict[str, Any] = {"enable_layerwise_offload": True}


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with more blocks than are on the device at a time."""
    return write_checkpoint("wan", tmp_path_factory.mktemp("deep") / "wan", layers=BLOCKS)


@pytest.fixture(scope="module")
def plain(deep: Path) -> list[str]:
    """All that moves with a transformer of the plain engine, by name."""
    with start(deep, {}) as engine:
        engine.denoised(17, steps=1)  # older engines make modules when these first run
        (transformer,) = engine.transformers
        return names(transformer)


@pytest.fixture(scope="module")
def resident(deep: Path, plain: list[str]) -> list[np.ndarray]:
    """A long video of a model that stays where it is, and one with its anchors moved."""
    with start(deep, SETTINGS) as engine:
        videos = [engine.video(LONG), engine.video(LONG, **MOVED)]
        (transformer,) = engine.transformers
        assert names(transformer) == plain
        assert tensors_held(transformer) == []
        assert not np.array_equal(*videos)
        return videos


def names(transformer: torch.nn.Module) -> list[str]:
    """All that moves with a transformer, by name."""
    modules = [f"{name}: {type(module).__name__}" for name, module in transformer.named_modules()]
    return modules + list(transformer.state_dict()) + [name for name, _ in transformer.named_buffers()]


def tensors_held(transformer: torch.nn.Module) -> list[str]:
    """Tensors and modules that LVSA's objects of a transformer reach, by the way there."""
    from lvsa_vllm_omni.backend import LvsaImpl  # takes long, and needs the engine

    layers = [layer.attn1.attn.attention for layer in transformer.blocks]
    assert all(type(layer) is LvsaImpl for layer in layers)
    own = seam.scope_of(transformer)
    assert own is not None and all(layer.scope is own for layer in layers)
    roots = {"scope": own, "request": step._running, "timers": dict(diagnostics._timers), "forward": running.get()}
    for layer in layers:
        assert layer.number.shape == () and layer.number.device.type == "cpu"  # by which the operator knows it
    return list(reach(roots | {f"layer {number}": layer for number, layer in enumerate(layers)}, "", set()))


def reach(thing: object, way: str, seen: set[int]) -> Iterator[str]:
    """Walk through containers, and through objects of LVSA's and the engine's attention."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, (torch.Tensor, torch.nn.Module)):
        yield way
    elif isinstance(thing, dict):
        for key, part in thing.items():
            if key == "number":
                continue
            yield from reach(part, f"{way}.{key}", seen)
    elif isinstance(thing, (list, tuple, set, frozenset)):
        for part in thing:
            yield from reach(part, f"{way}[]", seen)
    elif type(thing).__module__.partition(".")[0] in ("lvsa_core", "lvsa_vllm_omni", "vllm_omni", "hooks"):
        yield from reach(getattr(thing, "__dict__", {}), way, seen)


def test_the_walk_finds_what_is_held() -> None:
    from lvsa_vllm_omni.backend import LvsaImpl

    impl = LvsaImpl.__new__(LvsaImpl)
    impl.dense = [{"weight": torch.zeros(1)}]
    assert list(reach({"layer": impl}, "", set())) == [".layer.dense[].weight"]


@pytest.fixture(params=OFFLOADS)
def offload(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_same_video_while_weights_move(
    deep: Path, resident: list[np.ndarray], plain: list[str], offload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OFFLOADS[offload]
    if offload == "blocks" and not has_module("diffusion.offloader.config"):
        if not PINNED:
            pytest.skip("this engine pins the blocks that it moves, which needs an accelerator")
        options = OLDER_BLOCKS
    with start(deep, SETTINGS, **options) as engine:
        (transformer,) = engine.transformers
        there: list[list[bool]] = []

        def note(*_: Any) -> None:
            there.append([block.ffn.net_2.weight.numel() > 0 for block in transformer.blocks])

        before_calls(monkeypatch, note)
        for video, more in zip(resident, ({}, MOVED), strict=True):
            there.clear()
            assert np.array_equal(engine.video(LONG, **more), video)
            assert len(there) == CALLS * BLOCKS
        assert names(transformer) == plain
        assert tensors_held(transformer) == []
        if offload == "model":
            assert hasattr(transformer, "_hook_registry")  # moves it before each call; here all places are the CPU
        else:
            # A block's weights arrive while the one before it runs, and leave when it has run itself.
            assert there == [[n in (m, (m + 1) % BLOCKS) for n in range(BLOCKS)] for m in range(BLOCKS)] * CALLS
