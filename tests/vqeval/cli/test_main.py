"""The command: what it prints and writes, and its exit codes."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.clips import put
from vqeval import Result
from vqeval.checks import edits, scenes
from vqeval.checks.clip import write
from vqeval.cli.main import main

Output = pytest.CaptureFixture[str]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A good video, a loop, and a file that is none."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write(scenes.pan(64), folder / "good.mp4")
    write(edits.looped(scenes.pan(64), 16), folder / "loop.mp4")
    return folder


def test_evaluate_one(videos: Path, capsys: Output) -> None:
    assert main(["evaluate", str(videos / "loop.mp4")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"loop\.mp4: 64 frames of 160 x 96, 4\.00 s, 16 frames a second", out)
    assert re.search(r"\n  loop +\d\d\.\d %, lag 1\.00 s +\d+\n", out)
    assert "composite" in out and "warning: the video is a loop: " in out
    assert sorted(path.name for path in videos.iterdir()) == ["good.mp4", "loop.mp4"], "nothing is written unasked"


def test_evaluate_writes_what_is_asked_for(videos: Path, tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "out"
    files = [str(videos / "good.mp4"), str(videos / "loop.mp4")]
    assert main(["evaluate", *files, "--reference", files[0], "--output", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "good.vqeval.html", "good.vqeval.json", "loop.vqeval.html", "loop.vqeval.json", "summary.csv",
    ]  # fmt: skip
    result = Result.model_validate_json((out / "good.vqeval.json").read_text())
    assert result.dimensions["motion"].score == 100
    with (out / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["video"]).name for row in rows] == ["good.mp4", "loop.mp4"]
    assert float(rows[0]["composite"]) > float(rows[1]["composite"]) and rows[1]["loop_lag_seconds"] == "1.0"
    assert f"results in {out}" in capsys.readouterr().out


def test_one_bad_video_is_one_sentence_and_2(tmp_path: Path, capsys: Output) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_text("none")
    assert main(["evaluate", str(bad)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith(f"failed: {bad}: is not a video that FFmpeg can read")


def test_a_batch_does_the_others_and_ends_with_1(videos: Path, tmp_path: Path, capsys: Output) -> None:
    (videos / "bad.mp4").write_text("none")
    out = tmp_path / "out"
    assert main(["batch", str(videos), "--output", str(out)]) == 1
    streams = capsys.readouterr()
    assert streams.err.count("\n") == 1 and "bad.mp4: is not a video" in streams.err
    assert re.search(r"good\.mp4: \d+\.\d of 100\n", streams.out) and "loop.mp4: " in streams.out
    with (out / "summary.csv").open(newline="") as file:
        errors = [row["error"] for row in csv.DictReader(file)]
    assert [bool(error) for error in errors] == [True, False, False]


def test_a_batch_into_the_folder_of_the_videos_leaves_their_records_alone(tmp_path: Path) -> None:
    put(tmp_path / "videos", "one", scenes.pan(32), "a cat", 7)
    before = (tmp_path / "videos" / "one.json").read_text()
    assert main(["batch", str(tmp_path / "videos"), "--output", str(tmp_path / "videos")]) == 0
    assert (tmp_path / "videos" / "one.json").read_text() == before
    assert (tmp_path / "videos" / "one.vqeval.json").exists()


def test_videos_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for side in "AB":
        (tmp_path / side).mkdir()
        write(scenes.pan(32), tmp_path / side / "one.mp4")
    files = [str(tmp_path / side / "one.mp4") for side in "AB"]
    assert main(["evaluate", *files, "--output", str(tmp_path / "out")]) == 0
    found = [Result.model_validate_json(path.read_text()).video.path for path in (tmp_path / "out").glob("*.json")]
    assert sorted(found) == files


def test_compare(tmp_path: Path, capsys: Output) -> None:
    for number in range(5):
        clip = scenes.pan(48, seed=number)
        put(tmp_path / "A", f"{number}", clip, f"prompt {number}", 1)
        put(tmp_path / "B", f"{number}", edits.frozen(clip, 0.8), f"prompt {number}", 1)
    out = tmp_path / "out"
    assert main(["compare", str(tmp_path / "A"), str(tmp_path / "B"), "--output", str(out)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"\ncomposite +\S+ +\S+ +-\S+ +-\S+ to -\S+ +5 +\d+  A is higher\n", text)
    assert re.search(r"\nnoise .+no difference shown\n", text) or re.search(r"\nblur .+no difference shown\n", text)
    assert sorted(path.name for path in out.iterdir()) == ["comparison.csv", "comparison.html", "comparison.json"]
    assert json.loads((out / "comparison.json").read_text())["rows"][0]["name"] == "composite"


def test_calibrate(videos: Path, tmp_path: Path, capsys: Output) -> None:
    assert main(["calibrate", str(videos), "--output", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert re.search(r"\nloop +2 .+ 0\.05 +1 .+loop\.mp4\n", text), "one of the two is a false alarm"
    assert (tmp_path / "out" / "calibration.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["batch", "nowhere"], "nowhere: neither a folder nor a .csv table"),
        (["compare", "nowhere", "nowhere"], "nowhere: there is no such folder"),
        (["evaluate", "VIDEO", "--weights", "lop=1"], "no dimension is called 'lop'"),
        (["evaluate", "VIDEO", "--weights", "loop=1", "--profile", "paper"], "exclude each other"),
        (["evaluate", "VIDEO", "--output", "VIDEO"], "cannot be made"),
        (["selfcheck", "nowhere.mp4"], "nowhere.mp4: there is no such file"),
    ],
)
def test_refuses_with_one_sentence(arguments: list[str], sentence: str, videos: Path, capsys: Output) -> None:
    arguments = [str(videos / "good.mp4") if text == "VIDEO" else text for text in arguments]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and sentence in err


@pytest.mark.parametrize("arguments", [[], ["evaluate"], ["evaluate", "a.mp4", "--weights", "loop"], ["other"]])
def test_the_parser_refuses(arguments: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_a_prompt_without_weights_is_no_composite_and_1(videos: Path, capsys: Output) -> None:
    assert main(["evaluate", str(videos / "good.mp4"), "--prompt", "a landscape"]) == 1
    out = capsys.readouterr().out
    assert "no composite: a dimension that was asked for failed; text_alignment: text alignment needs CLIP" in out


def test_as_a_program(videos: Path) -> None:
    command = [str(Path(sys.executable).with_name("vqeval")), "evaluate", str(videos / "good.mp4")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "composite" in ran.stdout
