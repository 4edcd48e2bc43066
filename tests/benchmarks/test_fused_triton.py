"""The fused Triton kernel, a candidate of the GPU's benchmark: in Triton's interpreter, and compiled without a GPU."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from lvsa_core import FrameGrid, Pattern, TokenLayout
from lvsa_core.kernels import KERNELS
from lvsa_core.kernels.selftest import self_test
from tests.support.strategies import Call, assert_equals_reference, calls

ROOT = Path(__file__).parents[2]

triton = pytest.importorskip("triton")


def load(file: str) -> ModuleType:
    """A file of the benchmarks as a module of its own."""
    name = f"loaded_{file}"
    specification = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{file}.py")
    module = importlib.util.module_from_spec(specification)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)  # where dataclasses look for it
        specification.loader.exec_module(module)
    return module


def complete_interpreter(patch: pytest.MonkeyPatch) -> None:
    """What Triton's interpreter lacks for this kernel.

    It keeps bfloat16 as 16 bits, which its matrix product takes for integers. And it runs the functions of Triton's
    library that are written in Triton only if that was wanted when Triton was imported, and not without traces.
    """
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    product, language = InterpreterBuilder.create_dot, triton.language

    def wide(x: TensorHandle) -> TensorHandle:
        if x.dtype.scalar != language.bfloat16:
            return x
        return TensorHandle((x.data.astype("uint32") << 16).view("float32"), language.float32)

    patch.setattr(InterpreterBuilder, "create_dot", lambda self, a, b, *rest: product(self, wide(a), wide(b), *rest))
    for name, combine in (("max", language.standard._elementwise_max), ("sum", language.standard._sum_combine)):
        patch.setattr(language, name, lambda x, axis, combine=combine: language.reduce(x, axis, combine))


class Interpreted:
    """The kernel in the interpreter, which Triton decides when it decorates the functions."""

    name, family = "fused-triton", "candidate"

    def __init__(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            self.kernel = load("fused_triton").FusedTriton()

    def available(self, *_: Any) -> None:
        return None

    def attend(self, *arguments: Any) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:  # only so long: other tests compile
            complete_interpreter(patch)
            return self.kernel.attend(*arguments)


@pytest.fixture(scope="module")
def kernel() -> Interpreted:
    return Interpreted()


def attended(kernel: Interpreted, call: Call) -> Tensor:
    """What ``lvsa_core.attend`` makes of a kernel."""
    q, k, v = (x if x.stride(3) == 1 else x.contiguous() for x in (call.q, call.k, call.v))
    out = kernel.attend(q, k, v, call.pattern, call.layout, call.scale or q.shape[3] ** -0.5)
    assert not out.isnan().any()  # neither in padding
    start = call.layout.q_before + call.layout.real_rows
    out[:, start : call.layout.q_before + call.layout.video_rows] = 0
    return out


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(call=calls(8))
def test_equals_the_oracle(kernel: Interpreted, call: Call) -> None:
    if call.q.dtype == torch.float64:  # which it does not take
        call = replace(call, **{name: getattr(call, name).float() for name in "qkv"})
    if call.q.numel():
        assert_equals_reference(call, attended(kernel, call))


SPARSE = Pattern(7, window=1, n_first=1, keyframe_interval=3, offset=1)
SMALL = FrameGrid(7, 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("pattern", "layout", "heads", "size"),
    [
        pytest.param(SPARSE, TokenLayout(SMALL, 5, 9, 5, 9, pad=3), (2, 2), 16, id="text on both sides and padding"),
        pytest.param(
            SPARSE, TokenLayout(SMALL, kv_before=5, q_offset=33, q_rows=50), (6, 2), 40, id="part of the rows"
        ),
        pytest.param(SPARSE, TokenLayout(SMALL, pad=30, q_offset=130), (1, 1), 16, id="mostly padding"),
        pytest.param(Pattern(3, 0, 1, 3), TokenLayout(FrameGrid(3, 150), q_after=3, kv_after=3), (1, 1), 32, id="long"),
        pytest.param(Pattern(3, 3), TokenLayout(FrameGrid(3, 43), 2, q_before=2, pad=2), (2, 1), 32, id="dense"),
        pytest.param(Pattern(7, 6, 0, 7, 3), TokenLayout(SMALL), (1, 1), 24, id="dense by its windows"),
        pytest.param(Pattern(7, 0, 1, 2), TokenLayout(SMALL), (1, 1), 16, id="frames without a run"),
    ],
)
def test_fixed_calls(
    kernel: Interpreted,
    pattern: Pattern,
    layout: TokenLayout,
    heads: tuple[int, int],
    size: int,
    dtype: torch.dtype,
) -> None:
    """Two entries, whose rows have gaps between them, as slices of one projection have; the gaps are NaN."""
    noise = torch.Generator().manual_seed(0)
    shapes = (layout.q_tokens, heads[0]), (layout.kv_tokens, heads[1]), (layout.kv_tokens, heads[1])
    gaps = torch.full((8,), torch.nan)
    padded = [torch.cat([torch.randn(2, *x, size, generator=noise), gaps.expand(2, *x, 8)], -1) for x in shapes]
    q, k, v = (x.to(dtype)[..., :size] for x in padded)
    call = Call(2 * q, k, v, pattern, layout, None)
    assert_equals_reference(call, attended(kernel, call))


def test_self_test(kernel: Interpreted) -> None:
    assert self_test(kernel, torch.device("cpu"), torch.float16, 64) is None


def test_offsets_have_64_bits(kernel: Interpreted) -> None:
    """720p at T=121 has more than 2**31 elements; three rows far apart in memory that is never touched otherwise."""
    apart = 2**30
    far = torch.empty(2 * apart + 16, dtype=torch.float16).as_strided((1, 3, 1, 16), (0, apart, 16, 1))
    far.copy_(torch.randn(far.shape, generator=torch.Generator().manual_seed(0)))
    call = Call(far, far, far, Pattern(1), TokenLayout(FrameGrid(1, 3)), None)
    assert_equals_reference(call, attended(kernel, call))


def test_row_blocks() -> None:
    """Every row once, in blocks of neighbouring rows with one run, those with the most keys first."""
    layout = TokenLayout(SMALL, 5, 9, 5, 9, pad=3)
    blocks = load("fused_triton").row_blocks(SPARSE, layout, 16, torch.device("cpu"))
    assert blocks.dtype == torch.int32
    rows = [row for first, end, _, _ in blocks.tolist() for row in range(first, min(first + 16, end))]
    assert sorted(rows) == [*range(layout.q_tokens)]
    lengths = blocks[:, 3].tolist()
    assert lengths == sorted(lengths, reverse=True) and lengths[-1] == 0
    assert {tuple(x) for x in blocks[:2].tolist()} == {(0, 5, 0, 80), (148, 157, 0, 80)}  # text sees every frame


@pytest.mark.parametrize(
    ("capability", "dtype", "instruction"),
    [
        ((7, 5), "fp16", "fma.rn.f32"),  # Triton has no other for it
        ((8, 0), "bf16", "mma.sync.aligned"),
        ((8, 6), "fp16", "mma.sync.aligned"),
        ((9, 0), "bf16", "wgmma.mma_async"),
        ((10, 0), "bf16", "tcgen05.mma"),
    ],
)
@pytest.mark.parametrize("size", [128, 40])
def test_compiles_for_gpus(capability: tuple[int, int], dtype: str, instruction: str, size: int) -> None:
    """Triton needs no GPU to compile for one. Blocks fit in its shared memory, and tensor cores compute."""
    compiled = compiled_for(capability, dtype, size)
    number = capability[0] * 10 + capability[1]
    assert f".target sm_{number}" in compiled.asm["ptx"] and instruction in compiled.asm["ptx"]
    available = {75: 64, 80: 163, 86: 99, 90: 227, 100: 227}[number]
    assert compiled.metadata.shared <= available * 1024


def compiled_for(capability: tuple[int, int], dtype: str, size: int) -> Any:
    """The kernel as its first call on such a GPU compiles it, with the strides of ordinary tensors."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module = load("fused_triton")
    constants = module.tiles({"bf16": torch.bfloat16, "fp16": torch.float16}[dtype], size, capability)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    names = module._attend_rows.arg_names
    kinds = {name: "i32" for name in names} | {"blocks": "*i32", "scale": "fp32"}
    kinds |= {name: f"*{dtype}" for name in ("q", "k", "v", "out")}
    signature = {name: "constexpr" if name in constants else kind for name, kind in kinds.items()}
    aligned = [i for i, name in enumerate(names) if kinds[name].startswith("*") or name[-2:] in ("_b", "_s", "_h")]
    source = ASTSource(module._attend_rows, signature, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})
    target = GPUTarget("cuda", capability[0] * 10 + capability[1], 32)
    return triton.compile(source, target=target, options=options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_it_needs(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    module, device = load("fused_triton"), torch.device("cuda", 0)
    kernel = module.FusedTriton()
    assert kernel.available(torch.device("cpu"), dtype, 128) == "it needs a CUDA device, not cpu"
    for found, runs in (((7, 5), dtype == torch.float16), ((8, 0), True), ((7, 0), False)):
        monkeypatch.setattr("lvsa_core.kernels.cuda.capability", lambda device, found=found: found)
        reason = kernel.available(device, dtype, 128)
        assert reason is None if runs else "compute capability" in reason
    reason = kernel.available(device, dtype, 256)
    assert "compute capability" in reason
    monkeypatch.setattr("lvsa_core.kernels.cuda.capability", lambda device: (9, 0))
    monkeypatch.setattr(module, "triton", None)
    assert kernel.available(device, dtype, 128) == "Triton is not installed"


# --- In the benchmark -------------------------------------------------------------------------------------------------


def benchmark(gpu: ModuleType, patch: pytest.MonkeyPatch, file: Path, *arguments: str) -> dict[str, Any]:
    """What ``gpu.py --device cpu --tiny`` writes of one model."""
    options = ["--device", "cpu", "--tiny", "--models", "wan-1.3b", "--json", str(file)]
    patch.setattr(sys, "argv", ["gpu.py", *options, *arguments])
    assert gpu.main() == 0
    return json.loads(file.read_text())


def test_the_benchmark_says_why_it_does_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = benchmark(load("gpu"), monkeypatch, tmp_path / "results.json", "--budget", "0")
    assert results["unavailable"]["fused-triton"] == "it needs a CUDA device, not cpu"
    assert "fused-triton: does not run here: it needs a CUDA device, not cpu" in capsys.readouterr().out
    assert "fused-triton" not in results["usable"] and "fused-triton" not in results["auto"]


def test_the_benchmark_checks_and_times_it(
    kernel: Interpreted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is available; here in the interpreter."""
    gpu = load("gpu")
    monkeypatch.setitem(gpu.COMPARED, kernel.name, kernel)
    arguments = ["--frames", "41", "--kernels", "sdpa,candidate"]
    results = benchmark(gpu, monkeypatch, tmp_path / "results.json", *arguments)
    checks = [row["result"] for row in results["checks"] if row["kernel"] == kernel.name]
    assert checks == ["right", "right"]
    (case,) = results["cases"]
    assert case["chosen"] == "sdpa" and case["failed"] == {}
    assert case["kernels"][kernel.name]["right"] and case["kernels"][kernel.name]["seconds"] > 0
    assert f"| {kernel.name} | " in capsys.readouterr().out


def test_is_no_part_of_the_package() -> None:
    candidate = load("gpu").COMPARED["fused-triton"]
    assert candidate.name not in KERNELS and candidate.family not in {kernel.family for kernel in KERNELS.values()}
