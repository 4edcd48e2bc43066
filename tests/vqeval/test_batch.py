"""Where the videos of a batch come from, and what happens to those that cannot be judged."""

from pathlib import Path

import pytest

from vqeval import InputError
from vqeval.batch import Entry, entries_of, evaluate_all
from vqeval.checks import edits, scenes
from vqeval.checks.clip import write
from vqeval.evaluation import Settings


def test_a_folder(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MKV", "c.txt", "a.json", ".hidden.mp4"):
        (tmp_path / name).write_text('{"settings": {"prompt": "a cat"}}')
    assert entries_of(tmp_path) == [Entry(tmp_path / "a.MKV", "a cat"), Entry(tmp_path / "b.mp4")]


def test_a_table(tmp_path: Path) -> None:
    table = tmp_path / "videos.csv"
    table.write_text("\ufeffvideo,prompt,reference,other\nsub/a.mp4,a cat,,x\nb.mp4,,a.mp4,y\n", encoding="utf-8")
    assert entries_of(table) == [
        Entry(tmp_path / "sub/a.mp4", "a cat"),
        Entry(tmp_path / "b.mp4", None, tmp_path / "a.mp4"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("videos.csv", "path\na.mp4\n", "needs a line of names with the column 'video'"),
        ("videos.csv", "", "needs a line of names"),
        ("videos.csv", "video,prompt\na.mp4,x\n,y\n", "line 3: the column 'video' is empty"),
        ("videos.txt", "a.mp4", "neither a folder nor a .csv table"),
    ],
)
def test_refuses_with_one_sentence(name: str, text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        entries_of(tmp_path / name)


def test_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no video"):
        entries_of(tmp_path)
    with pytest.raises(InputError, match="cannot be read as a table: "):
        entries_of(tmp_path / "none.csv")


def test_a_bad_video_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    clip = scenes.pan(32)
    good, still = write(clip, tmp_path / "good.mp4"), write(edits.frozen(clip), tmp_path / "still.mp4")
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    entries = [Entry(bad), Entry(good, reference=good), Entry(good, reference=bad), Entry(still)]
    found = list(evaluate_all(entries, Settings()))
    assert [outcome.failed for outcome in found] == [True, False, True, False]
    assert [outcome.entry for outcome in found] == entries
    assert found[1].result is not None and found[1].result.dimensions["motion"].score == 100
    assert found[2].error == found[0].error and "is not a video" in str(found[0].error)
    assert found[3].result is not None and found[3].result.alarms == ["stands still for 100 % of its length"]
