"""The *_generate.py examples on tiny checkpoints: videos, records, and one sentence for each refusal."""

import importlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from functools import lru_cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch

from lvsa_core import plan
from lvsa_core.facts import shipped
from lvsa_core.kernels import select
from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

EXAMPLES = Path(__file__).parents[2] / "examples"

#: Example -> kind of checkpoint, video frames beyond the training length, latent frames of both.
FAMILIES = {
    "wan": ("wan", 97, 25, 21),
    "hunyuan": ("hunyuan", 145, 37, 33),
    "cosmos": ("cosmos3", 201, 51, 48),
    "cogvideox": ("cogvideox", 65, 17, 13),
}
SMALL = ("--height", "64", "--width", "64", "--steps", "2", "--output-name", "clip")

Main = Callable[..., int]
Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """What `python examples/wan_generate.py` can import; and one thread, as the models are tiny."""
    sys.path.insert(0, str(EXAMPLES))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint of a kind."""

    @lru_cache
    def write(kind: str) -> Path:
        with redirect_stderr(io.StringIO()):  # its progress is none of the example's output
            return write_checkpoint(kind, tmp_path_factory.mktemp("tiny") / kind)

    return write


@pytest.fixture
def run(tiny: Callable[[str], Path], tmp_path: Path) -> Main:
    """``run(example, *flags)``: its exit code; files go to ``tmp_path / "out"`` and flags of the caller win."""

    def runner(example: str, *flags: str) -> int:
        module = importlib.import_module(f"{example}_generate")
        (model,) = (value for value in vars(module).values() if type(value).__name__ == "Model")
        given = ("--model", str(tiny(FAMILIES[example][0])), *SMALL, "--output-dir", str(tmp_path / "out"), *flags)
        code: int = module.main(model, module.__doc__, given)
        return code

    return runner


def record(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "out" / "clip.json").read_text())
    return value


@pytest.mark.parametrize("example", FAMILIES)
def test_defaults_are_those_of_the_preset(example: str) -> None:
    module = importlib.import_module(f"{example}_generate")
    (model,) = (value for value in vars(module).values() if type(value).__name__ == "Model")
    made = importlib.import_module("generate_flags").parser(model, "").parse_args([])
    preset = shipped()[model.preset]
    for name in ("frames", "height", "width", "steps", "guidance", "fps"):
        assert getattr(made, f"num_{name}" if name == "frames" else name) == preset[name]


@pytest.mark.parametrize("example", FAMILIES)
def test_makes_a_long_video(example: str, run: Main, tmp_path: Path, capsys: Output) -> None:
    _, frames, latent, reference = FAMILIES[example]
    assert run(example, "--lvsa", "--num-frames", str(frames)) == 0, capsys.readouterr().err
    made = record(tmp_path)
    pattern = plan(latent, reference_frames=reference, step=1)
    assert made["lvsa"]["frames"] == latent and made["lvsa"]["sparse_steps"] == made["lvsa"]["steps"] == 2
    assert made["lvsa"]["density"] == pattern.density and made["lvsa"]["kernel"] and not made["lvsa"]["reason"]
    assert made["video"]["frames"] == frames and (tmp_path / "out" / "clip.mp4").stat().st_size > 1000
    assert made["settings"]["num_frames"] == frames and made["timings_s"]["generation"] > 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[LVSA]")]
    assert lines[0].startswith(f"[LVSA] total_lat_frames={latent} window=3 n_first=1 kfi={pattern.keyframe_interval} ")
    assert lines[-1] == f"[{made['lvsa']['summary'].replace('LVSA', 'LVSA]', 1)}"


def test_without_lvsa_it_is_the_untouched_pipeline(run: Main, tmp_path: Path, capsys: Output) -> None:
    assert run("wan", "--num-frames", "17", "--fps", "12") == 0
    assert record(tmp_path)["lvsa"] is record(tmp_path)["knobs"] is None and record(tmp_path)["video"]["fps"] == 12.0
    assert "[LVSA] off: every frame attends to every frame; --lvsa switches it on" in capsys.readouterr().out
    assert "vqeval" not in record(tmp_path)
    assert run("wan", "--num-frames", "17", "--lvsa", "--evaluate") == 0
    assert record(tmp_path)["lvsa"]["sparse_steps"] == 0
    assert record(tmp_path)["vqeval"]["video"]["frames"] == 17 and record(tmp_path)["vqeval"]["dimensions"]["freeze"]
    assert "[LVSA] total_lat_frames=5 dense: within the attention budget of 21 latent" in capsys.readouterr().out


def test_every_knob_arrives(run: Main, tmp_path: Path, capsys: Output) -> None:
    knobs = (
        "--lvsa --backend sdpa --window-size 4 --n-first-frames 8 --key-frame-interval 20 --no-rotate-keyframes "
        "--reference-latent-frames 5 --sparsity-scale 1.2 --riflex --riflex-k 1 --riflex-train-len 6 --show-mask "
        "--profile --steps 3 --num-frames 45"
    )
    assert run("wan", *knobs.split()) == 0, capsys.readouterr().err
    made, pattern = record(tmp_path), plan(12, reference_frames=5, window=1, n_first=2, keyframe_interval=5)
    assert made["lvsa"]["density"] == pattern.density and made["lvsa"]["reference"] == 5
    assert made["knobs"]["riflex_s"] == 2.0 and made["knobs"]["riflex_k"] == 1  # 12 latent frames over 6
    output = capsys.readouterr().out
    assert "[LVSA] step 0, 1, 2: total_lat_frames=12 window=1 n_first=2 kfi=5 " in output  # they do not rotate
    assert (tmp_path / "out" / "clip.png").stat().st_size > 1000
    assert len(made["steps_s"]) == 3 and made["peak_memory_mib"] > 100
    assert "step   2 " in output and "peak memory " in output


def test_draws_every_pattern_of_rotating_anchors(run: Main, capsys: Output) -> None:
    flags = "--lvsa --show-mask --reference-latent-frames 5 --window-size 4 --num-frames 45 --steps 3"
    assert run("wan", *flags.split()) == 0
    output = capsys.readouterr().out
    assert [f"[LVSA] step {step}: " in output for step in range(3)] == [True] * 3
    assert output.count("\nX") + output.count("\nG") >= 3 * 12 - 3  # rows of letters, one a frame


def test_the_recipe(run: Main, tmp_path: Path, capsys: Output) -> None:
    """What is printed before is what has run: positions, weight, and for how long the anchors stand still."""
    flags = "--lvsa --recipe long --window-size 8 --reference-latent-frames 5 --num-frames 45 --steps 5 --show-mask"
    assert run("wan", *flags.split()) == 0
    special = "anchor_positions=remap group=5 shift=2 anchor_boost=1 rotate_after=0.6"
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[LVSA]")]
    assert special in lines[0] and special in lines[-1]
    assert [line.partition(":")[0] for line in lines[1:3]] == ["[LVSA] step 0, 1, 2, 3", "[LVSA] step 4"]


def test_riflex_without_lvsa_changes_a_dense_video(run: Main, tmp_path: Path) -> None:
    flags = ("--num-frames", "45", "--reference-latent-frames", "5")
    videos = []
    for riflex in ([], ["--riflex"], ["--riflex", "--riflex-s", "1"]):
        assert run("wan", *(flags if riflex else flags[:2]), *riflex) == 0
        videos.append((tmp_path / "out" / "clip.mp4").read_bytes())
    assert record(tmp_path)["lvsa"]["sparse_steps"] == 0
    assert videos[0] != videos[1] and videos[0] == videos[2]


REFUSED = [
    ("wan", "--model none", "--model none: no such folder"),
    ("wan", "--num-frames 82", "82 frames cannot be made, the length is 4 * k + 1: take 81 or 85"),
    ("wan", "--height 100", "height 100 cannot be made, it is a multiple of 16: take 96 or 112"),
    ("wan", "--window-size 8", "--window-size has an effect with --lvsa only: give that too"),
    ("wan", "--no-rotate-keyframes", "--rotate-keyframes has an effect with --lvsa only: give that too"),
    ("wan", "--lvsa --riflex-k 2", "--riflex-k has an effect with --riflex only: give that too"),
    ("wan", "--reference-latent-frames 5", "--reference-latent-frames has an effect with --lvsa or --riflex only"),
    ("wan", "--lvsa --window-size -1", "window_size must be an integer of at least 0, got -1"),
    ("wan", "--lvsa --recipe longer", "there is no recipe 'longer': there is long"),
    ("cosmos", "--lvsa --recipe long", "anchor_positions=remap, which the recipe has too, is for models that turn"),
    ("wan", "--lvsa --backend fast", "there is no attention kernel 'fast': choose one of auto, flash"),
    ("wan", "--riflex --riflex-s 0.5", "the RIFLEx factor s must be a number of at least 1"),
    ("cogvideox", "--riflex", "RIFLEx is for models whose transformer makes the tables"),
]


@pytest.mark.parametrize(("example", "flags", "sentence"), REFUSED)
def test_refuses_with_one_sentence(
    example: str, flags: str, sentence: str, run: Main, tmp_path: Path, capsys: Output
) -> None:
    assert run(example, *flags.split()) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {sentence}") and output.err.count("\n") == 1 and output.out == ""
    assert not (tmp_path / "out").exists()


def test_refuses_a_checkpoint_of_another_model(run: Main, tiny: Callable[[str], Path], capsys: Output) -> None:
    assert run("hunyuan", "--model", str(tiny("wan"))) == 2
    assert "is for WanPipeline, and this example is for HunyuanVideo15Pipeline" in capsys.readouterr().err


@pytest.mark.skipif(torch.accelerator.is_available(), reason="tells what a machine without an accelerator says")
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            "--lvsa --flashinfer",
            "attention kernel 'flashinfer' does not run for torch.float32 with head size 32 on cpu",
        ),
        ("--offload", "--offload keeps weights on the host of an accelerator, and this machine has no accelerator"),
    ],
)
def test_refuses_what_needs_an_accelerator(flags: str, sentence: str, run: Main, capsys: Output) -> None:
    assert run("wan", *flags.split()) == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


def test_cosmos_names_the_way_without_its_guardrail(run: Main, capsys: Output, monkeypatch: Any) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "cosmos_guardrail" else find(name))
    assert run("cosmos") == 2
    assert "not installed: uv pip install cosmos_guardrail, or leave the checks out with --no-g" in (
        capsys.readouterr().err
    )
    assert run("cosmos", "--no-guardrail", "--num-frames", "5") == 0


@pytest.mark.parametrize("package", ["diffusers", "sentencepiece", "protobuf"])
def test_a_package_that_is_missing(package: str, run: Main, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """CogVideoX's tokenizer needs two that diffusers does not."""
    _hide(package, monkeypatch)
    assert run("cogvideox") == 2
    assert capsys.readouterr().err == f"error: not installed: {package}; see examples/README.md\n"


