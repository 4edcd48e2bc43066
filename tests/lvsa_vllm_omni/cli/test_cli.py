"""The command line: bad input is one sentence and status 2, and nothing needs the engine."""

import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lvsa_core.facts import shipped
from lvsa_vllm_omni.cli import tiny_checkpoint
from lvsa_vllm_omni.cli.main import main
from lvsa_vllm_omni.hooks import SPECS
from lvsa_vllm_omni.tiny.checkpoint import KINDS

EXAMPLES = Path(__file__).parents[3] / "examples"
WAN = ["--preset", "wan2.1-1.3b", "--size", "832x480"]


@pytest.mark.parametrize("command", ["show", "bench"])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--frames", "81"],
            "name the model with --preset or --model; presets are cosmos3, hunyuan-video-1.5, toy-wan, wan2.1-1.3b, ",
        ),
        (["--frames", "81", "--preset", "wan9"], "no preset is named 'wan9': choose one of cosmos3, "),
        (
            ["--frames", "81", "--preset", "wan"],
            "preset wan does not tell the shape of the model: take one of cosmos3, ",
        ),
        (["--frames", "81", "--model", "nowhere"], "--model nowhere: no such folder"),
        ([*WAN, "--frames", "320"], "320 frames cannot be made, the length is 4 * k + 1: take 317 or 321"),
        ([*WAN, "--frames", "0"], "0 frames cannot be made, the length is 4 * k + 1: take 1"),
        ([*WAN, "--frames", "many"], "--frames must be a number of video frames such as 321, got 'many'"),
        ([*WAN, "--frames", "10005"], "--frames must be at most 10001, got 10005"),
        ([*WAN, "--frames", "321", "--size", "big"], "--size must be width x height in pixels such as 832x480"),
        ([*WAN, "--frames", "321", "--size", "480x840"], "height 840 cannot be made, it is a multiple of 16: take 832"),
    ],
)
def test_bad_input_is_one_sentence(
    command: str, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith(f"lvsa {command}: {sentence}")


@pytest.mark.parametrize("command", ["show", "bench"])
def test_a_wrong_variable_is_the_servers_sentence(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LVSA_WINDOW_SIZE", "wide")
    assert main([command, *WAN, "--frames", "81"]) == 2
    assert capsys.readouterr().err.startswith(f"lvsa {command}: LVSA_WINDOW_SIZE is 'wide', but must be ")
    monkeypatch.delenv("LVSA_WINDOW_SIZE")
    monkeypatch.setenv("LVSA_WINDOW", "12")
    assert main([command, *WAN, "--frames", "81"]) == 2
    assert "did you mean LVSA_WINDOW_SIZE?" in capsys.readouterr().err


def test_wrong_syntax_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["show"], ["paint"], [], ["show", *WAN, "--frames", "81", "--model", "here"]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert "usage: lvsa" in capsys.readouterr().err


@pytest.mark.slow
def test_no_command_needs_the_engine() -> None:
    script = (
        "import sys; from lvsa_vllm_omni.cli.main import main; status = main(sys.argv[1:]);"
        "assert not {'vllm', 'vllm_omni', 'matplotlib'} & sys.modules.keys(); sys.exit(status)"
    )
    command = [sys.executable, "-c", script, "show", *WAN, "--frames", "321"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("total_lat_frames=81 window=3 n_first=1 kfi=6 global_count=14 ")


@pytest.mark.slow
def test_a_reader_that_stops_is_no_error() -> None:
    command = [sys.executable, "-m", "lvsa_vllm_omni.cli", "show", *WAN, "--frames", "2401", "--rows"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("total_lat_frames=601 ")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_step_with_every_tiny_checkpoint(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_checkpoint, "write_checkpoint", lambda kind, directory, **given: Path("/tmp/my model"))
    assert main(["tiny-checkpoint", kind, "somewhere"]) == 0
    wrote, said = capsys.readouterr().out.splitlines()
    assert wrote == f"Wrote a tiny {kind} checkpoint to /tmp/my model"
    words = shlex.split(said.partition(": ")[2])
    if "vllm" in words:
        variables = dict(word.split("=") for word in words[: words.index("vllm")])
        assert variables == {"LVSA_CPU": "1", SPECS[kind.removeprefix("toy-").partition("-")[0]].setting: "1"}
        assert words[words.index("vllm") :][:4] == ["vllm", "serve", "/tmp/my model", "--omni"]
        assert ("--no-guardrails" in words) is (kind == "cosmos3")
        return
    assert words[:2] == ["python", f"examples/{kind}_generate.py"]
    monkeypatch.syspath_prepend(EXAMPLES)
    flags = importlib.import_module("generate_flags")
    (model,) = (x for x in vars(importlib.import_module(f"{kind}_generate")).values() if isinstance(x, flags.Model))
    parsed = flags.parser(model, "").parse_args(words[2:])
    assert (parsed.model, parsed.lvsa) == ("/tmp/my model", True)
    assert parsed.num_frames > shipped()[model.preset]["frames"] and parsed.num_frames % 4 == 1


def test_the_tiny_checkpoint_is_still_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny-checkpoint", "sora", "somewhere"]) == 2
    assert capsys.readouterr().err.startswith("lvsa tiny-checkpoint: There is no tiny checkpoint of kind 'sora'.")
