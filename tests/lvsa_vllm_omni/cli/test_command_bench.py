"""`lvsa bench` on the CPU: a right kernel is timed, a wrong one is not, and what was measured is never lost."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lvsa_core import attend
from lvsa_core.kernels import KERNELS
from lvsa_vllm_omni.cli import bench_run, timing
from lvsa_vllm_omni.cli.main import main
from lvsa_vllm_omni.cli.tables import scaled, table
from lvsa_vllm_omni.measure import cost
from lvsa_vllm_omni.presets import load_preset

#: 8 tokens a frame.
SMALL = ["bench", "--preset", "wan2.1-1.3b", "--size", "64x32", "--repeats", "2", "--patience", "0", "--device", "cpu"]


def test_it_measures_and_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    assert main([*SMALL, "--frames", "81,161", "--json", str(file)]) == 0
    out, results = capsys.readouterr().out, json.loads(file.read_text())
    assert set(results["machine"]) >= {"date", "command", "processor", "versions"}
    assert (results["kernel"], results["dtype"], results["scaled_down"]) == ("sdpa", "float32", True)
    assert (results["measured_shape"]["heads"], results["measured_shape"]["ffn"]) == (2, 8960 * 2 // 12)
    assert results["dense_kernels"] == {"dense": "PyTorch's attention (FLASH_ATTENTION)"}
    dense, sparse = results["rows"]
    assert set(dense["seconds"]) == {"dense", "linear"} and dense["end_to_end"] == 1.0
    assert set(sparse["seconds"]) == {"dense", "lvsa", "linear"} and min(sparse["seconds"].values()) > 0
    assert sparse["density"] == pytest.approx(21 / 41)
    assert sparse["overhead"] == pytest.approx(sparse["ratio"] / sparse["density"])
    assert "SCALED DOWN from 12 heads and 8 tokens a frame: the ratios carry over to the model, the times do" in out
    assert "81 frames run on the engine's own attention: within the attention budget of 21 latent frames" in out
    line = next(line for line in out.splitlines() if line.startswith("161 "))
    assert line.endswith("  (other programs ran)") != sparse["quiet"]
    row = line.removesuffix("  (other programs ran)").split()
    assert row[:3] == ["161", "41", "0.512"] and row[-1] == f"{sparse['end_to_end']:.2f}x"
    assert f"{sparse['ratio']:.3f}" in row


def test_end_to_end_is_of_the_whole_model(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    assert (
        main([*SMALL[:3], "--size", "832x480", *SMALL[5:], "--frames", "93", "--heads", "1", "--json", str(file)]) == 0
    )
    results = json.loads(file.read_text())
    (row,) = results["rows"]
    assert (results["measured_tokens_per_frame"], results["tokens_per_frame"]) == (195, 1560)
    shape = load_preset("wan2.1-1.3b").shape
    assert shape is not None
    # 8 x 8 as many pairs and 12 x as many heads; 8 x the tokens and nearly 12 x 12 the weights.
    attention, part = 8 * 8 * 12, cost.linear_layers(timing.narrowed(shape, 1, 1.0))
    linear = 8 * sum(a * b for a, b in cost.linear_layers(shape)) / sum(a * b for a, b in part)
    times = row["seconds"]
    dense, lvsa, rest = times["dense"] * attention, times["lvsa"] * attention, times["linear"] * linear
    assert row["end_to_end"] == pytest.approx((dense + rest) / (lvsa + rest))


def test_moved_anchors_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Along the model's own axis, which ``configs/`` or the checkpoint tells."""
    monkeypatch.setenv("LVSA_RECIPE", "long")
    for model in ("wan2.1-1.3b", "hunyuan-video-1.5"):
        file = tmp_path / f"{model}.json"
        options = ["--frames", "161", "--heads", "1", "--repeats", "1", "--patience", "0"]
        assert main(["bench", "--preset", model, *options, "--device", "cpu", "--json", str(file)]) == 0
        assert json.loads(file.read_text())["rows"][0]["seconds"]["lvsa"] > 0


def test_the_whole_model_is_not_scaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset, file = tmp_path / "mine.toml", tmp_path / "results.json"
    preset.write_text(
        'family = "hunyuan"\nreference_latent_frames = 3\nvae_temporal_factor = 4\nheight = 32\nwidth = 64\n'
        "[shape]\nheads = 4\nkv_heads = 2\nhead_size = 16\nblocks = 2\nffn = 100\nffn_matrices = 3\npatch = 1\n"
        "vae_spatial_factor = 16\ntext_tokens = 7\n"
    )
    options = ["--frames", "45", "--heads", "4", "--repeats", "1", "--patience", "0", "--device", "cpu"]
    assert main(["bench", "--preset", str(preset), *options, "--dtype", "bfloat16", "--json", str(file)]) == 0
    results = json.loads(file.read_text())
    times, row = results["rows"][0]["seconds"], results["rows"][0]
    assert not results["scaled_down"] and "SCALED" not in capsys.readouterr().out
    assert results["measured_shape"] == results["shape"] and results["dtype"] == "bfloat16"
    expected = (times["dense"] + times["linear"]) / (times["lvsa"] + times["linear"])
    assert row["end_to_end"] == pytest.approx(expected)


