"""The command that repeats the method's tables: on the real engine with Toy Wan, and what its report says."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("pydantic", reason="the benchmark asks the package for its settings")
import reproduce
import vbench
from report import Results, draw
from reproduce_report import difference, panels, quality, speed, write_report

MODEL = "Wan2.1-T2V-1.3B-Diffusers"


def row(method: str, seed: int, horizon: float = 4, **more: Any) -> dict[str, Any]:
    """A row as the engine's videos make them."""
    times = {"seconds": 100.0 + seed, "denoising_seconds": 80.0}
    made = {"result": "made", **times, "density": 0.26, "composite": 50.0 + seed, "file": "a.mp4"}
    return {"model": MODEL, "horizon": horizon, "method": method, "prompt": "a fox", "seed": seed, **made, **more}


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    monkeypatch.setenv("LVSA_CPU", "")
    return reproduce.main()


@pytest.mark.engine
@pytest.mark.skipif(find_spec("vllm_omni") is None, reason="needs vLLM-Omni")
def test_toy_videos_through_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--grid",
        "toy",
        "--horizons",
        "2",
        "--methods",
        "dense,lvsa,lvsa+riflex",
        "--prompts",
        "1",
        "--seeds",
        "7",
    ]
    words += ["--output", str(tmp_path), "--vbench", str(tmp_path / "vbench"), "--", "--steps", "2"]
    assert run(monkeypatch, *words) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    rows = {x["method"]: x for x in found["rows"]}
    assert [*rows] == ["dense", "lvsa", "lvsa+riflex"] and found["machine"]["commit"]
    assert [x["sparse"] for x in rows.values()] == [False, True, True]
    assert all(x["frames"] == 161 and x["seconds"] > 0 and (tmp_path / x["file"]).is_file() for x in rows.values())
    assert rows["dense"]["density"] == 1 and rows["lvsa"]["density"] == pytest.approx(0.512, abs=0.01)
    assert all(0 < x["denoising_seconds"] < x["seconds"] for x in rows.values())
    assert not rows["lvsa"]["fallbacks"] and rows["lvsa"]["freeze"] is not None
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 4
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    links = [path for path in (tmp_path / "vbench").rglob("*.mp4") if path.is_file()]
    assert len(links) == 3 and all(path.name == "a red ball, fast, blue sky-7.mp4" for path in links)

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("a report makes no video")

    monkeypatch.setattr(reproduce, "make", forbidden)
    capsys.readouterr()
    assert run(monkeypatch, "--report", *words[: words.index("--vbench")]) == 0
    assert "| toy-wan | 2x | lvsa | 1 |" in capsys.readouterr().out


def test_what_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--report", "--models", f"/models/{MODEL}", "--methods", "dense,lvsa", "--seeds", "1", "--prompts", "1"]
    assert run(monkeypatch, *words, "--output", str(tmp_path)) == 1
    assert "error: 4 of 4 videos are not there; not tried" in capsys.readouterr().err
    place = tmp_path / MODEL / "auto" / "4x"
    place.mkdir(parents=True)
    (place / "engine.log").write_text("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate")
    run(monkeypatch, *words, "--output", str(tmp_path))
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {x["horizon"]: x["result"] for x in rows} == {1: "not tried", 4: "out of memory"}
    assert "| out of memory |" in (tmp_path / "tables.md").read_text()


def test_each_method_of_a_grid_is_made_once() -> None:
    for grid in reproduce.grids().values():
        kernels = {reproduce.METHODS[method].kernel for method in grid.methods}
        made = [(x[0], x[1], x[2], x[3]) for kernel in kernels for x in reproduce.requests(kernel, grid)]
        assert len(made) == len(set(made))
        skipped = sum("riflex" in method for method in grid.methods) * (1 in grid.horizons)
        rest = len(grid.prompts) * len(grid.seeds)
        assert len(made) == (len(grid.methods) * len(grid.horizons) - skipped) * rest
    prompts = json.loads(reproduce.PROMPTS.read_text())
    assert len(set(prompts)) == 5 and all(len(prompt.split()) >= 50 for prompt in prompts)


