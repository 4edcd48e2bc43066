"""`lvsa show`: the server's pattern and decision, with numbers, letters and a picture."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lvsa_core import plan, show
from lvsa_vllm_omni.cli.main import main
from lvsa_vllm_omni.measure import cost
from lvsa_vllm_omni.presets import load_preset

WAN = ["show", "--preset", "wan2.1-14b", "--size", "832x480"]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*WAN, *arguments]) == 0
    return capsys.readouterr().out


def numbers(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown(capsys, "--json", *arguments))
    return found


def test_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "--frames", "321").splitlines()
    assert lines[0] == f"{show.summary(plan(81, reference_frames=21))} offset=0"
    assert lines[1] == "wan2.1-14b, 321 frames of 832x480: 81 latent frames of 1,560 tokens, 126,360 in all"
    assert lines[2] == "sparse: beyond the attention budget of 21 latent frames"
    assert lines[3] == "anchors at step 0: 0 6 12 18 24 30 36 42 48 54 60 66 72 78"
    cells = {line[:34].strip(): line[34:].split("  ") for line in lines}
    flop = cells["FLOP of the attention, one layer"]
    assert [cell.strip() for cell in flop if cell] == ["327 T", "84.8 T", "0.259"]
    assert any(line.startswith("End to end at most 2.46 times as fast as dense") for line in lines)
    assert lines[-1] == "LVSA is not switched on here: a server does this with LVSA_WAN_HOOK=1."


def test_the_numbers_are_the_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    found = numbers(capsys, "--frames", "321", "--step", "7", "--tflops", "650", "--bandwidth", "4.3")
    preset = load_preset("wan2.1-14b")
    assert preset.shape is not None
    pattern, grid = plan(81, reference_frames=21, step=7), cost.FrameGrid(81, 1560)
    assert (found["offset"], found["anchors"]) == (1, list(pattern.anchors))
    assert found["density"] == pattern.density and found["verdict"] == "sparse"
    for side, expected in (
        ("dense", cost.dense_attention(preset.shape, grid)),
        ("lvsa", cost.lvsa_attention(preset.shape, grid, pattern)),
    ):
        assert found[side] == {
            "flop": expected.flop,
            "flop_all_layers": 40 * expected.flop,
            "bytes": expected.moved,
            "flop_per_byte": pytest.approx(expected.intensity),
            "memory": expected.memory,
            "seconds_at_least": pytest.approx(expected.flop / 650e12),
        }
    assert found["mean_density"] == pytest.approx((2 * 21 + 4 * 22) / 6 / 81)
    assert 2.44 < found["largest_speedup"] < 2.51


def test_memory_and_its_budget(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = numbers(capsys, "--frames", "321")
    assert found["head_groups"] == 1 and "groups of heads" not in shown(capsys, "--frames", "321")
    monkeypatch.setenv("LVSA_EXTRA_MEMORY", "1")
    less = numbers(capsys, "--frames", "321")
    assert less["head_groups"] > 1 and less["lvsa"]["memory"] <= 1e9 < found["lvsa"]["memory"]
    sentence = f"Attention works in {less['head_groups']} groups of heads, as LVSA_EXTRA_MEMORY asks."
    assert sentence in shown(capsys, "--frames", "321")
    assert numbers(capsys, "--frames", "81")["head_groups"] == 1


def test_it_is_what_the_server_would_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVSA_WINDOW_SIZE", "8")
    monkeypatch.setenv("LVSA_CONFIG", '{"auto_keyframes": false, "key_frame_interval": 40, "rotate_keyframes": false}')
    monkeypatch.setenv("LVSA_WAN_HOOK", "1")
    found = numbers(capsys, "--frames", "321", "--step", "3", "--all-steps")
    assert (found["keyframe_interval"], found["offset"], found["attended"]) == (10, 0, 9 + 5)
    assert found["steps_of_rotation"] == len(found["steps"]) == 1
    text = shown(capsys, "--frames", "321", "--all-steps")
    assert "The anchors do not move: 72 of 81 frames never are one." in text and "not switched on" not in text


@pytest.mark.parametrize(
    ("frames", "environment", "reason"),
    [
        ("81", {}, "within the attention budget of 21 latent frames (training horizon 21)"),
        ("161", {"LVSA_SPARSITY_SCALE": "2"}, "within the attention budget of 42 latent frames (training horizon 21)"),
        (
            "81",
            {"LVSA_AUTO": "1", "LVSA_SPARSITY_SCALE": "0.5"},
            "LVSA_AUTO leaves requests within the training horizon of 21 latent frames alone",
        ),
    ],
)
def test_a_dense_request_says_why(
    frames: str,
    environment: dict[str, str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    text = shown(capsys, "--frames", frames)
    assert f"dense: {reason}\n" in text and "density=100.0%" in text and "at most 1.00 times" in text
    found = numbers(capsys, "--frames", frames, "--all-steps")
    assert (found["verdict"], found["lvsa"]) == ("dense", found["dense"])


@pytest.mark.parametrize("frames", ["321", "161", "101"])
def test_all_steps_is_one_rotation(frames: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = numbers(capsys, "--frames", frames, "--all-steps")
    latent = found["latent_frames"]
    plans = [plan(latent, reference_frames=21, step=step) for step in range(found["keyframe_interval"] + 1)]
    assert [step["anchors"] for step in found["steps"]] == [list(each.anchors) for each in plans[:-1]]
    assert plans[-1] == plans[0]
    counts = Counter(frame for step in found["steps"] for frame in step["anchors"])
    assert found["steps_as_anchor"] == [counts[frame] for frame in range(latent)]
    once = sum(count == 1 for count in counts.values())
    line = f"Within these {len(plans) - 1} steps every frame is an anchor, {once} of {latent} exactly once."
    assert min(counts[frame] for frame in range(latent)) == 1 and line in shown(
        capsys, "--frames", frames, "--all-steps"
    )


def test_rows(capsys: pytest.CaptureFixture[str]) -> None:
    expected = show.rows(plan(41, reference_frames=21, step=2))
    assert numbers(capsys, "--frames", "161", "--step", "2", "--rows")["rows"] == expected
    assert "\n".join(expected) in shown(capsys, "--frames", "161", "--step", "2", "--rows")


def test_png(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from matplotlib.image import imread

    one, several = tmp_path / "one.png", tmp_path / "several.PNG"
    assert f"Drawn: {one}" in shown(capsys, "--frames", "161", "--png", str(one))
    shown(capsys, "--frames", "321", "--all-steps", "--png", str(several))
    for file in (one, several):
        assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    widths = [imread(file, format="png").shape[1] for file in (one, several)]
    assert 3.5 < widths[1] / widths[0] < 4  # four of the six steps


def test_png_of_moved_anchors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The colours of distances, of the model's training."""
    drawn: list[Any] = []
    original = show.figure
    monkeypatch.setattr(show, "figure", lambda *given: drawn.append(original(*given)))
    monkeypatch.setenv("LVSA_RECIPE", "long")
    assert main([*WAN, "--frames", "321", "--png", str(tmp_path / "moved.png")]) == 0
    axis, bar = drawn[0].axes
    assert axis.get_title().endswith("anchors at trained distances, boosted by 1")
    assert bar.get_xlabel().endswith("red: beyond the 21 of the training")
    assert (tmp_path / "moved.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--png", "picture.gif"], "--png must name a file that ends in .png, got 'picture.gif'"),
        (["--png", "/proc/none/picture.png"], "cannot write /proc/none/picture.png: No such file or directory"),
        (["--step", "-1"], "--step must be at least 0, got -1"),
        (["--tflops", "650"], "--bandwidth must be a number above 0, such as 4.3, got nothing"),
        (["--tflops", "nan", "--bandwidth", "4"], "--tflops must be a number above 0, such as 650, got nan"),
        (["--frames", "81,161"], "--frames takes one length here, got '81,161'"),
    ],
)
def test_bad_input(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WAN, "--frames", "161", *arguments]) == 2
    assert capsys.readouterr() == ("", f"lvsa show: {sentence}\n")


