"""Settings: the documented table is the code's, wrong ones get one sentence."""

import json
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from lvsa_vllm_omni.cpu.detect import accelerator_present
from lvsa_vllm_omni.fields import meanings
from lvsa_vllm_omni.presets import load_preset
from lvsa_vllm_omni.settings import OBSOLETE, LvsaSettings, SettingsError

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"

#: The public names and defaults of the plugin. They do not change.
TABLE = {
    "ENABLE": False,
    "WAN_HOOK": None,
    "HUNYUAN_HOOK": None,
    "COSMOS3_HOOK": None,
    "AUTO": False,
    "BACKEND": "auto",
    "SKIP_KERNELS": None,
    "EXTRA_MEMORY": None,
    "WINDOW_SIZE": 12,
    "N_FIRST_FRAMES": 4,
    "AUTO_KEYFRAMES": True,
    "KEY_FRAME_INTERVAL": 16,
    "ROTATE_KEYFRAMES": True,
    "EXPAND_WINDOW": True,
    "SPARSITY_SCALE": 1.0,
    "REFERENCE_LATENT_FRAMES": None,
    "RIFLEX_SCALE": None,
    "ANCHOR_POSITIONS": "true",
    "ANCHOR_BOOST": 0.0,
    "ROTATE_AFTER": 0.0,
    "RECIPE": None,
    "VAE_TEMPORAL_FACTOR": None,
    "PRESET": None,
    "ALLOW_REQUEST_KNOBS": True,
    "JOURNAL": None,
    "KEEP_LATENTS": None,
    "TILED_DECODING": True,
    "STRICT": False,
    "WARN_FALLBACK": True,
    "MEM_LOG": False,
    "STEP_TIME_LOG": False,
    "MASK_LOG": None,
    "CPU": False,
    "ALLOW_UNTESTED": False,
}


def documented() -> dict[str, tuple[str, str]]:
    """Default and meaning of each row of the table in the documentation."""
    rows = re.findall(r"^\| LVSA_(\w+) \| (.+?) \| (.+) \|$", DOCS.read_text(), re.MULTILINE)
    return {name: (default, meaning) for name, default, meaning in rows}


def test_the_names_and_defaults_are_the_public_ones() -> None:
    assert {field.name.upper(): field.default for field in fields(LvsaSettings)} == TABLE


def test_the_documentation_is_the_code() -> None:
    rows = documented()
    assert list(rows) == [*TABLE, "CONFIG"]
    said = meanings(LvsaSettings)
    for field in fields(LvsaSettings):
        default, meaning = rows[field.name.upper()]
        assert meaning == said[field.name]
        if field.default is not None:
            assert default == str(field.default).lower()
        else:
            assert default in ("false", "off", "preset", "automatic")
    assert re.findall(r"LVSA_(\w+)", DOCS.read_text().split("## No longer needed")[1].split("##")[0]) == [
        name.upper() for name in OBSOLETE
    ]


VALUES = {
    "BACKEND": ("sdpa", "sdpa"),
    "SKIP_KERNELS": ("FlashAttention3,flashinfer", "FlashAttention3,flashinfer"),
    "EXTRA_MEMORY": ("2.5", 2.5),
    "WINDOW_SIZE": ("20", 20),
    "N_FIRST_FRAMES": ("0", 0),
    "KEY_FRAME_INTERVAL": ("8", 8),
    "SPARSITY_SCALE": ("0.5", 0.5),
    "REFERENCE_LATENT_FRAMES": ("33", 33),
    "RIFLEX_SCALE": ("2.5", 2.5),
    "ANCHOR_POSITIONS": ("remap", "remap"),
    "ANCHOR_BOOST": ("-0.5", -0.5),
    "ROTATE_AFTER": ("0.25", 0.25),
    "RECIPE": ("long", "long"),
    "VAE_TEMPORAL_FACTOR": ("8", 8),
    "PRESET": ("wan", "wan"),
    "MASK_LOG": ("3,5-7", "3,5-7"),
    "JOURNAL": ("lvsa.jsonl", "lvsa.jsonl"),
    "KEEP_LATENTS": ("latents", "latents"),
}


@pytest.mark.parametrize("name", TABLE)
def test_each_variable_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = VALUES.get(name, ("yes", True))
    monkeypatch.setenv(f"LVSA_{name}", text)
    assert getattr(LvsaSettings.load(), name.lower()) == value
    if text == "yes":
        monkeypatch.setenv(f"LVSA_{name}", "off")
        assert getattr(LvsaSettings.load(), name.lower()) is False


