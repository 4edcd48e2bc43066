"""``lvsa serve``: which variables it sets, what goes through, and what it refuses before anything starts."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lvsa_vllm_omni.cli import serve_run
from lvsa_vllm_omni.cli.main import main

pytest.importorskip("vllm", reason="it starts vLLM's server")


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "wan"
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    (folder / "transformer" / "config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
    return str(folder)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of LVSA's or of the engine's; what a test sets is taken back."""
    for name in os.environ.keys() & {*serve_run.TIMEOUTS, "VLLM_PLUGINS"}:
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", os.environ.copy())


def test_it_becomes_the_engines_server(
    model: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, command: became.append(command))
    words = ["serve", model, "--port", "8000", "--lvsa-window-size", "8", "--max-seconds", "7200", "--ulysses-degree=2"]
    main([*words, "--lvsa-strict=1"])
    ((program, *rest),) = became
    assert Path(program).name == "vllm" and rest == ["serve", model, "--omni", "--port", "8000", "--ulysses-degree=2"]
    assert os.environ["LVSA_WAN_HOOK"] == os.environ["LVSA_STRICT"] == "1" and os.environ["LVSA_WINDOW_SIZE"] == "8"
    assert {os.environ[name] for name in serve_run.TIMEOUTS} == {"7200"}
    lines = capfd.readouterr().out.splitlines()
    who = f"[LVSA] serving {model}: family=wan preset=wan"
    assert lines == [f"{who}; requests from 85 frames on are sparse, shorter ones are dense"]


def test_metrics_of_servers_that_have_ended_are_removed(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone, runs, other = (f"lvsa-metrics-{of}-x" for of in (ended.pid, os.getppid(), "mine"))
    for name in (gone, runs, other):
        (tmp_path / name).mkdir()
    environment: dict[str, str] = {}
    serve_run.prepare([model], environment)
    left = {path.name for path in tmp_path.glob("lvsa-metrics-*")}
    assert left == {runs, other, Path(environment[serve_run.METRICS]).name}
    assert environment[serve_run.METRICS].startswith(str(tmp_path / f"lvsa-metrics-{os.getpid()}-"))


@pytest.mark.parametrize(
    ("set_before", "hook", "said"),
    [
        ({"LVSA_AUTO": "1"}, None, "requests from 85 frames on are sparse"),
        ({"LVSA_ENABLE": "1"}, None, "requests from 85 frames on are sparse"),
        ({"LVSA_SPARSITY_SCALE": "0.5"}, "1", "requests from 41 frames on are sparse"),
        ({"LVSA_AUTO": "1", "LVSA_SPARSITY_SCALE": "0.5"}, None, "requests from 85 frames on are sparse"),
        ({"LVSA_WAN_HOOK": "0"}, "0", "LVSA is off, every request is dense: LVSA_WAN_HOOK says so"),
    ],
)
def test_what_the_user_has_set_stays(model: str, set_before: dict[str, str], hook: str | None, said: str) -> None:
    environment = os.environ
    environment.update(set_before, VLLM_PLUGINS="mine", **{serve_run.TIMEOUTS[0]: "99"})
    command, line = serve_run.prepare([model, "--omni", "--max-seconds", "50"], environment)
    assert said in line and command.count("--omni") == 1
    assert environment.get("LVSA_WAN_HOOK") == hook and environment["VLLM_PLUGINS"] == "mine,lvsa"
    assert [environment[name] for name in serve_run.TIMEOUTS] == ["99", "50"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--port", "8000"], "the model comes first, got --port: lvsa serve MODEL --port 8000"),
        (["/nowhere"], "/nowhere: no such folder"),
        (
            ["MODEL", "--lvsa-windowsize", "8"],
            "LVSA_WINDOWSIZE is not a setting of LVSA; did you mean LVSA_WINDOW_SIZE?",
        ),
        (["MODEL", "--lvsa-window-size", "many"], "LVSA_WINDOW_SIZE"),
        (["MODEL", "--lvsa-strict"], "--lvsa-strict has no value: --lvsa-strict=1 switches it on"),
        (["MODEL", "--max-seconds", "long"], "--max-seconds long: give a whole number of seconds, such as 7200"),
    ],
)
def test_bad_input_is_one_sentence(
    model: str, words: list[str], sentence: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *(model if word == "MODEL" else word for word in words)]) == 2
    out, said = capfd.readouterr()
    assert not out and said.startswith("lvsa serve: ") and sentence in said and said.count("\n") == 1


def test_help_has_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    assert "example: lvsa serve" in capfd.readouterr().out
    assert main(["serve"]) == 0
    assert "usage: lvsa serve MODEL" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"LVSA_ANCHOR_POSITIONS": "remap", "LVSA_WINDOW_SIZE": "80"}, "half window must be at most 19 latent frames"),
        (
            {"LVSA_ROTATE_AFTER": "0.5", "LVSA_ROTATE_KEYFRAMES": "0"},
            "LVSA_ROTATE_KEYFRAMES=0 leaves LVSA_ROTATE_AFTER",
        ),
        ({"LVSA_ROTATE_AFTER": "0.5", "LVSA_ROTATE_KEYFRAMES": "0"}, "LVSA_ROTATE_KEYFRAMES=0 leaves LVSA_ROTATE_AFT"),
    ],
)
def test_what_the_server_would_refuse_is_refused_here(
    model: str, given: dict[str, str], said: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    os.environ.update(given, TMPDIR=str(tmp_path))
    assert main(["serve", model]) == 2
    error = capfd.readouterr().err
    assert said in error and error.count("\n") == 1
    assert serve_run.METRICS not in os.environ