def test_without_matplotlib(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert main([*WAN, "--frames", "161", "--png", "picture.png"]) == 1
    assert capsys.readouterr().err == "lvsa show: a figure needs matplotlib: pip install matplotlib\n"


def checkpoint(folder: Path, **changes: Any) -> Path:
    config = {
        "_class_name": "WanTransformer3DModel", "num_attention_heads": 40, "num_layers": 40, "attention_head_dim": 128,
        "ffn_dim": 13824, "patch_size": [1, 2, 2], **changes,
    }  # fmt: skip
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text("{}")
    return folder


def test_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def of(folder: Path, *more: str) -> dict[str, Any]:
        assert main(["show", "--model", str(folder), "--frames", "321", "--json", *more]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    published = of(checkpoint(tmp_path / "published"), "--size", "832x480")
    preset = numbers(capsys, "--frames", "321")
    assert {**published, "model": 0, "request": 0} == {**preset, "model": 0, "request": 0}
    assert published["model"].endswith("published (wan2.1-14b)")
    other = of(checkpoint(tmp_path / "other", num_attention_heads=6, num_layers=3, ffn_dim=77))
    expected = {"heads": 6, "kv_heads": 6, "hidden": 768, "blocks": 3, "ffn": 77, "cross_tokens": 512}
    assert expected.items() <= other["shape"].items()
    assert other["tokens_per_frame"] == 1560 and other["model"].endswith("other (wan)")
    monkeypatch.setenv("LVSA_PRESET", "wan2.2-ti2v-5b")  # the server heeds it too
    assert of(checkpoint(tmp_path / "named"), "--size", "832x480")["keyframe_interval"] == 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patch_size": [], "num_layers": 2}, "does not tell the shape"),
        ({"patch_size": 0, "num_layers": 2}, "does not tell the shape"),
        ({"ffn_dim": "wide"}, "does not tell the shape: ffn is 'wide', but must be a valid integer"),
        ({"num_layers": 2, "ffn_dim": None}, "does not tell the shape: the key 'ffn' is missing"),
    ],
)
def test_a_checkpoint_that_tells_too_little(
    changes: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "--model", str(checkpoint(tmp_path, **changes)), "--frames", "321"]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