@pytest.mark.parametrize("name", [name for name in TABLE if name != "CPU"])
def test_each_setting_is_read_from_the_object_which_wins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = VALUES.get(name, ("", True))[1]
    monkeypatch.setenv(f"LVSA_{name}", VALUES.get(name, ("off", None))[0])
    monkeypatch.setenv("LVSA_CONFIG", json.dumps({name.lower(): value}))
    assert getattr(LvsaSettings.load(), name.lower()) == value


def test_a_recipe_sets_what_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVSA_RECIPE", "long")
    monkeypatch.setenv("LVSA_WINDOW_SIZE", "8")
    found = LvsaSettings.load()
    assert (found.anchor_positions, found.window_size, found.anchor_boost, found.rotate_after) == ("remap", 8, 1.0, 0.6)
    monkeypatch.setenv("LVSA_CONFIG", '{"anchor_boost": 0}')
    assert (LvsaSettings.load().anchor_boost, LvsaSettings.load().knobs.anchor_positions) == (0, "remap")
    monkeypatch.setenv("LVSA_ROTATE_KEYFRAMES", "0")  # goes before the recipe's share too
    assert (LvsaSettings.load().rotate_after, LvsaSettings.load().knobs.rotate_keyframes) == (0, False)
    monkeypatch.setenv("LVSA_RECIPE", "short")
    with pytest.raises(SettingsError, match="LVSA_RECIPE"):
        LvsaSettings.load()


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVSA_WINDOW_SIZE", "")
    assert LvsaSettings.load().window_size == 12


WRONG = [
    ("LVSA_WAN_HOK", "1", "LVSA_WAN_HOK is not a setting of LVSA; did you mean LVSA_WAN_HOOK?"),
    ("LVSA_ZZZZZZZZ", "1", "LVSA_ZZZZZZZZ is not a setting of LVSA; see docs/settings.md for the names there are."),
    ("LVSA_ENABLE", "maybe", "LVSA_ENABLE is 'maybe', but must be a boolean: 1, 0, true, false, yes, no, on or off"),
    ("LVSA_BACKEND", "fash", "LVSA_BACKEND is 'fash', but must be 'auto', 'sdpa', 'flash' or 'flashinfer'"),
    ("LVSA_SKIP_KERNELS", "cuDNN,FA3", "LVSA_SKIP_KERNELS is 'cuDNN,FA3', but must be names out of FlashAttention3, "),
    ("LVSA_EXTRA_MEMORY", "-1", "LVSA_EXTRA_MEMORY is '-1', but must be greater than or equal to 0"),
    ("LVSA_WINDOW_SIZE", "-1", "LVSA_WINDOW_SIZE is '-1', but must be greater than or equal to 0"),
    ("LVSA_WINDOW_SIZE", "9" * 400, f"LVSA_WINDOW_SIZE is '{'9' * 400}', but must be less than or equal to 1000000"),
    ("LVSA_ANCHOR_BOOST", "1e308", "LVSA_ANCHOR_BOOST is '1e308', but must be less than or equal to 100"),
    (
        "LVSA_CONFIG",
        '{"window_size": true}',
        "'window_size' in LVSA_CONFIG is True, but must be a number, not true or false",
    ),
    ("LVSA_WINDOW_SIZE", "3.5", "LVSA_WINDOW_SIZE is '3.5', but must be a valid integer"),
    ("LVSA_KEY_FRAME_INTERVAL", "0", "LVSA_KEY_FRAME_INTERVAL is '0', but must be greater than or equal to 1"),
    ("LVSA_SPARSITY_SCALE", "nan", "LVSA_SPARSITY_SCALE is 'nan', but must be a finite number"),
    (
        "LVSA_REFERENCE_LATENT_FRAMES",
        "0",
        "LVSA_REFERENCE_LATENT_FRAMES is '0', but must be greater than",
    ),
    ("LVSA_MASK_LOG", "often", "LVSA_MASK_LOG is 'often', but must be 1, once, N, N-M or N,M,K"),
    ("LVSA_CONFIG", "{", "LVSA_CONFIG is not JSON"),
    ("LVSA_CONFIG", "[1]", "LVSA_CONFIG must be a JSON object, got list"),
    (
        "LVSA_CONFIG",
        '{"window": 3}',
        "'window' in LVSA_CONFIG is not a setting of LVSA; did you mean LVSA_WIN",
    ),
    ("LVSA_CONFIG", '{"window_size": "x"}', "'window_size' in LVSA_CONFIG is 'x', but must be a valid integer"),
    ("LVSA_CONFIG", '{"cpu": true}', "'cpu' in LVSA_CONFIG comes too late to choose the platform: set the variable"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), WRONG)
