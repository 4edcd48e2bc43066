"""A fresh environment that has all that this one has, but for this project."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from sysconfig import get_path

REPOSITORY = Path(__file__).parents[2]
#: A user that has no name, no home and no rights here.
STRANGER = 12345


def python_for_strangers() -> str | None:
    """A Python of this version that any user may run; this one may lie in somebody's home."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return shutil.which(name, path="/usr/bin:/usr/local/bin")


def fresh_environment(folder: Path, python: str = sys.executable) -> Path:
    """Make a virtual environment in ``folder`` that sees the packages of this one; returns its Python.

    They are seen and cannot be changed from there: pip leaves alone what is outside of its environment.
    """
    packages = folder / "packages"
    packages.mkdir()
    for entry in Path(get_path("purelib")).iterdir():
        if not entry.name.startswith(("lvsa", "_lvsa", "__editable__")) and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    subprocess.run([python, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "all.pth").write_text(f"{packages}\n")
    return folder / "venv" / "bin" / "python"


def build_context(target: Path) -> Path:
    """What ``docker build`` sends to the builder: the names that .dockerignore lets through."""
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, copy = REPOSITORY / line[1:], target / line[1:]
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy)
    return target


def as_stranger() -> dict[str, object]:
    """Options of subprocess that run a program as another user, where this one may do so; else as this one."""
    return {"user": STRANGER, "group": STRANGER, "extra_groups": []} if os.geteuid() == 0 else {}