def test_flashinfer_that_is_missing(run: Main, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that could run it; this one only says that it is one."""
    from lvsa_core.kernels import flashinfer

    find = importlib.util.find_spec
    monkeypatch.setattr(flashinfer, "unfit", lambda *args, **options: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "flashinfer" else find(name))
    monkeypatch.setattr("generate.select", lambda name, device, dtype, size: select(name, device, dtype, 128))
    assert run("wan", "--lvsa", "--flashinfer") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: attention kernel 'flashinfer' does not run") and said.count("\n") == 1
    assert "FlashInfer is not installed: pip install flashinfer-python" in said


def _hide(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import generate

    known = generate.version

    def version(name: str) -> str:
        if name == package:
            raise PackageNotFoundError(name)
        return str(known(name))

    monkeypatch.setattr(generate, "version", version)


def test_the_peak_that_an_older_pytorch_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import generate_profile

    monkeypatch.setattr(torch, "accelerator", SimpleNamespace())
    monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace())
    assert generate_profile.peak_memory_mib(torch.device("cuda")) is None


def test_output_that_cannot_be_written_is_found_first(run: Main, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "out").write_text("a file")
    assert run("wan") == 2
    assert capsys.readouterr().err.startswith(f"error: --output-dir {tmp_path / 'out'} cannot be written to: ")


def test_a_failure_leaves_older_files_alone(run: Main, tmp_path: Path, tiny: Any, capsys: Output) -> None:
    assert run("wan", "--num-frames", "5") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    broken = write_checkpoint("wan", tmp_path / "broken")
    for weights in (broken / "transformer").glob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:1000])
    capsys.readouterr()
    assert run("wan", "--model", str(broken)) == 1
    assert "error: " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_as_a_program(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    """From another folder, as a user may; the names of the files tell prompt and settings."""
    flags = ["--lvsa", "--num-frames", "85", "--height", "64", "--width", "64", "--steps", "2", "--prompt", "A cat!"]
    command = [sys.executable, str(EXAMPLES / "wan_generate.py"), "--model", str(tiny("wan")), *flags]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=one_thread, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "2/2" in done.stderr and "2 of 2 steps sparse" in done.stdout
    assert sorted(path.suffix for path in (tmp_path / "outputs").glob("a-cat-*")) == [".json", ".mp4"]
