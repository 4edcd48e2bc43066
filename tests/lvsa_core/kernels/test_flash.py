"""FlashAttention and cuDNN: everything but the GPU code itself, which stand-ins replace behind the real signatures."""

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given

from lvsa_core import FrameGrid, TokenLayout, plan
from lvsa_core.attention import compute
from lvsa_core.kernels import KERNELS
from lvsa_core.kernels.flash import FlashAttention3
from lvsa_core.kernels.selftest import self_test
from lvsa_core.memory import CallSize, HeadGroups
from tests.support.stand_ins import (
    FA3_FWD,
    FLASH4,
    VLLM_FA3,
    cudnn,
    flash2,
    flash3,
    flash4,
    flash4_dense,
    flash4_varlen,
    operator,
)
from tests.support.strategies import Call, assert_equals_reference, calls, examples

FLASH = [name for name, kernel in KERNELS.items() if kernel.family == "flash"]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True, scope="module")
def stand_ins() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(operator("fa3_fwd", "fwd", flash3, FA3_FWD))
        stack.enter_context(operator("_vllm_fa3_C", "fwd", flash3, VLLM_FA3))
        stack.enter_context(flash4())
        stack.enter_context(operator("aten", "_flash_attention_forward", flash2))
        stack.enter_context(operator("aten", "_scaled_dot_product_cudnn_attention", cudnn))
        yield


@pytest.mark.parametrize("name", FLASH)
@examples(30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=calls(max_frames=20))
def test_equals_reference(name: str, call: Call) -> None:
    assert_kernel_equals_reference(name, call)


@pytest.mark.parametrize("name", FLASH)
@examples(6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=calls(max_frames=20, anchors_moved=True))
def test_moved_anchors_equal_reference(name: str, call: Call) -> None:
    assert_kernel_equals_reference(name, call)


def assert_kernel_equals_reference(name: str, call: Call) -> None:
    if call.q.numel():
        q, k, v = (x.contiguous() for x in (call.q, call.k, call.v))
        scale = call.q.shape[3] ** -0.5 if call.scale is None else call.scale
        call.scale = scale
        out = KERNELS[name].attend(q, k, v, call.pattern, call.layout, scale)
        first = call.layout.q_before + call.layout.real_rows
        out[:, first : call.layout.q_before + call.layout.video_rows] = 0
        assert_equals_reference(call, out, several=3)  # two rounded outputs are joined


