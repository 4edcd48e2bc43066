"""The benchmark of denoising steps runs on the CPU, and its models are the real ones; no time of it is judged here."""

import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lvsa_core import plan, reference_attend

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_step.py"
sys.path.append(str(SCRIPT.parent))

import gpu_step  # noqa: E402
import gpu_step_cases  # noqa: E402
from gpu_kernels import DENSE  # noqa: E402
from gpu_step_attention import lvsa  # noqa: E402
from gpu_step_cases import FIRST, FRAMES, START_SECONDS, expected_step, ordered_cases  # noqa: E402
from gpu_step_report import describe, judge  # noqa: E402
from gpu_step_timing import CASE_SECONDS, DenoisingStep, fewest, measure  # noqa: E402
from step_hunyuan import HunyuanVideo  # noqa: E402
from step_models import ARCHITECTURES, build  # noqa: E402
from step_parts import Transformer  # noqa: E402
from step_sizes import Architecture  # noqa: E402
from step_wan import Wan  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Calls this small only wait for each other's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(*arguments: str) -> tuple[int, str]:
    """The exit status of the command and what it says."""
    said = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        patch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        try:
            status = gpu_step.main()
        except SystemExit as stop:  # how the command line refuses arguments
            status = stop.code
    return status, said.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    folder = tmp_path_factory.mktemp("step")
    files = ["--json", str(folder / "step.json"), "--figure", str(folder / "step.png")]
    return *run("--small", "--models", "wan-1.3b,hunyuan-video-1.5", "--frames", "81,321", *files), folder


@pytest.fixture
def results(finished: tuple[int, str, Path]) -> dict[str, Any]:
    status, said, folder = finished
    assert status == 0, said
    return json.loads((folder / "step.json").read_text())


def test_cases(results: dict[str, Any]) -> None:
    order = [(case["model"], case["frames"]) for case in results["cases"]]
    assert order == [("wan-1.3b", 81), ("wan-1.3b", 321), ("hunyuan-video-1.5", 321), ("hunyuan-video-1.5", 81)]
    assert results["left_out"] == [] and set(results["machine"]) >= {"date", "command", "versions", "flop_rate", "seed"}
    for case in results["cases"]:
        sparse = case["frames"] == 321
        assert (case["latent_frames"], case["layers"], case["repeats"]) == (81 if sparse else 21, 2, 2)
        assert (case["density"] < 1, case["dense_pattern"]) == (sparse, not sparse)
        assert case["dense"] == "SDPA flash" and {*case["dense_failed"]} == {"FlashAttention-3", "SDPA cuDNN"}
        assert case["kernel"].startswith("sdpa (passed over" if sparse else "dense SDPA flash")
        assert case["ratio"] == pytest.approx(case["seconds"]["dense"] / case["seconds"]["lvsa"])
        assert all(0 < case["attention_share"][side] < 1 and len(case["times"][side]) == 2 for side in case["times"])
        assert {*case["peak_bytes"]} == {"dense", "lvsa"} and not case["shared_weights"] and not case["compiled"]
        assert case["met"] is None  # no FlashAttention-3 here
    assert [case["target"] for case in results["cases"]] == ["within 1%", "at least 2.4", "", "within 1%"]


def test_what_is_said(finished: tuple[int, str, Path]) -> None:
    _, said, folder = finished
    assert "wan-1.3b, 321 frames: T=81, 324 tokens, density 0.259, 2 blocks, 2 runs" in said
    assert "dense takes SDPA flash (" in said and "LVSA takes sdpa (passed over flash" in said
    assert "| at least 2.4 | not judged |" in said
    assert (folder / "step.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("model", "frames", "ratio", "kernel", "expected"),
    [
        ("wan-1.3b", 321, 2.41, "FlashAttention-3", ("at least 2.4", True)),
        ("wan-1.3b", 481, 3.39, "FlashAttention-3", ("at least 3.4", False)),
        ("wan-1.3b", 321, 2.41, "SDPA flash", ("at least 2.4", None)),
        ("wan-1.3b", 161, 1.5, "FlashAttention-3", ("", None)),
        ("wan-14b", 81, 0.98, "FlashAttention-3", ("within 1%", False)),
    ],
)
def test_targets(model: str, frames: int, ratio: float, kernel: str, expected: tuple[str, bool | None]) -> None:
    case = {"model": model, "frames": frames, "ratio": ratio, "dense_pattern": frames == 81}
    assert judge({**case, "dense_kernels": {kernel: 0.1}}) == expected


