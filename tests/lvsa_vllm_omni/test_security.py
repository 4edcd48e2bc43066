"""What a request or a file brings is data: nothing of it is run, no path of it opened, no secret is told."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lvsa_vllm_omni import request_journal
from lvsa_vllm_omni.cli.main import main
from lvsa_vllm_omni.latents import Keeper, LatentsError, read
from lvsa_vllm_omni.presets import PresetError, load_preset
from lvsa_vllm_omni.request_knobs import NAMES, chosen
from lvsa_vllm_omni.settings import LvsaSettings

SECRET = "hunter2-is-no-setting"


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.file, "sprung")


def test_files_are_data_and_never_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sprung, file = tmp_path / "sprung", tmp_path / "latents.safetensors"
    file.write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(LatentsError):
        read(file)
    assert main(["decode", str(file), "--model", str(tmp_path), "-o", str(tmp_path / "x.mp4")]) == 2
    capsys.readouterr()
    with pytest.raises(PresetError):
        load_preset(str(file.rename(tmp_path / "preset.toml")))
    assert not sprung.exists()
    pickle.loads((tmp_path / "preset.toml").read_bytes())
    assert sprung.exists(), "the trap works"


def test_a_request_names_no_file() -> None:
    """Of the settings that are paths a request may bring none, nor what decides for other requests."""
    assert not {*NAMES} & {"preset", "journal", "keep_latents", "config", "backend", "skip_kernels", "strict", "cpu"}
    for name in ("preset", "journal", "keep_latents"):
        with pytest.raises(ValueError, match=f"has no knob '{name}'"):
            chosen(LvsaSettings(), {name: "/etc/passwd"})


def test_a_request_chooses_no_place(tmp_path: Path) -> None:
    """Its id, which a client may choose, becomes a plain name in the folder of the latents."""
    import torch

    for name in ("../../etc/cron.d/x", "/abs", "..", "a\0b", "x" * 5000, ""):
        keeper = Keeper(tmp_path / "kept", pytest.fail)
        keeper.begin([SimpleNamespace(request_id=name, sampling_params=None)])
        with keeper.decoding(SimpleNamespace(), torch.zeros(1, 2, 1, 2, 2)):
            (file,) = keeper.folder.iterdir()
            assert len(file.name) < 150
        keeper.end(())
    assert {path.name for path in tmp_path.iterdir()} == {"kept"}


@pytest.mark.slow
def test_no_secret_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_LVSA_SECRET"):
        monkeypatch.setenv(name, SECRET)
    for words in (["env"], ["env", "--json"], ["doctor", "--json"], ["models"]):
        main(words)
    assert SECRET not in "".join(capsys.readouterr())
    journal = tmp_path / "journal.jsonl"
    asked = SimpleNamespace(extra_args={"lvsa": {"window_size": 8}, "key": SECRET}, prompt=SECRET)
    request = SimpleNamespace(request_id="one", prompt=SECRET, sampling_params=asked)
    request_journal.tell(str(journal), "Pipeline", [request], request_journal.Ran("wan"), 0.0)
    assert json.loads(journal.read_text())["request"] == "one" and SECRET not in journal.read_text()