def test_tables_beside_published_numbers() -> None:
    rows = [row("dense", seed, seconds=200.0) for seed in range(6)] + [row("lvsa", seed) for seed in range(6)]
    said = "\n".join(speed(rows))
    assert f"| {MODEL} | 4x | dense | 6 | 200.0 | 80.0 | 1.00 | 1.00 |" in said and "| 1930 s |" in said
    assert f"| {MODEL} | 4x | lvsa | 6 | 103.0 | 80.0 | 1.94 | 1.00 | 0.260 |" in said and "| 802 s |" in said


def test_the_time_of_the_denoising() -> None:
    wan = {"WanPipeline.forward": 9.0, "WanPipeline.diffuse": 6.0, "WanPipeline.vae.decode": 2.0, "queue_wait_ms": 1.0}
    assert reproduce.denoising(wan) == 6.0
    hunyuan = {"HunyuanVideo15Pipeline.forward": 9.0, "HunyuanVideo15Pipeline.vae.decode": 2.0, "lvsa.steps": 25.0}
    assert reproduce.denoising({**hunyuan, "HunyuanVideo15Pipeline.text_encoder.forward": 0.5}) == 6.5
    assert reproduce.denoising({"lvsa.steps": 25.0}) is None
    options = reproduce.profiled(["--eager", "--engine-args", '{"dtype": "float32"}', "--steps", "2"])
    assert options[:4] == ("--eager", "--steps", "2", "--engine-args")
    assert json.loads(options[4]) == {"enable_diffusion_pipeline_profiler": True, "dtype": "float32"}


def test_differences_are_paired_and_need_five_pairs() -> None:
    assert difference([1.0, 2.0]) == "+1.5 (2 pairs)" and difference([]) == ""
    assert difference([3.0] * 8) == "+3.0 [+3.0, +3.0]"
    rows = [row("dense", seed, composite=10.0 * seed) for seed in range(8)]
    rows += [row("lvsa", seed, composite=10.0 * seed + 4) for seed in range(8)]
    assert "| +4.0 [+4.0, +4.0] |" in "\n".join(quality(rows))


def test_a_report_with_nothing_made(tmp_path: Path) -> None:
    rows = [{**row("lvsa", 1), "result": "not tried", "seconds": None, "composite": None}]
    results = Results(tmp_path / "results.json", {})
    results.rows.extend(rows)
    write_report(results, tmp_path)
    assert (tmp_path / "figure.png").exists()


def test_the_figure_has_a_line_of_panels_a_model_and_the_spread(tmp_path: Path) -> None:
    rows = [row("dense", 1), {**row("dense", 2), "composite": 10.0}, {**row("lvsa", 1), "model": "other"}]
    found = panels(rows)
    assert len(found) == 8 and found[3].errors["dense"][0] > 1 and found[7].errors == {"lvsa": [0.0]}
    plain = [replace(panel, errors={}) for panel in found]
    files = [tmp_path / name for name in ("lines.png", "line.png", "plain.png")]
    for file, what, columns in zip(files, (found, found, plain), (4, None, 4), strict=True):
        draw(file, what, columns)
    pictures = [Image.open(file) for file in files]
    assert [picture.size for picture in pictures] == [(1680, 760), (3360, 380), (1680, 760)]
    assert pictures[0].tobytes() != pictures[2].tobytes(), "the spread is drawn"


def test_vbench_results_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marks = {"subject_consistency": [0.93, [{"video_path": "a.mp4", "video_results": 0.93}]]}
    (tmp_path / "results_x_eval_results.json").write_text(json.dumps(marks))
    monkeypatch.setattr(sys, "argv", ["vbench.py", str(tmp_path)])
    assert vbench.main() == 0
    assert "| 0.930 |" in capsys.readouterr().out
    (tmp_path / "results_x_eval_results.json").write_text("[1]")
    assert vbench.main() == 2
    assert "is not a result of VBench" in capsys.readouterr().err