def test_dense_up_to_the_training_length() -> None:
    """LVSA's side calls the very same function there, and rotates its anchors beyond."""

    def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q

    sizes = ARCHITECTURES["wan-1.3b"]
    assert lvsa(sizes.layout(81), sizes.horizon, dense, 3) is dense
    patterns = [lvsa(sizes.layout(321), sizes.horizon, dense, step).keywords["pattern"] for step in (0, 1)]
    assert patterns[0].anchors != patterns[1].anchors


def test_budget_and_order() -> None:
    """On an H200 (790 TFLOP/s) the first cases fit into the default budget, also if all take an eighth longer.

    On a card of a tenth of its speed the first two do.
    """
    cases = ordered_cases(["wan-1.3b", "wan-14b", "hunyuan-video-1.5"], FRAMES)
    assert cases[: len(FIRST)] == FIRST and len(cases) == 12
    assert [frames for _, frames in cases[:4]] == [81, 161, 321, 481] and {name for name, _ in FIRST} == {
        *ARCHITECTURES
    }

    def needed(rate: float, first: int) -> float:
        steps = [expected_step(ARCHITECTURES[name], frames, rate) for name, frames in FIRST[:first]]
        return sum(1.5 * START_SECONDS + max(CASE_SECONDS, fewest(step) * step) + step / 2 for step in steps)

    assert needed(790e12, len(FIRST)) < 420 / 1.125 and needed(79e12, 2) < 420
    status, said = run("--small", "--budget", "0", "--models", "wan-14b")
    assert status == 0 and said.count("Left out: wan-14b") == 4 and "of 0 s left" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is something to run")
def test_no_gpu() -> None:
    assert run() == (2, "error: PyTorch finds no CUDA device; try it out with --small\n")


def test_an_unknown_name() -> None:
    status, said = run("--small", "--models", "wan-99b")
    assert status == 2 and "wan-99b: not known; choose of wan-1.3b" in said


def test_shared_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A model that does not fit runs with the weights of one block, in this case and the next."""
    built = []

    def full(sizes: Architecture, device: torch.device, dtype: torch.dtype, shared: bool) -> Transformer:
        built.append(shared)
        if not shared:
            raise torch.OutOfMemoryError("too large")
        return build(sizes, device, dtype, shared)

    monkeypatch.setattr(gpu_step_cases, "build", full)
    file = tmp_path / "step.json"
    status, said = run("--small", "--models", "wan-14b", "--frames", "81,85", "--json", str(file))
    cases = json.loads(file.read_text())["cases"]
    assert status == 0 and built == [False, True] and [case["shared_weights"] for case in cases] == [True, True]
    assert said.count("all blocks share the weights of one") == 2


def upstream(sizes: Architecture) -> torch.nn.Module:
    """diffusers' class with the same sizes, and its defaults for all others, which are the published ones."""
    diffusers = pytest.importorskip("diffusers")
    shared = {"num_attention_heads": sizes.heads, "attention_head_dim": sizes.head_size, "num_layers": sizes.layers}
    if not sizes.joint:
        return diffusers.WanTransformer3DModel(**shared, ffn_dim=sizes.ffn, text_dim=sizes.text_width)
    ratio = {"mlp_ratio": sizes.ffn / sizes.dim, "rope_axes_dim": sizes.rotary[0], "rope_theta": sizes.rotary[1]}
    return diffusers.HunyuanVideo15Transformer3DModel(**shared, **ratio, text_embed_dim=sizes.text_width)