def test_anchors_at_other_positions(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three frames tell at which distance they see which anchor; none is more than the training's 20."""
    monkeypatch.setenv("LVSA_RECIPE", "long")
    lines = shown(capsys, "--frames", "321").splitlines()
    assert lines[0].endswith("anchor_positions=remap group=5 shift=4 anchor_boost=1 rotate_after=0.6 offset=0")
    assert lines[5].startswith("frame 0 sees anchors outside of its window at: 14 at -6, 21 at -8,")
    assert lines[7].startswith("frame 80 sees anchors outside of its window at: 0 at +20, 7 at +19,")
    assert lines[8] == "1 is added to the scores of these anchors."
    found = numbers(capsys, "--frames", "321")
    assert max(abs(distance) for pairs in found["distances"].values() for _, distance in pairs) == 20
    assert numbers(capsys, "--frames", "81")["distances"] == {}
    assert shown(capsys, "--frames", "81").splitlines()[0].endswith(" density=100.0% offset=0")
    steps = numbers(capsys, "--frames", "321", "--all-steps")["steps"]
    assert [(step["step"], step["offset"]) for step in steps] == [(0, 0), *((30 + turn, turn) for turn in range(1, 7))]
    monkeypatch.setenv("LVSA_ROTATE_AFTER", "0.94")  # 47 of 50 steps: the last two turns are 48 and 49
    assert [step["step"] for step in numbers(capsys, "--frames", "321", "--all-steps")["steps"]] == [0, 48, 49]
    monkeypatch.setenv("LVSA_WINDOW_SIZE", "80")
    assert main([*WAN, "--frames", "321"]) == 2
    assert "so the half window must be at most 19 latent frames, got 20" in capsys.readouterr().err
    assert main(["show", "--preset", "cosmos3", "--size", "1280x736", "--frames", "321"]) == 2
    assert "and this cosmos3 is not known as one: leave it out" in capsys.readouterr().err


def test_anchors_that_stand_still_at_first(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server does: 0.6 of Wan's 50 steps are 30."""
    monkeypatch.setenv("LVSA_ROTATE_AFTER", "0.6")
    offsets = {step: shown(capsys, "--frames", "321", "--step", str(step)) for step in (0, 29, 30, 31, 33)}
    assert {step: text.splitlines()[0].rpartition("offset=")[2] for step, text in offsets.items()} == {
        0: "0", 29: "0", 30: "0", 31: "1", 33: "3",
    }  # fmt: skip
    told = "\nThe anchors stand still in the first 30 of 50 denoising steps.\n"
    assert all(told in text for text in offsets.values())
    monkeypatch.delenv("LVSA_ROTATE_AFTER")
    assert "stand still" not in shown(capsys, "--frames", "321")


def test_an_interval_longer_than_the_video(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Anchors have been on each of its frames after as many steps: no more of them are looked at."""
    monkeypatch.setenv("LVSA_AUTO_KEYFRAMES", "0")
    monkeypatch.setenv("LVSA_KEY_FRAME_INTERVAL", "1000000")
    main([*WAN, "--frames", "161", "--all-steps", "--json"])
    assert len(json.loads(capsys.readouterr().out)["steps"]) == 41
