"""The command line of `examples/offline_lvsa.py`, up to the engine: jobs, resume, and one sentence for each refusal."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lvsa_vllm_omni.hooks import forget_families
from tests.support.offline import finish, jobs
from vqeval.checks.clip import write
from vqeval.checks.edits import looped
from vqeval.checks.scenes import pan

pytestmark = pytest.mark.usefixtures("clean_environment")


def test_the_preset_decides_what_is_left_out(offline_lvsa: ModuleType, checkpoint: Path) -> None:
    (job,) = jobs(offline_lvsa, checkpoint)
    settings = job.settings
    assert (settings.family, settings.preset) == ("wan", "wan2.1-1.3b")
    assert (settings.frames, settings.height, settings.width, settings.fps) == (81, 480, 832, 16.0)
    assert (settings.steps, settings.guidance, settings.flow_shift, settings.seed) == (50, 5.0, 3.0, 42)
    assert (settings.backend, settings.lvsa, settings.negative_prompt) == ("auto", {}, None)
    assert settings.plan is not None and settings.plan["reference_frames"] == 21
    assert os.environ["LVSA_WAN_HOOK"] == "1"
    assert job.name == f"001-a-cat-{settings.digest()}"


def test_flags_decide_over_the_preset(offline_lvsa: ModuleType, checkpoint: Path) -> None:
    (job,) = jobs(
        offline_lvsa, checkpoint, "--family", "wan", "--horizon", "4", "--height", "720", "--width", "1280",
        "--steps", "8", "--guidance", "1", "--fps", "23.976", "--flow-shift", "5", "--seed", "7",
        "--negative-prompt", "blurry", "--backend", "sdpa", "--sparsity-scale", "0.5",
        "--reference-latent-frames", "31", "--no-rotate", "--output-name", "cat.mp4",
    )  # fmt: skip
    settings = job.settings
    assert job.name == "cat"
    assert (settings.frames, settings.height, settings.width, settings.fps) == (321, 720, 1280, 23.976)
    assert (settings.steps, settings.guidance, settings.flow_shift, settings.seed) == (8, 1.0, 5.0, 7)
    assert (settings.negative_prompt, settings.backend) == ("blurry", "sdpa")
    assert settings.lvsa == {"sparsity_scale": 0.5, "reference_latent_frames": 31, "rotate_keyframes": False}
    assert settings.plan is not None and settings.plan["reference_frames"] == 31 and not settings.plan["rotate"]
    assert os.environ["LVSA_BACKEND"] == "sdpa"


def test_the_baseline_has_no_lvsa(offline_lvsa: ModuleType, checkpoint: Path) -> None:
    os.environ.update(LVSA_ENABLE="1", LVSA_CONFIG='{"window_size": 8}', LVSA_CPU="1")
    (job,) = jobs(offline_lvsa, checkpoint, "--backend", "dense")
    assert (job.settings.backend, job.settings.lvsa, job.settings.plan) == ("dense", {}, None)
    assert [name for name in os.environ if name.startswith("LVSA_")] == ["LVSA_CPU"]


def test_variables_of_the_caller_stay_valid(offline_lvsa: ModuleType, checkpoint: Path) -> None:
    os.environ.update(LVSA_AUTO="1", LVSA_WINDOW_SIZE="8", LVSA_PRESET="wan2.2-ti2v-5b")
    (job,) = jobs(offline_lvsa, checkpoint, "--horizon", "2", "--height", "704", "--width", "1280")
    assert job.settings.lvsa == {"auto": True, "window_size": 8}
    assert (job.settings.preset, job.settings.frames, job.settings.fps) == ("wan2.2-ti2v-5b", 241, 24.0)
    assert "LVSA_WAN_HOOK" not in os.environ


def test_a_prompt_decides_over_the_command_line(offline_lvsa: ModuleType, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    own = {"prompt": "a dog", "negative_prompt": "", "seed": 7, "horizon": 2, "height": 64, "width": 96}
    file.write_text(json.dumps({"prompt": "a cat"}) + "\n" + json.dumps(own) + "\n")
    first, second = (
        job.settings
        for job in jobs(
            offline_lvsa, checkpoint, "--prompts-file", str(file), "--num-frames", "41", "--negative-prompt", "blurry"
        )
    )
    assert (first.prompt, first.negative_prompt, first.seed, first.frames) == ("a cat", "blurry", 42, 41)
    assert (second.prompt, second.negative_prompt, second.seed, second.frames) == ("a dog", "", 7, 161)
    assert (first.height, first.width, second.height, second.width) == (480, 832, 64, 96)


def test_a_prompt_brings_knobs_of_its_own(offline_lvsa: ModuleType, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    lines: list[dict[str, Any]] = [{"prompt": "a"}, {"prompt": "a", "lvsa": {"window_size": 4}}]
    lines.append({"prompt": "a", "lvsa": {"enabled": False}})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plain, own, dense = jobs(offline_lvsa, checkpoint, "--prompts-file", str(file), "--sparsity-scale", "0.5")
    assert plain.settings.plan and own.settings.plan == {**plain.settings.plan, "window": 1}
    assert dense.settings.plan is None and len({job.settings.digest() for job in (plain, own, dense)}) == 3
    file.write_text(json.dumps({"prompt": "a", "lvsa": {"window": 4}}))
    with pytest.raises(ValueError, match=r"prompt 1: extra_params\.lvsa has no knob 'window'"):
        jobs(offline_lvsa, checkpoint, "--prompts-file", str(file))
    with pytest.raises(ValueError, match="prompt 1: lvsa has no effect with --backend dense"):
        jobs(offline_lvsa, checkpoint, "--prompts-file", str(file), "--backend", "dense")


def test_prompts_keep_their_order_and_names_are_distinct(offline_lvsa: ModuleType, checkpoint: Path) -> None:
    found = jobs(offline_lvsa, checkpoint, "--prompt", "b", "--prompt", "a", "--prompt", "b")
    assert [job.settings.prompt for job in found] == ["b", "a", "b"]
    assert len({job.name for job in found}) == 3


REFUSED: list[tuple[list[str], str]] = [
    (["--prompt", "x", "--num-frames", "82"], "prompt 1: 82 frames cannot be made, the length is 4 * k + 1: take 81"),
    (["--prompt", "x", "--height", "500"], "prompt 1: height 500 cannot be made, it is a multiple of 16: take 496"),
    (["--prompt", " "], "--prompt is blank"),
    (["--prompt", "x", "--family", "cosmos3"], "--family cosmos3: the checkpoint is of the family wan"),
    (["--prompt", "x", "--backend", "dense", "--no-rotate"], "--backend dense is the baseline without LVSA"),
    (["--prompt", "x", "--sparsity-scale", "-1"], "LVSA_SPARSITY_SCALE is '-1.0'"),
    (["--prompt", "x", "--reference-latent-frames", "0"], "LVSA_REFERENCE_LATENT_FRAMES is '0'"),
    (["--prompt", "x", "--prompt", "y", "--output-name", "z"], "--output-name names one video, and there are 2"),
    (["--prompts-file", "none.txt"], "none.txt: cannot read the prompt file"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "sentence"), REFUSED)
def test_refuses_with_one_sentence(
    offline_lvsa: ModuleType, checkpoint: Path, capsys: pytest.CaptureFixture[str], argv: list[str], sentence: str
) -> None:
    assert offline_lvsa.main(["--model", str(checkpoint), *argv]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {sentence}")
    assert output.err.count("\n") == 1 and output.out == ""


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"LVSA_WAN_HOOK": "0"}, "LVSA_* variables switch LVSA off for wan: unset LVSA_WAN_HOOK, or take"),
        ({"LVSA_WINDW": "8"}, "LVSA_WINDW is not a setting of LVSA; did you mean LVSA_WINDOW_SIZE?"),
        ({"LVSA_PRESET": "wan9"}, "no preset is named 'wan9'"),
    ],
)  # fmt: skip
def test_refuses_variables(
    offline_lvsa: ModuleType, checkpoint: Path, capsys: Any, variables: dict[str, str], sentence: str
) -> None:
    os.environ.update(variables)
    assert offline_lvsa.main(["--model", str(checkpoint), "--prompt", "x"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with a family `lab` for Wan's transformer."""
    site = tmp_path / "site"
    files = {
        "lab/__init__.py": "",
        "lab/lab-small.toml": LAB_PRESET,
        "lab-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n",
        "lab-1.0.dist-info/entry_points.txt": "[lvsa.families]\nlab = lab:LAB\n[lvsa.presets]\nlab = lab\n",
    }
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    monkeypatch.syspath_prepend(site)
    forget_families()
    yield
    monkeypatch.undo()
    forget_families()
    sys.modules.pop("lab", None)


