"""LVSA under torch.compile, beside diffusers' own ways to use it."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.support.videos import KNOBS, LONG, SHORT, VISIBLE, distance, generate

Pipeline = Callable[[str], Any]
Enable = Callable[..., Any]


@pytest.mark.parametrize("kind", ["wan", "hunyuan", "cosmos3"])
def test_two_compilations_of_a_block(kind: str, fresh: Pipeline, enable_lvsa: Enable) -> None:
    """One more for the sparse calls than diffusers needs for its own, whatever the step, the length and the order."""
    pipe = fresh(kind)
    lvsa = enable_lvsa(pipe, **KNOBS)
    eager, short = generate(kind, pipe), generate(kind, pipe, SHORT)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager" if kind == "hunyuan" else "eager")  # its mask without storage
    blocks = ("WanTransformerBlock", "HunyuanVideo15TransformerBlock", "Cosmos3VLTextMoTDecoderLayer")
    for block in (module for module in pipe.transformer.modules() if type(module).__name__ in blocks):
        block.compile(backend=counter, fullgraph=True, dynamic=True)
    assert distance(generate(kind, pipe, SHORT), short) < VISIBLE / 100
    dense = counter.frame_count  # of the untouched block: with and without what it may be called without
    assert distance(generate(kind, pipe), eager) < VISIBLE / 100
    both = counter.frame_count
    assert dense < both <= 2 * dense
    steps = 50 if kind == "wan" else 5
    generate(kind, pipe, LONG + 8, steps=steps)
    assert lvsa.report().sparse_steps == steps
    generate(kind, pipe, SHORT - 4)
    assert counter.frame_count == both


@pytest.mark.parametrize("anchors", [{}, {"anchor_positions": "remap", "anchor_boost": 1.0, "rotate_after": 0.3}])
def test_compile_repeated_blocks(anchors: dict[str, Any], fresh: Pipeline, enable_lvsa: Enable) -> None:
    pipe = fresh("wan")
    enable_lvsa(pipe, **KNOBS, **anchors)
    eager = generate("wan", pipe)
    torch._dynamo.reset()
    pipe.transformer.compile_repeated_blocks(backend="aot_eager", fullgraph=True)
    assert distance(generate("wan", pipe), eager) < VISIBLE / 100


@pytest.mark.skipif(shutil.which("cc") is None, reason="Inductor needs a C compiler")
def test_compile_repeated_blocks_by_inductor(fresh: Pipeline, enable_lvsa: Enable) -> None:
    pipe = fresh("wan")
    lvsa = enable_lvsa(pipe, **KNOBS)
    eager = generate("wan", pipe)
    torch._dynamo.reset()
    pipe.transformer.compile_repeated_blocks(fullgraph=True)
    assert distance(generate("wan", pipe), eager) < VISIBLE / 100
    assert lvsa.report().sparse_steps == 3


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="this PyTorch has no such tag")
def test_cuda_graphs_leave_the_attention_out() -> None:
    """It reads step and pattern in Python, which a graph would keep as they were at its capture."""
    assert torch.Tag.cudagraph_unsafe in torch.ops.lvsa.attend.default.tags


@pytest.mark.parametrize("first", [True, False])
def test_a_compiled_transformer(first: bool, fresh: Pipeline, enable_lvsa: Enable) -> None:
    """``torch.compile`` of the whole transformer, before or after LVSA."""
    pipe = fresh("wan")
    enable_lvsa(pipe, **KNOBS)
    eager = generate("wan", pipe)
    torch._dynamo.reset()
    if first:
        enable_lvsa.undo()  # type: ignore[attr-defined]
    pipe.transformer = torch.compile(pipe.transformer, backend="aot_eager")
    if first:
        enable_lvsa(pipe, **KNOBS)
    assert distance(generate("wan", pipe), eager) < VISIBLE / 100
    assert distance(generate("wan", pipe), eager) < VISIBLE / 100
