"""Packages of other projects, put on the path."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lvsa_vllm_omni import plugin
from lvsa_vllm_omni.hooks import forget_families
from tests.support.packages import MODULE, Package


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """``package(family, object, module text)`` puts a package on the path as an installer would."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(
        family: str, value: str = "LAB", text: str = MODULE, *, name: str = "lab", presets: dict[str, str] | None = None
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text(text.format(name=family))
        for preset, toml in (presets or {}).items():
            (folder / f"{preset}.toml").write_text(toml)
        info = tmp_path / f"lvsa_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lvsa-{name}\nVersion: 1.0\n")
        points = f"[lvsa.families]\n{family} = {name}:{value}\n" if value else ""
        points += f"[lvsa.presets]\n{family} = {name}\n" if presets else ""
        (info / "entry_points.txt").write_text(points)
        forget_families()
        return folder

    yield write
    plugin.deactivate()
    for name in ("lab", "lab2"):
        sys.modules.pop(name, None)