LAB_PRESET = """
family = "lab"
reference_latent_frames = 9
vae_temporal_factor = 4
frames = 33
height = 64
width = 64
match.transformer = "WanTransformer3DModel"
"""


@pytest.mark.usefixtures("lab")
def test_a_family_of_an_installed_package(offline_lvsa: ModuleType, checkpoint: Path) -> None:
    (job,) = jobs(offline_lvsa, checkpoint, "--family", "lab")
    assert (job.settings.family, job.settings.preset, job.settings.frames) == ("lab", "lab-small", 33)
    assert os.environ["LVSA_LAB_HOOK"] == "1" and "LVSA_WAN_HOOK" not in os.environ
    assert job.settings.plan is not None and job.settings.plan["reference_frames"] == 9


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--prompt", "x", "--prompts-file", "y"],
        ["--prompt", "x", "--num-frames", "81", "--horizon", "2"],
        ["--prompt", "x", "--horizon", "0"],
        ["--prompt", "x", "--fps", "nan"],
        ["--prompt", "x", "--steps", "0"],
        ["--prompt", "x", "--guidance", "-1"],
        ["--prompt", "x", "--seed", str(2**63)],
        ["--prompt", "x", "--backend", "fast"],
        ["--prompt", "x", "--family", "lab"],
        ["--prompt", "x", "--engine-args", "[]"],
        ["--prompt", "x", "--output-name", "../x"],
    ],
)
def test_the_parser_refuses(offline_lvsa: ModuleType, checkpoint: Path, argv: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        offline_lvsa.main(["--model", str(checkpoint), *argv])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: folder / "none", "no such folder"),
        (lambda folder: folder, "not a checkpoint in the diffusers layout ([Errno 2] No such file"),
        (lambda folder: "owner/none", "no such folder, and no such model on the Hugging Face Hub"),
    ],
)
def test_refuses_what_is_no_checkpoint(
    offline_lvsa: ModuleType, tmp_path: Path, capsys: Any, monkeypatch: Any, make: Any, sentence: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = str(make(tmp_path))
    assert offline_lvsa.main(["--model", model, "--prompt", "x"]) == 2
    assert capsys.readouterr().err.startswith(f"error: --model {model}: {sentence}")


def test_a_finished_batch_starts_no_engine(
    offline_lvsa: ModuleType, checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    argv = ["--prompt", "a", "--prompt", "b", "--output-dir", str(tmp_path)]
    for job in jobs(offline_lvsa, checkpoint, *argv):
        finish(job, tmp_path)
    assert offline_lvsa.main(["--model", str(checkpoint), *argv]) == 0
    assert capsys.readouterr().out == f"2 videos in {tmp_path}, 2 of them finished already\n"


def test_finished_videos_are_evaluated_once(
    offline_lvsa: ModuleType, checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    """A loop, and a file that is no video: a warning each, and no engine."""
    argv = ["--prompt", "a", "--prompt", "b", "--output-dir", str(tmp_path)]
    first, second = jobs(offline_lvsa, checkpoint, *argv)
    for job in (first, second):
        finish(job, tmp_path)
    write(looped(pan(64), 16), first.video(tmp_path))
    command = ["--model", str(checkpoint), *argv, "--evaluate"]
    assert offline_lvsa.main(command) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert warnings[0].startswith(f"warning: {first.name}: the video is a loop: ")
    assert warnings[1].startswith(f"warning: {second.name}: the video could not be judged: ")
    made = json.loads(first.record(tmp_path).read_text())
    assert made["vqeval"]["dimensions"]["loop"]["lag_seconds"] == 1.0
    assert made["vqeval"]["video"]["path"] == first.video(tmp_path).name
    assert offline_lvsa.is_finished(first, tmp_path)
    assert "is not a video" in json.loads(second.record(tmp_path).read_text())["vqeval"]["error"]
    assert offline_lvsa.main(command) == 0
    assert capsys.readouterr().err == ""


def test_evaluation_without_its_packages(
    offline_lvsa: ModuleType, checkpoint: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lvsa_vllm_omni.offline.evaluate.PACKAGES", ("vqeval", "no_such_package"))
    argv = ["--model", str(checkpoint), "--prompt", "a", "--output-dir", str(tmp_path), "--evaluate"]
    assert offline_lvsa.main(argv) == 2
    expected = "error: --evaluate needs what is not installed: no_such_package; install the extra vqeval\n"
    assert capsys.readouterr().err == expected


def test_a_changed_setting_is_not_finished(offline_lvsa: ModuleType, checkpoint: Path, tmp_path: Path) -> None:
    folder = ("--output-name", "clip", "--output-dir", str(tmp_path))
    (job,) = jobs(offline_lvsa, checkpoint, *folder)
    finish(job, tmp_path)
    for change in (["--seed", "1"], ["--no-rotate"], ["--backend", "dense"], ["--fps", "24"]):
        os.environ.pop("LVSA_ROTATE_KEYFRAMES", None)
        os.environ.pop("LVSA_WAN_HOOK", None)
        (other,) = jobs(offline_lvsa, checkpoint, *folder, *change)
        assert not offline_lvsa.is_finished(other, tmp_path), change


def test_a_kernel_that_is_not_there_starts_no_engine(
    offline_lvsa: ModuleType, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.environ["LVSA_CPU"] = "1"
    argv = ["--model", str(checkpoint), "--prompt", "x", "--output-dir", str(tmp_path / "out"), "--backend", "flash"]
    assert offline_lvsa.main(argv) == 2
    assert capsys.readouterr().err == (
        "error: LVSA_BACKEND=flash cannot run here: it needs a CUDA device, not cpu; choose auto or sdpa\n"
    )
