"""Names, digests and the files of a video: what counts as finished, and that no half file is ever left."""

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from lvsa_vllm_omni.offline import Job, VideoSettings, is_finished
from lvsa_vllm_omni.offline.files import atomic_path, write_json
from lvsa_vllm_omni.offline.images import ImageFile
from lvsa_vllm_omni.offline.jobs import slug

OTHER: dict[str, Any] = {
    "negative_prompt": "",
    "lvsa": {"sparsity_scale": 0.5},
    "plan": None,
    "engine": {"ulysses_degree": 2},
    "images": (ImageFile(Path("fox.png"), "a" * 64),),
    "request": {"sparsity_scale": 0.5},
}


@pytest.mark.parametrize("name", [field.name for field in fields(VideoSettings)])
def test_every_setting_changes_the_digest(settings: VideoSettings, name: str) -> None:
    value = getattr(settings, name)
    other = OTHER[name] if name in OTHER else value + type(value)(1)
    assert replace(settings, **{name: other}).digest() != settings.digest()


def test_the_digest_is_the_same_in_every_process(settings: VideoSettings) -> None:
    assert settings.digest() == "211d1aaf"
    assert Job.numbered(7, settings).name == "007-a-cat-on-a-mat-211d1aaf"


def test_slug() -> None:
    assert slug("Café — Zürich, 4K") == "cafe-zurich-4k"
    assert slug("猫が走る") == "video"
    assert slug("word " * 20) == "-".join(["word"] * 8)
    assert slug("x" * 99) == "x" * 40


def finish(job: Job, folder: Path) -> None:
    job.video(folder).write_bytes(b"video")
    write_json(job.record(folder), {"settings": job.settings.as_json()})


def test_finished_needs_both_files_and_the_same_settings(settings: VideoSettings, tmp_path: Path) -> None:
    job = Job("clip", settings)
    assert not is_finished(job, tmp_path)
    finish(job, tmp_path)
    assert is_finished(job, tmp_path)
    assert not is_finished(Job("clip", replace(settings, seed=43)), tmp_path)
    job.video(tmp_path).write_bytes(b"")
    assert not is_finished(job, tmp_path)
    finish(job, tmp_path)
    job.video(tmp_path).unlink()
    assert not is_finished(job, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"settings": null}'])
def test_a_broken_record_is_not_finished(settings: VideoSettings, tmp_path: Path, text: str) -> None:
    job = Job("clip", settings)
    finish(job, tmp_path)
    job.record(tmp_path).write_text(text)
    assert not is_finished(job, tmp_path)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_older_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "clip.json"
    write_json(target, {"old": True})
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_text("half")
        assert temporary.parent == target.parent
        raise error
    assert os.listdir(tmp_path) == ["clip.json"]
    assert json.loads(target.read_text()) == {"old": True}


def test_a_written_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_json(tmp_path / "clip.json", {})
    assert (tmp_path / "clip.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