@pytest.mark.parametrize(("name", "billions"), [("wan-1.3b", 1.42), ("wan-14b", 14.3), ("hunyuan-video-1.5", 8.33)])
def test_parameters(name: str, billions: float) -> None:
    sizes = ARCHITECTURES[name]
    with torch.device("meta"):
        ours, theirs = (HunyuanVideo if sizes.joint else Wan)(sizes), upstream(sizes)
    counts = [sum(weight.numel() for weight in model.parameters()) for model in (ours, theirs)]
    assert counts[0] == pytest.approx(counts[1], rel=0 if name.startswith("wan") else 0.005)
    assert counts[0] == pytest.approx(billions * 1e9, rel=0.01)


def test_sizes_are_those_of_the_presets() -> None:
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    presets = {"wan-1.3b": "wan2.1-1.3b", "wan-14b": "wan2.1-14b", "hunyuan-video-1.5": "hunyuan-video-1.5"}
    for name, file in presets.items():
        preset, sizes = tomllib.loads((ROOT / "configs" / f"{file}.toml").read_text()), ARCHITECTURES[name]
        shape = preset["shape"]
        assert (sizes.heads, sizes.head_size, sizes.layers, sizes.ffn, sizes.horizon) == (
            shape["heads"], shape["head_size"], shape["blocks"], shape["ffn"], preset["reference_latent_frames"],
        )  # fmt: skip
        assert shape["patch"] == sizes.patch and shape["patch"] * shape["vae_spatial_factor"] == 16
        assert sizes.text_tokens == max(shape["text_tokens"], shape["cross_tokens"])
        assert sizes.layout(321).grid.tokens == 81 * 1560


#: Where diffusers' names differ from those of ``step_wan`` and ``step_hunyuan``; applied in this order.
NAMES = [
    (r"condition_embedder\.|context_embedder\.token_refiner\.|\bnet\.", ""),
    (r"(transformer_|refiner_)blocks", lambda found: "refiner" if found[1] == "refiner_" else "blocks"),
    (r"context_embedder\.time_text_embed\.timestep_embedder", "text_time"),
    (r"context_embedder\.time_text_embed\.text_embedder", "pooled_text"),
    (r"context_embedder\.proj_in", "text_in"),
    (r"time_embed\.timestep_embedder", "time_embedder"),
    (r"cond_type_embed", "kinds"),
    (r"x_embedder\.proj", "patch_embedding"),
    (r"(embedder|time|text)\.linear_1", r"\1.0"),
    (r"(embedder|time|text)\.linear_2", r"\1.2"),
    (r"(refiner\.\d+)\.norm_out\.linear", r"\1.gates"),
    (r"norm_out\.linear", "norm_out"),
    (r"to_out\.0", "to_out"),
    (r"attn2\.(to_)?", "cross_"),
    (r"attn1?\.add_(.)_proj", r"text.to_\1"),
    (r"attn\.to_add_out", "text.to_out"),
    (r"attn\.norm_added_", "text.norm_"),
    (r"norm1_context\.linear", "text.modulation"),
    (r"norm1\.linear", "video.modulation"),
    (r"ff_context\.", "text.ffn."),
    (r"(refiner\.\d+)\.attn", r"\1"),
    (r"(refiner\.\d+)\.ff\.", r"\1.ffn."),
    (r"\bff\.", "video.ffn."),
    (r"ffn\.0\.proj", "ffn.0"),
    (r"attn1\.", ""),
    (r"attn\.", "video."),
]


