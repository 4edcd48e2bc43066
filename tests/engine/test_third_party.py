"""A family of another package: what docs/add-a-model.md shows is installed, and the engine runs it."""

import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lvsa_vllm_omni import journal, plugin

PACKAGE = Path(__file__).parents[1] / "data" / "third_party"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package, installed by pip without network; the source is copied, because a build leaves files in it."""
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(PACKAGE, source)
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", site, source], check=True)
    monkeypatch.syspath_prepend(site)
    yield site
    plugin.deactivate()
    sys.modules.pop("lvsa_wan_lab", None)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.LogCaptureFixture]:
    """The plugin's log lines; vLLM's loggers do not propagate to the root."""
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.INFO):
        yield caplog


@pytest.mark.usefixtures("installed")
def test_one_variable_runs_it(starting: Any, calls: list[Any], log: pytest.LogCaptureFixture) -> None:
    with starting({"LVSA_WAN_LAB_HOOK": "1"}) as engine:
        journal.reset()
        engine.video(97, steps=2)
        assert {(call.frames, call.patches, call.queries) for call in calls} == {(25, 16, 400)}
        assert len(calls) == 2 * 2 * 2  # steps, branches of guidance, blocks
        engine.video(17, steps=1)
        assert len(calls) == 2 * 2 * 2
        assert journal.counts == {"request:sparse": 1, "request:dense": 1}
    said = [record.getMessage() for record in log.records if record.getMessage().startswith("[LVSA")]
    (enabled,) = (line for line in said if line.startswith("[LVSA] enabled"))
    assert enabled.startswith("[LVSA] enabled for wan-lab: backend=auto window_size=12 n_first_frames=4")
    (hooked,) = (line for line in said if line.startswith("[LVSA] hooked"))
    assert hooked.startswith("[LVSA] hooked WanTransformer3DModel: blocks=2 family=wan-lab preset=wan-lab-small ref")
    assert sum("family=wan-lab" in line and line.startswith("[LVSA] installed on 2 blocks") for line in said) == 1


@pytest.mark.multiproc
@pytest.mark.skipif(
    torch.accelerator.is_available() and torch.accelerator.device_count() < 2, reason="needs two accelerators"
)
@pytest.mark.usefixtures("installed")
def test_every_process_reads_it(starting: Any, capfd: pytest.CaptureFixture[str]) -> None:
    with starting({"LVSA_WAN_LAB_HOOK": "1", "LVSA_STRICT": "1"}, cfg_parallel_size=2) as engine:
        engine.video(97, steps=1)
    log = "".join(capfd.readouterr())
    line = "[LVSA] installed on 2 blocks num_patches=16 total_lat_frames=25 backend=sdpa family=wan-lab"
    assert log.count(line) == 2, "each worker says it once"
