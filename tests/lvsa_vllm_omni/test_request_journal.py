"""What a request ran, as a line of the journal; several processes write one file, and no failure reaches a request."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lvsa_core import FrameGrid, plan
from lvsa_vllm_omni import request_journal
from tests.support.log import Log

REQUEST = SimpleNamespace(request_id="one", sampling_params=SimpleNamespace(extra_args={"lvsa": {"window_size": 8}}))


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def some() -> request_journal.Ran:
    found = request_journal.Ran("wan", "sdpa")
    for step in range(3):
        for _branch in range(2):
            found.call(step, FrameGrid(41, 12), "beyond the horizon", plan(41, reference_frames=21, step=step))
    found.call(3, FrameGrid(41, 12), "the last")
    found.fallbacks["refused"] += 2
    return found


def test_a_line_says_what_ran(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "journal.jsonl"
    request_journal.tell(str(file), "WanPipeline", [REQUEST, REQUEST], some(), 1.23456, None)
    first, second = lines(file)
    assert first == second | {"time": first["time"]} and first["request"] == "one" and first["batch"] == 2
    assert (first["outcome"], first["steps"], first["sparse_steps"], first["kernel"]) == ("fallback", 4, 3, "sdpa")
    densities = [plan(41, reference_frames=21, step=step).density for step in range(3)]
    assert first["density"] == pytest.approx((sum(densities) + 1) / 4, abs=1e-4)
    assert (first["latent_frames"], first["patches"], first["attended_per_frame"]) == (41, 12, 21)
    assert (first["fallbacks"], first["knobs"], first["seconds"]) == ({"refused": 2}, {"window_size": 8}, 1.235)
    assert first["anchors"] is None
    assert first["model"] == "WanPipeline" and first["family"] == "wan" and first["error"] is None


def test_moved_anchors_stand_in_the_line_and_in_the_answer(tmp_path: Path) -> None:
    ran, answer = some(), SimpleNamespace(error=None, stage_durations=None)
    ran.anchors = "anchor_boost=1 rotate_after=0.6"
    request_journal.tell(str(tmp_path / "journal.jsonl"), "WanPipeline", [REQUEST], ran, 0.0, None, answer)
    assert lines(tmp_path / "journal.jsonl")[0]["anchors"] == "anchor_boost=1 rotate_after=0.6"
    assert answer.stage_durations["lvsa.anchors=anchor_boost=1 rotate_after=0.6"] == 1.0


def test_what_never_ran_and_what_ran_dense(tmp_path: Path) -> None:
    file, dense = tmp_path / "journal.jsonl", request_journal.Ran("wan")
    dense.call(0, FrameGrid(9, 12), "within the horizon")
    for what, error in ((request_journal.Ran(), "ValueError: no"), (dense, None)):
        request_journal.tell(str(file), "WanPipeline", [SimpleNamespace(request_id="x")], what, 0.0, error)
    bad, short = lines(file)
    assert (bad["outcome"], bad["density"], bad["error"], bad["knobs"]) == ("not run", None, "ValueError: no", None)
    assert (short["outcome"], short["reason"], short["sparse_steps"]) == ("dense", "within the horizon", 0)


def test_outcomes() -> None:
    """A plan that was sparse is not called so if layers ran dense; and what never ran has no density."""
    sparse = request_journal.Ran("wan", "sdpa")
    sparse.call(0, FrameGrid(41, 12), "beyond the horizon", plan(41, reference_frames=21))
    assert sparse.told()["outcome"] == "sparse"
    sparse.fallbacks["mask"] += 1
    assert sparse.told()["outcome"] == "fallback"
    unknown = request_journal.Ran()
    unknown.call(0, None, "the grid is unknown")
    unknown.fallbacks["layout"] += 1
    told = unknown.told()
    assert (told["outcome"], told["density"], told["latent_frames"]) == ("fallback", 1.0, None)


def test_each_of_a_batch_has_its_own_error(tmp_path: Path) -> None:
    file, requests = tmp_path / "journal.jsonl", [SimpleNamespace(request_id=name) for name in ("good", "bad", "gone")]
    errors = {"good": {"error": None}, "bad": {"error": "no\nOutOfMemoryError: x"}, "gone": {"abort_message": "gone"}}
    answer = SimpleNamespace(
        get_request_output=lambda name: SimpleNamespace(result=SimpleNamespace(**errors[name])), error=None
    )
    request_journal.tell(str(file), "Pipeline", requests, some(), 0.0, None, answer)
    request_journal.tell(str(file), "Pipeline", requests[:1], some(), 0.0, None, SimpleNamespace(error="alone"))
    trial = SimpleNamespace(request_id="trial", is_dummy_run=lambda: True)
    request_journal.tell(str(file), "Pipeline", [trial], some(), 0.0, None)
    assert [line["error"] for line in lines(file)] == [None, "OutOfMemoryError: x", "gone", "alone"]


@pytest.mark.slow
def test_several_processes_and_files_that_are_put_aside(tmp_path: Path) -> None:
    program = (
        "import sys; from types import SimpleNamespace as N\n"
        "from lvsa_vllm_omni import request_journal as ran; ran.LARGEST = 20_000\n"
        "for number in range(100):\n"
        "    one = N(request_id=f'{sys.argv[2]}-{number}')\n"
        "    ran.tell(sys.argv[1], 'Pipeline', [one], ran.Ran(), 0.0, None)\n"
    )
    file = tmp_path / "journal.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", program, str(file), str(n)]) for n in range(2)]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    files = sorted(tmp_path.glob("journal.jsonl*"))
    assert len(files) > 1
    found = [line["request"] for one in files for line in lines(one)]
    assert sorted(found) == sorted(f"{n}-{number}" for n in range(2) for number in range(100))


@pytest.mark.parametrize("place", ["folder", "file/journal.jsonl"])
def test_a_file_that_cannot_be_written_is_one_warning(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with Log() as log:
        for _ in range(3):
            request_journal.tell(str(tmp_path / place), "Pipeline", [REQUEST], some(), 0.0, None)
    (line,) = log.starting("[LVSA] LVSA_JOURNAL=")
    assert f"{place} cannot be written: " in line


def test_metrics_that_cannot_be_counted_cost_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal has its lines, answers have what ran, and it is known who has failed."""

    def full(_line: Any) -> None:
        raise OSError("no space left for metrics")

    monkeypatch.setattr(request_journal.metrics, "observe", full)
    file = tmp_path / "journal.jsonl"
    a, b = (SimpleNamespace(stage_durations=None, error=error) for error in (None, "boom"))
    by_name = {"a": SimpleNamespace(result=a), "b": SimpleNamespace(result=b)}
    answer = SimpleNamespace(get_request_output=by_name.get)
    with Log() as log:
        failed = request_journal.tell(
            str(file), "Pipeline", [SimpleNamespace(request_id=name) for name in by_name], some(), 0.0, None, answer
        )
    assert failed == {"b"} and [line["request"] for line in lines(file)] == ["a", "b"]
    assert a.stage_durations["lvsa.sparse_steps"] == b.stage_durations["lvsa.sparse_steps"] == 3
    warned = [line for line in log.messages if "cannot" in line]
    assert warned == ["[LVSA] requests cannot be counted for /metrics: no space left for metrics"]


def test_an_error_in_a_call_leaves_its_time(tmp_path: Path) -> None:
    import torch

    time = request_journal.DeviceTime()
    with pytest.raises(RuntimeError, match="no"), time.measured(torch.device("cpu")):
        raise RuntimeError("no")
    assert (time.seconds() or 0) > 0
    lost = SimpleNamespace(synchronize=lambda: (_ for _ in ()).throw(RuntimeError("device lost")))
    time._events.append((lost, lost))  # type: ignore[arg-type]
    assert time.seconds() is None