def test_a_wrong_setting_gets_one_sentence(
    name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        LvsaSettings.load()
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", OBSOLETE)
def test_an_obsolete_name_is_accepted_with_a_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LVSA_CPU")
    monkeypatch.setenv(f"LVSA_{name.upper()}", "50")
    assert LvsaSettings.load() == LvsaSettings()
    (sentence,) = LvsaSettings.obsolete_names()
    assert sentence.startswith(f"LVSA_{name.upper()} is not needed any more: ")
    monkeypatch.delenv(f"LVSA_{name.upper()}")
    monkeypatch.setenv("LVSA_CONFIG", json.dumps({name: 50}))
    assert LvsaSettings.load() == LvsaSettings()
    assert LvsaSettings.obsolete_names() == [sentence]


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "off"),
        ({"LVSA_WAN_HOOK": "1"}, "always"),
        ({"LVSA_ENABLE": "1"}, "always"),
        ({"LVSA_AUTO": "1"}, "beyond"),
        ({"LVSA_AUTO": "1", "LVSA_ENABLE": "1"}, "always"),
        ({"LVSA_ENABLE": "1", "LVSA_WAN_HOOK": "0"}, "off"),
        ({"LVSA_AUTO": "1", "LVSA_WAN_HOOK": "false"}, "off"),
        ({"LVSA_HUNYUAN_HOOK": "1"}, "off"),
    ],
)
def test_what_switches_wan_on(variables: dict[str, str], mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert LvsaSettings.load().mode("wan") == mode


def test_video_frames_become_latent_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    wan = load_preset("wan")
    assert LvsaSettings().plan_arguments(wan) == {
        "reference_frames": 21,
        "window": 3,
        "n_first": 1,
        "sparsity_scale": 1.0,
        "keyframe_interval": None,
        "expand_window": True,
        "rotate": True,
    }
    monkeypatch.setenv(
        "LVSA_CONFIG", '{"auto_keyframes": false, "vae_temporal_factor": 8, "reference_latent_frames": 30}'
    )
    changed = LvsaSettings.load().plan_arguments(wan)
    assert (changed["window"], changed["n_first"], changed["keyframe_interval"]) == (1, 0, 2)
    assert changed["reference_frames"] == 30
    assert LvsaSettings(auto_keyframes=False, key_frame_interval=3).plan_arguments(wan)["keyframe_interval"] == 1


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        ("1", [0, 1, 2, 3, 9]),
        ("once", [0]),
        ("3", [3]),
        ("1-2", [1, 2]),
        ("0,2-3,9", [0, 2, 3, 9]),
        ("0", []),
        ("off", []),
    ],
)
def test_steps_of_the_mask_log(value: str, steps: list[int]) -> None:
    settings = LvsaSettings(mask_log=value)
    assert [step for step in (0, 1, 2, 3, 9) if settings.logs_mask(step, first=step == 0)] == steps


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        LvsaSettings().window_size = 3  # type: ignore[misc]


@pytest.mark.skipif(accelerator_present(), reason="the kernels may run here")
def test_a_kernel_that_needs_a_gpu_is_refused_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LVSA_CPU", raising=False)
    LvsaSettings(backend="flash").check_backend()  # who knows what device the engine finds
    monkeypatch.setenv("LVSA_CPU", "1")
    LvsaSettings(backend="auto").check_backend()
    LvsaSettings(backend="sdpa").check_backend()
    for name in ("flash", "flashinfer"):
        sentence = f"LVSA_BACKEND={name} cannot run here: it needs a CUDA device, not cpu; choose auto or sdpa"
        with pytest.raises(SettingsError, match=sentence):
            LvsaSettings(backend=name).check_backend()


def test_which_kernels_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LvsaSettings.load().kernel == "auto"
    monkeypatch.setenv("LVSA_SKIP_KERNELS", " FlashAttention3, cuDNN ,")
    settings = LvsaSettings.load()
    assert settings.kernel == settings.knobs.backend == "auto,-FlashAttention3,-cuDNN"
    monkeypatch.setenv("LVSA_BACKEND", "sdpa")
    monkeypatch.setenv("LVSA_SKIP_KERNELS", "sdpa")
    with pytest.raises(SettingsError, match="LVSA_SKIP_KERNELS=sdpa leaves out all of sdpa: name fewer"):
        LvsaSettings.load().check_backend()
    monkeypatch.setenv("LVSA_SKIP_KERNELS", "sdpa-concatenated")
    LvsaSettings.load().check_backend()
    monkeypatch.setenv("LVSA_EXTRA_MEMORY", "3")
    assert LvsaSettings.load().knobs.extra_memory == 3.0
