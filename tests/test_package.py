"""What gets installed: every module and data file, one version, and bounds around the engine that the tests run on."""

import json
import re
import shutil
import subprocess
import sys
import tarfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]
#: Where the packages stand in the repository, and in what they install.
PLACES = {
    "lvsa_core": "lvsa_core",
    "lvsa_vllm_omni": "lvsa_vllm_omni",
    "hooks": "lvsa_vllm_omni/hooks",
    "configs": "lvsa_vllm_omni/configs",
    "vqeval": "vqeval",
}


class Wheel(NamedTuple):
    """A built wheel, the checksums of its files, and the sdist beside it."""

    files: set[str]
    metadata: Message
    sums: dict[str, int]
    sdist: Path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """The wheel, built from a copy, so that the repository stays as it is."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for place in PLACES:
        shutil.copytree(REPOSITORY / place, source / place, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    return built(source, out)


def built(source: Path, out: Path) -> Wheel:
    """Build the wheel and the sdist of a source tree into ``out``."""
    program = f"import setuptools.build_meta as m; m.build_sdist({str(out)!r}); m.build_wheel({str(out)!r})"
    ran = subprocess.run([sys.executable, "-c", program], cwd=source, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
    with ZipFile(next(out.glob("*.whl"))) as archive:
        sums = {info.filename: info.CRC for info in archive.infolist()}
        metadata = next(name for name in sums if name.endswith(".dist-info/METADATA"))
        told = Parser().parsestr(archive.read(metadata).decode())
        return Wheel(set(sums), told, sums, next(out.glob("*.tar.gz")))


def test_everything_is_in_the_wheel(wheel: Wheel) -> None:
    """The list of packages in pyproject.toml is written by hand: a new folder is easily forgotten there."""
    expected = {
        (Path(installed) / file.relative_to(REPOSITORY / place)).as_posix()
        for place, installed in PLACES.items()
        for pattern in ("*.py", "*.toml", "*.html", "*.safetensors")
        for file in (REPOSITORY / place).rglob(pattern)
    }
    typed = {f"{installed}/py.typed" for installed in PLACES.values()}
    assert {name for name in wheel.files if ".dist-info/" not in name} == expected | typed


def test_the_sdist_makes_the_same_wheel(wheel: Wheel, tmp_path: Path) -> None:
    """Weights, presets and templates are in it too; tests/docker/test_install_script.py runs what it installs."""
    with tarfile.open(wheel.sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "out").mkdir()
    again = built(next(tmp_path.glob("lvsa_vllm_omni-*")), tmp_path / "out")
    assert "lvsa_vllm_omni/tiny/toy_wan.safetensors" in again.sums
    assert again.sums == wheel.sums


def test_one_version(wheel: Wheel) -> None:
    """It stands in pyproject.toml alone; the changelog's newest entry is the one of that version."""
    newest = re.search(r"^## \[(.+?)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == wheel.metadata["Version"]
    assert "\nversion:" not in (REPOSITORY / "CITATION.cff").read_text()


def test_the_tested_engine_is_within_the_bounds(wheel: Wheel) -> None:
    pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines())
    asked = [Requirement(text) for text in wheel.metadata.get_all("Requires-Dist", [])]
    bounds = {x.name: x.specifier for x in asked if x.marker and x.marker.evaluate({"extra": "engine"})}
    assert set(bounds) >= {"vllm", "vllm-omni"}
    for name in ("vllm", "vllm-omni"):
        assert pins[name] in bounds[name], "the engine that tests run on is within the bounds of the extra"
        major, minor, _ = pins[name].split(".")
        assert f"{major}.{int(minor) + 2}.0" not in bounds[name], "an engine that no test ran on is not"


def test_the_versions_of_diffusers_that_are_named_are_tested() -> None:
    """One is the engine's; ``make test-all`` installs the newest, and records what passed on it."""
    record = json.loads((REPOSITORY / "tests/data/newest_diffusers.json").read_text())
    newest = record["versions"]["diffusers"]
    assert f"tested with {version('diffusers')} and {newest}" in (REPOSITORY / "docs/diffusers.md").read_text("utf-8")
    assert f"diffusers-{newest}\n" in (REPOSITORY / "Makefile").read_text()
    assert set(record["outcomes"]) == {"passed"} and record["outcomes"]["passed"] >= 200


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md", "docs", "benchmarks/README.md"])
def test_files_that_pages_name_are_there(page: str) -> None:
    """Folders move, and pages that name them are easily forgotten."""
    place = REPOSITORY / page
    for file in [place] if place.is_file() else sorted(place.glob("*.md")):
        tops = "benchmarks|configs|docs|examples|hooks|lvsa_core|lvsa_vllm_omni|tests|vqeval"
        named = re.findall(rf"(?<![\w./-])(?:{tops})/[\w./*-]*\w", file.read_text("utf-8"))
        assert [name for name in named if not any(REPOSITORY.glob(name))] == [], file.name
