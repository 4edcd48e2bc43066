"""What a build of the images does, in a fresh environment and as a user without a name; then the demo, there."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.fresh import REPOSITORY, as_stranger, build_context, fresh_environment, python_for_strangers

pytestmark = pytest.mark.slow


class Image(NamedTuple):
    """What a container would have: its files, its environment, and what the build printed."""

    folder: Path
    environment: dict[str, str]
    built: subprocess.CompletedProcess[str]
    before: str

    def run(self, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder / "outputs", env=self.environment, capture_output=True, text=True,
            timeout=timeout, **as_stranger(),  # type: ignore[call-overload]
        )  # fmt: skip


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The steps of docker/Dockerfile below a folder, without its engine: that is the one of this environment."""
    python = python_for_strangers() if os.geteuid() == 0 else sys.executable
    if python is None:
        pytest.skip("no Python of this version that another user may run")
    folder = Path(tempfile.mkdtemp(prefix="lvsa-image-"))
    try:
        folder.chmod(0o755)
        installed = fresh_environment(folder, python)
        source = build_context(folder / "opt")
        (folder / "outputs").mkdir()
        if os.geteuid() == 0:
            for place in (folder / "outputs", folder / "venv", folder / "opt"):
                subprocess.run(["chown", "-R", str(as_stranger()["user"]), place], check=True)
        environment = {
            "PATH": f"{source / 'examples'}:{installed.parent}:/usr/bin:/bin", "HOME": str(folder / "outputs"),
            "USER": "lvsa", "LVSA_CPU": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
            "PYTHON": str(installed), "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        empty = subprocess.CompletedProcess[str]([], 0)
        before = Image(folder, environment, empty, "").run(str(installed), "-m", "pip", "freeze").stdout
        build = Image(folder, environment, empty, before)
        yield build._replace(built=build.run(str(source / "docker/install.sh"), "--no-index", "--no-build-isolation"))
    finally:
        shutil.rmtree(folder)


def test_only_this_package_is_added(image: Image) -> None:
    assert image.built.returncode == 0, image.built.stderr[-2000:]
    after = image.run(image.environment["PYTHON"], "-m", "pip", "freeze").stdout
    added = set(after.splitlines()) - set(image.before.splitlines())
    assert "torch==" in image.before and set(image.before.splitlines()) <= set(after.splitlines())
    assert [line.partition(" ")[0].partition("==")[0] for line in added] == ["lvsa-vllm-omni"]
    assert not list((image.folder / "opt").glob("*.egg-info")) and not (image.folder / "opt/build").exists()


def test_commands_and_entry_points_are_those_of_the_wheel(image: Image) -> None:
    program = (
        "import importlib.metadata as m, lvsa_core, lvsa_vllm_omni, vqeval\n"
        "points = [m.entry_points(group=g + '.general_plugins', name='lvsa') for g in ('vllm', 'vllm_omni')]\n"
        "print(lvsa_core.__file__, lvsa_vllm_omni.__file__, vqeval.__file__, *(p.load().__module__ for (p,) in points))"
    )
    told = image.run(image.environment["PYTHON"], "-c", program)
    assert told.returncode == 0, told.stderr[-2000:]
    *files, first, second = told.stdout.split()
    assert all(Path(file).is_relative_to(image.folder / "venv") for file in files)
    assert first == second == "lvsa_vllm_omni.plugin"
    assert "usage: lvsa serve MODEL" in image.run("lvsa", "serve", "--help").stdout


def test_the_last_step_of_the_build(image: Image) -> None:
    """A builder has no GPU, which is no reason to fail."""
    *_, last = (REPOSITORY / "docker/Dockerfile").read_text().splitlines()
    without = image._replace(environment={name: x for name, x in image.environment.items() if name != "LVSA_CPU"})
    ran = without.run("sh", "-c", last.removeprefix("RUN "))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "switched on: wan, hunyuan, cosmos3" in ran.stdout and "a server started now would compute" in ran.stdout


def test_an_installed_package_that_is_too_old_stops_the_build(image: Image) -> None:
    """PyTorch of the image is too old: it is not replaced, nothing is installed, and pip says what is in the way."""
    source = image.folder / "outputs" / "later"
    shutil.copytree(image.folder / "opt", source)
    text = (source / "pyproject.toml").read_text()
    (source / "pyproject.toml").write_text(text.replace('"torch>=2.6"', '"torch>=99"').replace('"1.', '"9.'))
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", str(as_stranger()["user"]), source], check=True)
    refused = image.run(str(source / "docker/install.sh"), "--no-index", "--no-build-isolation")
    assert refused.returncode != 0 and "torch>=99" in refused.stdout and "conflicting" in refused.stderr
    assert "lvsa-vllm-omni==9" not in image.run(image.environment["PYTHON"], "-m", "pip", "freeze").stdout


def test_an_older_installation_is_replaced(image: Image) -> None:
    """Also one that says that it has the same version."""
    source = image.folder / "outputs" / "changed"
    shutil.copytree(image.folder / "opt", source)
    with (source / "lvsa_core/__init__.py").open("a") as file:
        file.write("CHANGED = True\n")
    if os.geteuid() == 0:
        subprocess.run(["chown", "-R", str(as_stranger()["user"]), source], check=True)
    again = image.run(str(source / "docker/install.sh"), "--no-index", "--no-build-isolation")
    assert again.returncode == 0, again.stderr[-2000:]
    told = image.run(image.environment["PYTHON"], "-c", "import lvsa_core; print(lvsa_core.CHANGED)")
    assert told.stdout == "True\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_folder_of_another_user_is_refused_before_the_engine_starts(image: Image) -> None:
    made = image.run("lvsa", "tiny-checkpoint", "wan", "tiny")
    assert made.returncode == 0, made.stderr[-2000:]
    (image.folder / "of-root").mkdir()
    folder = str(image.folder / "of-root")
    refused = image.run("offline_lvsa.py", "--model", "tiny", "--prompt", "a cat", "--output-dir", folder)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == f"error: --output-dir {folder}: name a folder that this user may write to"


@pytest.mark.engine
@pytest.mark.skipif(find_spec("vllm_omni") is None, reason="needs vLLM-Omni")
def test_the_demo_makes_files_of_that_user(image: Image) -> None:
    done = image.run("demo.py", "--output-dir", "demo", "--horizon", "1.1", timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    demo = image.folder / "outputs" / "demo"
    records = [json.loads(path.read_text()) for path in sorted((demo / "videos").glob("*.json"))]
    assert [record["ran"]["sparse"] for record in records] == [False, True, True]
    for path in (demo / "together.mp4", demo / "together.png", *(demo / "videos").iterdir()):
        assert path.stat().st_size and path.stat().st_uid == as_stranger().get("user", os.geteuid())