@pytest.mark.parametrize("name", FLASH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_self_test(name: str, dtype: torch.dtype) -> None:
    assert self_test(KERNELS[name], CPU, dtype, 64) is None


def test_windows_are_one_call_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy of a run: one dense call, one call of many lengths on the remaining frames."""
    seen: list[dict[str, Any]] = []
    kernel = KERNELS["FlashAttention3"]
    original = FlashAttention3._forward

    def watched(self: Any, **given: Any) -> Any:
        seen.append(given)
        return original(self, **given)

    monkeypatch.setattr(FlashAttention3, "_forward", watched)
    layout, pattern = TokenLayout(FrameGrid(41, 4), kv_after=3, q_after=3), plan(41, reference_frames=21)
    q, k, v = torch.randn(3, 1, layout.q_tokens, 2, 8)
    kernel.attend(q, k, v, pattern, layout, 0.3)
    prefix, windows = seen
    remaining = 41 - len(pattern.anchors)
    assert prefix["k"].shape[1] == 3 + len(pattern.anchors) * 4 and "cu_seqlens_q" not in prefix
    assert windows["k"].shape[0] == remaining * 4
    groups = len(windows["seqused_k"]) - 1
    assert windows["seqused_k"].tolist() == [7 * 4] * groups + [remaining * 4]  # frames, then text
    rows = windows["cu_seqlens_q"].diff().tolist()
    assert sum(rows) == 41 * 4 + 3 and rows[-1] == 3 and not any(count % 4 for count in rows[:-1])
    # Neighbours that share a run are one group: fewer tiles are filled in part.
    starts = windows["cu_seqlens_k"].tolist()[:groups]
    assert groups == len(set(starts)) < 41 and starts == sorted(starts)


@pytest.mark.parametrize("name", FLASH)
@pytest.mark.parametrize("kv_heads", [6, 3])
def test_groups_of_heads_write_their_part_of_the_output(name: str, kv_heads: int) -> None:
    """Strided views of queries, keys, values and output; FlashAttention-3 makes no other output."""
    noise = torch.Generator().manual_seed(0)
    layout, pattern = TokenLayout(FrameGrid(41, 4), kv_after=3, q_after=3), plan(41, reference_frames=21)
    q = torch.randn(1, layout.q_tokens, 6, 8, generator=noise)
    k, v = torch.randn(2, 1, layout.kv_tokens, kv_heads, 8, generator=noise)
    whole = compute(KERNELS[name], q, k, v, pattern, layout, 0.3)
    groups = HeadGroups(0.0)  # a head of keys each
    torch.testing.assert_close(compute(KERNELS[name], q, k, v, pattern, layout, 0.3, groups), whole)
    assert groups.count(CallSize.of(q, k), CPU) == kv_heads


def test_the_installed_signatures() -> None:
    """The signatures that the stand-ins implement are those of the packages that are installed."""
    pytest.importorskip("fa3_fwd_interface")
    assert str(torch.ops.fa3_fwd.fwd.default._schema) == f"fa3_fwd::{FA3_FWD}"
    flash = torch.ops.aten._flash_attention_forward.default._schema
    assert [x.name for x in flash.arguments][:10] == [
        "query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal",
        "return_debug_mask",
    ]  # fmt: skip
    assert {"scale", "seqused_k"} <= {x.name for x in flash.arguments if x.kwarg_only}


@pytest.mark.parametrize(
    ("name", "stand_in"), [("flash_attn_func", flash4_dense), ("flash_attn_varlen_func", flash4_varlen)]
)
def test_the_installed_flash_attention_4(name: str, stand_in: Any) -> None:
    """Its source has the arguments that the stand-in takes, the first three in the same order."""
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vllm is not installed")
    source = Path(found.origin).parent.joinpath(*FLASH4.split(".")[1:]).with_suffix(".py").read_text()
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    arguments = [argument.arg for argument in functions[name].args.args]
    taken = list(inspect.signature(stand_in).parameters)
    assert arguments[:3] == taken[:3] == ["q", "k", "v"] and {*taken} <= {*arguments}


H200, A100, L40, RTX3090, B200, GB300, RTX5090, T4 = (9, 0), (8, 0), (8, 9), (8, 6), (10, 0), (10, 3), (12, 0), (7, 5)


@pytest.mark.parametrize(
    ("name", "capability", "dtype", "size", "reason"),
    [
        ("FlashAttention3", H200, torch.bfloat16, 128, None),
        ("FlashAttention3", H200, torch.float16, 128, "it takes bfloat16, not torch.float16"),
        ("FlashAttention3", A100, torch.bfloat16, 128, None),
        ("FlashAttention3", RTX3090, torch.bfloat16, 128, None),
        ("FlashAttention3", L40, torch.bfloat16, 128, None),
        ("FlashAttention3", T4, torch.bfloat16, 128, "it needs compute capability 8.0, this device has 7.5"),
        ("FlashAttention3", B200, torch.bfloat16, 128, "it holds no code for cards after Hopper"),
        ("FlashAttention4", B200, torch.bfloat16, 128, None),
        ("FlashAttention4", GB300, torch.float16, 64, None),
        ("FlashAttention4", RTX5090, torch.bfloat16, 128, "it is for compute capability 10 and 11"),
        ("FlashAttention4", H200, torch.bfloat16, 128, "it needs compute capability 10.0, this device has 9.0"),
        ("FlashAttention3", H200, torch.bfloat16, 100, "a multiple of 8 up to 256 on cuda, got 100"),
        ("FlashAttention2", A100, torch.float16, 64, None),
        ("FlashAttention2", B200, torch.bfloat16, 128, None),
        ("FlashAttention2", T4, torch.float16, 64, "it needs compute capability 8.0, this device has 7.5"),
        ("FlashAttention2", A100, torch.float32, 64, "it takes float16 and bfloat16, not torch.float32"),
        ("cuDNN", B200, torch.bfloat16, 128, None),
        ("cuDNN", A100, torch.bfloat16, 128, "it needs compute capability 9.0, this device has 8.0"),
        ("FlashAttention2", (0, 0), torch.bfloat16, 128, "PyTorch finds no CUDA device"),
    ],
)
def test_available(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    capability: tuple[int, int],
    dtype: torch.dtype,
    size: int,
    reason: str | None,
) -> None:
    pytest.importorskip("fa3_fwd_interface")
    for module in ("flash", "cuda"):
        monkeypatch.setattr(f"lvsa_core.kernels.{module}.capability", lambda device: capability)
    found = KERNELS[name].available(CUDA, dtype, size)
    assert found is None if reason is None else reason in str(found)
    assert "it needs a CUDA device, not cpu" in str(KERNELS[name].available(CPU, dtype, size))


def test_a_package_that_is_missing_or_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for module in ("flash", "cuda"):
        monkeypatch.setattr(f"lvsa_core.kernels.{module}.capability", lambda device: H200)
    missing = FlashAttention3("x", "no_such_package", "x", (torch.bfloat16,))
    found = missing.available(CUDA, torch.bfloat16, 128)
    assert found == "no_such_package cannot be imported: No module named 'no_such_package'"
    (tmp_path / "built_for_another_torch.py").write_text("raise RuntimeError('libcudart.so.13 not found\\nx')")
    monkeypatch.syspath_prepend(str(tmp_path))
    broken = FlashAttention3("x", "built_for_another_torch", "x", (torch.bfloat16,))
    found = broken.available(CUDA, torch.bfloat16, 128)
    assert found == "built_for_another_torch cannot be imported: libcudart.so.13 not found"
