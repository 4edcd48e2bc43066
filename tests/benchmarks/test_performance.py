"""The performance page's tables are those of the result files."""

import json
from pathlib import Path
from typing import Any

import performance
import pytest
from performance import PAGE, RESULTS, drawn

FILES = sorted(RESULTS.glob("*.json"))


def test_the_page_is_what_is_drawn() -> None:
    page = PAGE.read_text("utf-8")
    assert drawn(page) == page, "run: python benchmarks/performance.py"
    assert drawn(drawn(page)) == page


#: Results of videos' quality and of servers stand on other pages.
ELSEWHERE = {
    **dict.fromkeys(
        (f"reliability-{part}.json" for part in ("clients", "input", "disk", "ends")), "docs/reliability.md"
    ),
    "mixed-cpu.json": "docs/reliability.md",
    **dict.fromkeys(
        (f"quality-toy{part}.json" for part in ("", "-alone", "-options", "-guidance", "-image")), "docs/quality.md"
    ),
    "reproduce-toy.json": "docs/evaluation.md",
    **dict.fromkeys((f"toy-wan{part}.json" for part in ("", "-again", "-seed1", "-head64")), "toy/README.md"),
    "options-cpu.json": "docs/quality.md",
}


@pytest.mark.parametrize("file", [x for x in FILES if not x.name.startswith("communication")], ids=lambda x: x.name)
def test_every_file_is_read(file: Path) -> None:
    page = PAGE
    if file.name in ELSEWHERE:
        page = PAGE.parents[1] / ELSEWHERE[file.name]
    assert f"results/{file.name})" in page.read_text("utf-8")
    machine = json.loads(file.read_text())["machine"]
    assert all(machine.get(name) for name in ("date", "command", "versions"))
    if "h200" in file.name:  # the first file of a GPU, and those of a CPU, lack some of these
        assert all(machine.get(name) for name in ("device", "driver", "commit"))


def layer(model: str, frames: int, seconds: float, kernel: str = "FlashAttention3") -> dict[str, Any]:
    own = {"seconds": seconds, "ratio": seconds / 0.1, "overhead": seconds / 0.05, "roofline": 1.25, "right": True}
    return {
        "job": f"{kernel}, {model} T={frames}", "side": kernel, "model": model, "latent_frames": frames,
        "frames": frames, "result": "right", "density": 0.5, "dense_pattern": False, "reference": "SDPA cuDNN",
        "dense": {"SDPA cuDNN": 0.1}, "kernels": {kernel: own},
    }  # fmt: skip


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results, of which the older has a slower time."""

    def file(
        name: str, date: str, rows: list[dict[str, Any]], tests: dict[str, str] | None = None, **machine: Any
    ) -> None:
        machine = {"date": date, "device": "NVIDIA A100, 79 GiB", "commit": "1234567", "command": "x", **machine}
        found = {"machine": machine, "rows": rows, "auto": "FlashAttention3", "tests": tests or {}}
        (tmp_path / name).write_text(json.dumps(found))

    checks = [
        {"job": name, "side": name, "model": "", "latent_frames": 0, "result": result}
        for name, result in (("FlashAttention3", "right"), ("cuDNN", "crashed"))
    ]
    file("b-old.json", "2026-11-01", [layer("wan-14b", 41, 0.07), layer("wan-14b", 81, 0.08)])
    file("a-new.json", "2026-11-02", [*checks, layer("wan-14b", 41, 0.06), layer("wan-14b", 41, 0.09, "cuDNN")])
    groups = layer("wan-14b", 121, 0.06)
    groups["kernels"]["two groups"] = {**groups["kernels"]["FlashAttention3"], "seconds": 0.0606}
    file("c-groups.json", "2026-11-02", [groups], {"a": "passed", "b": "skipped: no", "c": "passed"})
    file("tiny.json", "2026-11-03", [layer("wan-14b", 41, 0.01)], tiny=True)
    monkeypatch.setattr(performance, "RESULTS", tmp_path)
    return tmp_path


def test_the_newest_counts_and_what_is_missing_is_said(results: Path) -> None:
    said = "\n".join(performance.gpus())
    assert "### NVIDIA A100\n" in said and "commit 1234567" in said and "tiny.json" not in said
    assert "| Wan 2.1 14B, 480p | 41 | 0.500 | SDPA cuDNN | 100.0 ms | 60.0 ms | 0.600 | **1.200** | 1.25 |" in said
    assert "| Wan 2.1 14B, 480p | 81 | 0.500 | SDPA cuDNN | 100.0 ms | 80.0 ms |" in said
    assert (
        "| Wan 2.1 14B, 480p | 121 | 0.500 | SDPA cuDNN | 100.0 ms | 60.0 ms | 0.600 | **1.200** | 1.25 | 1.010 |"
        in said
    )
    assert "Not measured: Wan 2.1 1.3B, 480p at 41, 81, 121; Wan 2.1 14B, 720p at" in said
    assert "command x; tests/gpu 2 passed, 1 skipped" in said and said.count("tests/gpu") == 1
    assert "| FlashAttention3 | right | 1.20 to 1.60 |" in said and "| cuDNN | crashed | 1.80 to 1.80 |" in said
    assert "A whole denoising step:\n\nNot measured: Wan 2.1 1.3B, 480p at 21, 41, 81, 121;" in said


def test_which_kernels_meet(results: Path) -> None:
    lines = list(performance.classes())
    assert [line for line in lines if "NVIDIA A100" in line] == [line for line in lines if "Ampere, Ada" in line]
    assert sum("not measured" in line for line in lines) == len(lines) - 3  # of header, rule and A100