def test_the_faster_dense_kernel_is_the_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        """Stands in for FlashAttention-3, which no CPU has: dense attention, several times over."""

        name = "FlashAttention3"

        def attention(self, *inputs: Any) -> Any:
            for _ in range(9):
                result = KERNELS["sdpa"].attention(*inputs)  # type: ignore[attr-defined]
            return result

    for module in (timing, bench_run):
        monkeypatch.setattr(module, "flash3", lambda _: Slow())
    file = tmp_path / "results.json"
    assert main([*SMALL, "--frames", "321", "--json", str(file)]) == 0
    results = json.loads(file.read_text())
    (row,) = results["rows"]
    assert results["dense_kernels"]["dense_fa3"] == "FlashAttention3"
    fastest = min(row["seconds"]["dense_fa3"], row["seconds"]["dense"])
    assert row["ratio"] == pytest.approx(row["seconds"]["lvsa"] / fastest)
    out = capsys.readouterr().out
    assert (
        "dense  dense FA3" in out and "dense: PyTorch's attention (FLASH_ATTENTION), FlashAttention3; LVSA: sdpa" in out
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    options = ["--preset", "wan2.1-1.3b", "--size", "416x240", "--repeats", "2", "--device", "cuda"]
    assert main(["bench", *options, "--frames", "81,161", "--json", str(file)]) == 0
    results = json.loads(file.read_text())
    assert results["machine"]["device"] and results["dtype"] == "bfloat16" and not results["scaled_down"]
    assert [row["verdict"] for row in results["rows"]] == ["dense", "sparse"]
    assert all(row["quiet"] and min(row["seconds"].values()) > 0 for row in results["rows"])


def test_no_numbers_of_a_wrong_kernel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "attend", lambda *a, **k: attend(*a, **k) * 1.1)
    file = tmp_path / "results.json"
    assert main([*SMALL, "--frames", "161", "--json", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and not file.exists()
    assert re.fullmatch(
        r"lvsa bench: sdpa is wrong here, so nothing is measured: attend is off by \S+ from the reference, "
        r"allowed is 0.005\n",
        err,
    )


@pytest.mark.parametrize("raised", ["cuda", "cpu"])
def test_out_of_memory_keeps_what_was_measured(
    raised: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def linear(measured: Any, tokens: int) -> Any:
        if tokens == 81 * 8 and raised == "cpu":
            torch.empty(10**15)  # the allocator's own error
        if tokens == 81 * 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(measured, tokens)

    original, file = timing._linear, tmp_path / "results.json"
    monkeypatch.setattr(timing, "_linear", linear)
    assert main([*SMALL, "--frames", "161,321,481", "--json", str(file)]) == 1
    out, err = capsys.readouterr()
    assert err == "lvsa bench: out of memory at 321 frames: take fewer frames, a smaller --size or fewer --heads\n"
    assert re.search(r"^161 ", out, re.M) and not re.search(r"^(321|481) ", out, re.M) and "It leaves out" in out
    results = json.loads(file.read_text())
    assert [row["frames"] for row in results["rows"]] == [161] and "out of memory" in results["stopped"]


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(timing, "_linear", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main([*SMALL, "--frames", "161"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--heads", "13"], "--heads must be from 1 to the model's 12, got 13"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--patience", "nan"], "--patience must be a number of seconds from 0, got nan"),
        (["--device", "mps"], "--device must be cpu, cuda or cuda:N, got 'mps'"),
        (["--device", "tape"], "--device must be cpu, cuda or cuda:N, got 'tape'"),
        (["--device", "cuda:77"], "--device cuda:77 is not there: PyTorch sees "),
        (["--backend", "quick"], "there is no attention kernel 'quick': choose one of auto, "),
        (["--backend", "flash"], "attention kernel 'flash' does not run for torch.float32 with head size 128 on cpu"),
        (["--json", "/proc/none/r.json"], "cannot write /proc/none/r.json: No such file or directory"),
    ],
)
def test_bad_input(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = 1 if "does not run" in sentence else 2
    assert main([*SMALL, "--frames", "161", *arguments]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"lvsa bench: {sentence}") and err.count("\n") == 1


def test_the_kernel_of_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVSA_BACKEND", "flash")
    assert main([*SMALL, "--frames", "161"]) == 1
    assert "'flash' does not run" in capsys.readouterr().err
    assert main([*SMALL, "--frames", "161", "--backend", "sdpa-concatenated"]) == 0
    assert "LVSA: sdpa-concatenated\n" in capsys.readouterr().out


def test_numbers_for_a_terminal() -> None:
    values = [0.0, 4.2e-7, 0.0898, 0.99999, 4.541, 894.4, 1000, 126360, 3.27e14, 2e18]
    shown = ["0.00 µs", "0.42 µs", "89.8 ms", "1.00 s", "4.54 s", "894 s", "1.00 ks", "126 ks", "327 Ts", "2000 Ps"]
    assert [scaled(value, "s") for value in values] == shown
    assert list(table([["a", "bb", ""], ["ccc", "d", "e"]])) == ["a    bb", "ccc   d  e"]