def ours_from(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of diffusers' class under our names, those of queries, keys and values in one."""
    ours: dict[str, Tensor] = {}
    for name, weight in theirs.items():
        if name.startswith(("image_embedder", "context_embedder_2")):
            continue
        for pattern, ours_there in NAMES:
            name = re.sub(pattern, ours_there, name)
        if "patch_embedding" in name:
            weight = weight.flatten(1) if weight.ndim > 1 else weight
        if found := re.fullmatch(r"(.*\bto_)([qkv])(\..*)", name):
            name = f"{found[1]}qkv{found[3]}"
            ours.setdefault(name, torch.empty(3, *weight.shape, dtype=weight.dtype))[
                ["q", "k", "v"].index(found[2])
            ] = weight
        else:
            ours[name] = weight
    return {name: weight.flatten(0, 1) if "to_qkv" in name else weight for name, weight in ours.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["wan-1.3b", "hunyuan-video-1.5"])
@torch.no_grad()
def test_output_is_that_of_diffusers(name: str, dtype: torch.dtype) -> None:
    """In bfloat16 with the weights that a checkpoint's loader keeps in float32, which are computed with in float32."""
    sizes = ARCHITECTURES[name].small()
    theirs = upstream(sizes).eval()
    wide = theirs._keep_in_fp32_modules or []
    for weight_name, weight in theirs.named_parameters():
        weight.normal_(std=0.2)
        weight.data = weight.data.to(torch.float32 if {*wide} & {*weight_name.split(".")} else dtype)
    ours = build(sizes, CPU, dtype)
    weights = ours_from(theirs.state_dict())
    assert {key: x.dtype for key, x in ours.state_dict().items()} == {key: x.dtype for key, x in weights.items()}
    ours.load_state_dict(weights)
    latents, text = torch.randn(1, sizes.channels[0], 3, 4, 6), torch.randn(1, 7, sizes.text_width)
    latents, text, time, more = latents.to(dtype), text.to(dtype), torch.tensor([321.0], dtype=dtype), {}
    if sizes.joint:  # neither quoted words nor an image
        mask = torch.ones(1, 7, dtype=torch.long)
        more = {"encoder_attention_mask": mask, "encoder_attention_mask_2": mask[:, :0]}
        more |= {"encoder_hidden_states_2": text.new_empty(1, 0, 1472), "image_embeds": text.new_empty(1, 0, 1152)}
    expected = theirs(latents, time, text, **more, return_dict=False)[0]
    found = ours(latents, time, text, partial(DENSE["SDPA flash"], scale=sizes.head_size**-0.5))
    off = 2e-2 if sizes.joint and dtype == torch.bfloat16 else 1e-3  # of Wan every rounding is the same
    torch.testing.assert_close(found, expected, rtol=off, atol=off * expected.abs().max().item())


@pytest.mark.parametrize("name", ["wan-1.3b", "hunyuan-video-1.5"])
def test_sparse_attention_of_a_block(name: str) -> None:
    """What LVSA's side computes within the model is the pattern of that step."""
    sizes, frames, step = ARCHITECTURES[name].small(), 161, 5
    layout = sizes.layout(frames)
    sparse, calls = lvsa(layout, sizes.horizon, pytest.fail, step), []

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append((q, k, v, sparse(q, k, v)))
        return calls[-1][-1]

    model = build(sizes, CPU, torch.float32)
    denoising = DenoisingStep(model, frames, CPU, torch.Generator().manual_seed(0))
    assert denoising(attention).shape == denoising.latents[:, : sizes.channels[1]].shape
    assert len(calls) == 2 * sizes.layers  # with and without the prompt
    pattern = plan(41, reference_frames=sizes.horizon, step=step)
    q, k, v, out = calls[0]
    torch.testing.assert_close(out, reference_attend(q, k, v, pattern, layout), rtol=1e-4, atol=1e-4)


def test_compiled_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where compiling fails the blocks run as written, and the reason is kept."""

    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no C compiler\nin PATH")

    monkeypatch.setattr(torch, "compile", broken)
    model = build(ARCHITECTURES["wan-1.3b"].small(), CPU, torch.float32)
    case = measure("wan-1.3b", 85, model, True, CPU, torch.Generator().manual_seed(0), 2)
    assert not case["compiled"] and case["not_compiled"] == "RuntimeError: no C compiler"
    assert "blocks not compiled: RuntimeError: no C compiler" in describe(case)
