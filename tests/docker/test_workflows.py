"""The workflows: actions pinned, no more rights than needed, files and versions that are there.

zizmor knows more rules: zizmor .github/workflows
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
WORKFLOWS = sorted((REPOSITORY / ".github/workflows").glob("*.yml"))


def jobs(file: Path) -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(file.read_text())["jobs"])


def test_there_are_three() -> None:
    assert [file.stem for file in WORKFLOWS] == ["ci", "images", "release"]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_every_workflow(file: Path) -> None:
    text = file.read_text()
    used = re.findall(r"uses: (.+)", text)
    assert used and [name for name in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", name)] == []
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 90 for job in jobs(file).values())
    assert text.count("actions/checkout@") == text.count("persist-credentials: false")
    steps = [step for job in jobs(file).values() for step in job["steps"]]
    assert not [step["run"] for step in steps if "${{" in step.get("run", "")], (
        "what others name is no part of a script"
    )


def test_an_action_has_one_pin() -> None:
    pins = {tuple(pin.split("@")) for file in WORKFLOWS for pin in re.findall(r"uses: (\S+)", file.read_text())}
    assert len(pins) == len({name for name, _ in pins})


def test_images_and_release() -> None:
    (image,) = jobs(REPOSITORY / ".github/workflows/images.yml").values()
    assert image["permissions"] == {"contents": "read", "packages": "write"}
    files = {entry["file"] for entry in image["strategy"]["matrix"]["include"]}
    assert files == {path.name for path in (REPOSITORY / "docker").glob("Dockerfile*")}
    release = jobs(REPOSITORY / ".github/workflows/release.yml")
    assert release["publish"]["permissions"] == {"id-token": "write"} and "permissions" not in release["build"]
    assert "password" not in (REPOSITORY / ".github/workflows/release.yml").read_text()
