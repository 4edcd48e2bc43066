"""What all commands have in common: help with an example, exit status 0, 1 or 2, and nothing imported in vain."""

import argparse
import json
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from lvsa_vllm_omni.cli import CommandError, CommandFailed
from lvsa_vllm_omni.cli import main as cli
from lvsa_vllm_omni.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[3]
#: What takes long to import. pydantic's core is there where settings are checked.
HEAVY = {"torch", "numpy", "vllm", "vllm_omni", "diffusers", "transformers", "matplotlib", "jinja2", "pydantic"}

#: For each command, arguments that it refuses, and the beginning of its sentence.
WRONG = {
    "serve": (["/nowhere"], "/nowhere: no such folder"),
    "env": ([], "LVSA_WINDOW is not a setting of LVSA; did you mean LVSA_WINDOW_SIZE?"),
    "doctor": (["--markdown"], "--markdown is for the table: give --matrix too"),
    "models": (["--matrix"], None),
    "show": (["--frames", "many", "--preset", "wan2.1-14b"], "--frames must be a number of video frames"),
    "bench": (["--frames", "many", "--preset", "wan2.1-14b"], "--frames must be a number of video frames"),
    "decode": (["/nowhere", "--model", "/nowhere", "-o", "one.mp4"], "/nowhere"),
    "tiny-checkpoint": (["sora", "/nowhere"], "There is no tiny checkpoint of kind 'sora'."),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_the_command_takes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main([command, "--help"]) == 0
    except SystemExit as ended:
        assert ended.code == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("example: ")]
    words = [word for word in shlex.split(line.removeprefix("example: ")) if not word.startswith("LVSA_")]
    assert words[:2] == ["lvsa", command]
    module: cli.Command = import_module(f"lvsa_vllm_omni.cli.{COMMANDS[command][0]}")  # type: ignore[assignment]
    assert " ".join(module.DESCRIPTION.split()) in " ".join(out.split())
    if command != "serve":  # whose options are the engine's
        assert isinstance(cli._parser(command, module).parse_args(words[1:]), argparse.Namespace)


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert all(f"{name} {line}" in out for name, (_, line) in COMMANDS.items()) and "example: lvsa show " in out


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_input_is_status_2(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if command == "env":
        monkeypatch.setenv("LVSA_WINDOW", "3")
    arguments, sentence = WRONG[command]
    try:
        status: object = main([command, *arguments])
    except SystemExit as ended:  # what argparse refuses
        status = ended.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert sentence is None or (err.startswith(f"lvsa {command}: {sentence}") and err.count("\n") == 1)


@pytest.mark.parametrize(("error", "status"), [(CommandError, 2), (CommandFailed, 1)])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_status_is_the_errors(
    command: str, error: type[CommandError], status: int, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def run(options: argparse.Namespace) -> list[str]:
        raise error("it does not work")

    module: cli.Command = import_module(f"lvsa_vllm_omni.cli.{COMMANDS[command][0]}")  # type: ignore[assignment]
    monkeypatch.setattr(module, "run", run)
    assert main(shlex.split(module.EXAMPLE.partition("lvsa ")[2])) == status
    assert capsys.readouterr() == ("", f"lvsa {command}: it does not work\n")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["env"], *([command, "--help"] for command in COMMANDS)])
def test_nothing_heavy_is_imported_before_it_is_needed(words: list[str]) -> None:
    """In a process of its own; this is what keeps the time of `lvsa --help` and `lvsa env` under 0.3 s."""
    script = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
        "from lvsa_vllm_omni.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stderr.split())
    assert "lvsa_vllm_omni.cli.main" in loaded and loaded & HEAVY == set() and done.stdout
    if words == ["--help"]:
        assert {name for name in loaded if name.startswith("lvsa_")} == {
            "lvsa_vllm_omni", "lvsa_vllm_omni.cli", "lvsa_vllm_omni.cli.main"
        }  # fmt: skip
    assert "pydantic_core" not in loaded or words == ["env"]


def test_every_setting_its_value_and_its_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LVSA_CONFIG", '{"strict": true, "window_size": 4}')
    monkeypatch.setenv("LVSA_WINDOW_SIZE", "8")
    monkeypatch.setenv("lvsa_n_first_frames", "1")
    monkeypatch.setenv("LVSA_SPARSITY_SCALE", "")
    monkeypatch.setenv("LVSA_PRESET", "wan2.2-ti2v-5b")
    monkeypatch.setenv("LVSA_TOTAL_STEPS", "50")
    assert main(["env", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    sources = {name: (row["value"], row["source"]) for name, row in told.items() if row["source"] != "default"}
    assert sources == {
        "LVSA_WINDOW_SIZE": (4, "LVSA_CONFIG"),
        "LVSA_STRICT": (True, "LVSA_CONFIG"),
        "LVSA_N_FIRST_FRAMES": (1, "environment variable"),
        "LVSA_PRESET": ("wan2.2-ti2v-5b", "environment variable"),
        "LVSA_CPU": (True, "environment variable"),
        "LVSA_REFERENCE_LATENT_FRAMES": (31, "preset wan2.2-ti2v-5b"),
        "LVSA_VAE_TEMPORAL_FACTOR": (4, "preset wan2.2-ti2v-5b"),
    }
    assert told["LVSA_WINDOW_SIZE"] | {"value": 0, "source": ""} == {
        "type": "int 0 to 1000000", "default": 12, "value": 0, "source": "", "meaning": "half window, video frames"
    }  # fmt: skip
    assert told["LVSA_BACKEND"]["type"] == "auto, sdpa, flash, flashinfer"
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(told)
    assert lines[-1].startswith("LVSA_TOTAL_STEPS is not needed any more: ")
    assert "LVSA_STRICT                   bool                           false    true            LVSA_CONFIG" in lines


def test_only_what_is_set(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVSA_JOURNAL", "lvsa.jsonl")
    assert main(["env", "--set", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["LVSA_JOURNAL", "LVSA_CPU"]
    monkeypatch.delenv("LVSA_JOURNAL")
    monkeypatch.delenv("LVSA_CPU")
    assert main(["env", "--set"]) == 0
    assert capsys.readouterr().out == "Nothing is set: every setting has its default.\n"
    monkeypatch.setenv("LVSA_PRESET", "wan9")
    assert main(["env"]) == 2
    assert capsys.readouterr().err.startswith("lvsa env: no preset is named 'wan9': choose one of cosmos3, ")
