"""Families and presets of other packages: found by entry points, switched like the shipped ones, or one sentence."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lvsa_vllm_omni import journal, plugin, runner, seam
from lvsa_vllm_omni.cli import models
from lvsa_vllm_omni.cli.main import main
from lvsa_vllm_omni.hooks import (
    SPECS,
    WAN,
    FamilyUnavailable,
    HookError,
    check_names,
    family_names,
    load_family,
    package_of,
)
from lvsa_vllm_omni.presets import PresetError, known_presets, load_preset, match_preset
from lvsa_vllm_omni.settings import LvsaSettings, SettingsError
from tests.support.packages import MODULE, Package

REPOSITORY = Path(__file__).parents[2]

PRESET = 'family = "{name}"\nreference_latent_frames = 9\nvae_temporal_factor = 4\n'


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the plugin warns of."""
    said: list[str] = []
    monkeypatch.setattr(journal.logger, "warning_once", lambda text, *given: said.append(text % given))
    return said


def test_without_packages_there_are_the_shipped_families() -> None:
    assert family_names() == tuple(SPECS)
    assert type(LvsaSettings.load()) is LvsaSettings
    assert [package_of(name) for name in SPECS] == [""] * len(SPECS)


def test_a_package_is_found_and_not_imported(package: Package) -> None:
    package("lab-video")
    assert family_names() == (*SPECS, "lab-video")
    assert package_of("lab-video") == "lvsa-lab"
    check_names()
    assert LvsaSettings.load().mode("lab-video") == "off"
    assert "lab" not in sys.modules
    spec = load_family("lab-video")
    assert (spec.name, spec.setting) == ("lab-video", "LVSA_LAB_VIDEO_HOOK")


@pytest.mark.slow
def test_importing_does_not_look_for_packages() -> None:
    script = (
        "import importlib.metadata\n"
        "scan = importlib.metadata.entry_points\n"
        "def watched(**given):\n"
        "    assert not given['group'].startswith('lvsa'), given\n"
        "    return scan(**given)\n"
        "importlib.metadata.entry_points = watched\n"
        "import lvsa_core, lvsa_vllm_omni.hooks, lvsa_vllm_omni.settings, lvsa_vllm_omni.plugin as plugin\n"
        "try: plugin.LvsaSettings.load()\n"
        "except AssertionError as error: assert 'lvsa.families' in str(error)\n"
        "else: raise SystemExit('nothing was looked for')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({"LVSA_LAB_VIDEO_HOOK": "1"}, "always"),
        ({"LVSA_ENABLE": "1"}, "always"),
        ({"LVSA_AUTO": "1"}, "beyond"),
        ({"LVSA_ENABLE": "1", "LVSA_LAB_VIDEO_HOOK": "0"}, "off"),
        ({"LVSA_WAN_HOOK": "1"}, "off"),
        ({"LVSA_CONFIG": '{"lab_video_hook": true}'}, "always"),
    ],
)
def test_what_switches_it_on(
    variables: dict[str, str], mode: str, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    package("lab-video")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert LvsaSettings.load().mode("lab-video") == mode


def test_wrong_settings_of_it(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVSA_LAB_VIDEO_HOOK", "1")
    with pytest.raises(SettingsError, match="LVSA_LAB_VIDEO_HOOK is not a setting of LVSA"):
        LvsaSettings.load()
    package("lab-video")
    monkeypatch.setenv("LVSA_LAB_VIDEO_HOOK", "maybe")
    with pytest.raises(SettingsError, match="LVSA_LAB_VIDEO_HOOK is 'maybe', but must be a boolean"):
        LvsaSettings.load()
    monkeypatch.delenv("LVSA_LAB_VIDEO_HOOK")
    monkeypatch.setenv("LVSA_LAB_VIDEO_HOK", "1")
    with pytest.raises(SettingsError, match=r"did you mean LVSA_LAB_VIDEO_HOOK\?"):
        LvsaSettings.load()


NAMES = {
    "wan": "the package lvsa-lab registers the family 'wan', but LVSA_WAN_HOOK is taken by LVSA itself: rename",
    "Lab Video": "the package lvsa-lab registers the family 'Lab Video': a name is lower case letters, digits and -",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_name_is_one_sentence(name: str, package: Package) -> None:
    package(name)
    with pytest.raises(HookError) as error:
        plugin.activate(LvsaSettings(), {"wan": "always"})
    assert str(error.value).startswith(NAMES[name])
    assert family_names() == tuple(SPECS)
    assert type(LvsaSettings.load()) is LvsaSettings  # a server without LVSA starts
    assert load_family("wan") is WAN


def test_two_packages_of_one_name_are_refused(package: Package) -> None:
    package("lab-video")
    package("lab_video", name="lab2")
    with pytest.raises(HookError, match=r"package lvsa-lab2 .* LVSA_LAB_VIDEO_HOOK is taken by lvsa-lab: rename"):
        check_names()
    assert family_names() == (*SPECS, "lab-video")


@pytest.mark.parametrize(
    ("value", "text", "sentence"),
    [
        ("LAB", "LAB = 3", "lvsa-lab registers as the family 'lab' 'lab:LAB', which is no FamilySpec but int"),
        ("LAB", MODULE.replace("{name}", "other"), "lvsa-lab registers as the family 'lab' a FamilySpec whose name is"),
    ],
)
def test_a_wrong_object_is_one_sentence(value: str, text: str, sentence: str, package: Package) -> None:
    package("lab", value, text)
    with pytest.raises(HookError, match=sentence):
        plugin.activate(LvsaSettings(), {"lab": "always"})


@pytest.mark.parametrize("text", ["import nowhere", "raise RuntimeError('no\\nway')", "OTHER = 1", "def ("])
def test_a_package_that_cannot_be_imported(
    text: str, package: Package, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    package("lab", "LAB", text)
    monkeypatch.setenv("LVSA_AUTO", "1")
    plugin.activate(LvsaSettings.load(), {"lab": "beyond"})
    (line,) = warnings
    assert line.startswith("[LVSA] the family 'lab' of the package lvsa-lab cannot be imported from 'lab:LAB' (")
    assert line.endswith("): repair or uninstall lvsa-lab") and "\n" not in line
    assert not plugin.is_active()
    monkeypatch.setenv("LVSA_LAB_HOOK", "1")
    with pytest.raises(FamilyUnavailable, match="lvsa-lab cannot be imported from 'lab:LAB'"):
        plugin.activate(LvsaSettings.load(), {"lab": "always"})


def test_a_model_that_the_engine_lacks_is_an_error_only_if_asked_for(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    package("lab")
    plugin.activate(LvsaSettings(), {"lab": "always"})
    assert not plugin.is_active()
    monkeypatch.setenv("LVSA_LAB_HOOK", "1")
    with pytest.raises(HookError, match=r"LVSA_LAB_HOOK: this vLLM-Omni has no lab_engine\.model"):
        plugin.activate(LvsaSettings.load(), {"lab": "always"})


@pytest.mark.parametrize(
    ("variables", "family", "warned"),
    [
        (
            {"LVSA_ENABLE": "1"},
            "wan",
            "'wan' and 'lab' are both for WanTransformer3DModel: it runs with 'wan'; set LVSA_W",
        ),
        ({"LVSA_LAB_HOOK": "1"}, "lab", ""),
        (
            {"LVSA_ENABLE": "1", "LVSA_LAB_HOOK": "1"},
            "lab",
            "it runs with 'lab'; set LVSA_LAB_HOOK=0 to choose the other",
        ),
        (
            {"LVSA_WAN_HOOK": "1", "LVSA_LAB_HOOK": "1"},
            "",
            "it runs with 'wan'; set LVSA_WAN_HOOK=0 to choose the other",
        ),
    ],
)
def test_a_class_has_one_family(
    variables: dict[str, str],
    family: str,
    warned: str,
    package: Package,
    monkeypatch: pytest.MonkeyPatch,
    warnings: list[str],
) -> None:
    package("lab", text=MODULE.replace("lab_engine.model:LabTransformer", WAN.transformer))
    installed: list[Any] = []
    monkeypatch.setattr(seam, "install", lambda spec, adopt: installed.append(spec.name) or (lambda: None))
    monkeypatch.setattr(runner, "install", lambda unused, file: lambda: None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = LvsaSettings.load()
    modes = {name: settings.mode(name) for name in ("wan", "lab") if settings.mode(name) != "off"}
    if not family:
        with pytest.raises(HookError, match=warned):
            plugin.activate(settings, modes)
        return
    plugin.activate(settings, modes)
    assert installed == [family]
    assert len(warnings) == bool(warned) and all(warned in line for line in warnings)


def test_presets_come_with_the_package(package: Package, tmp_path: Path) -> None:
    package(
        "lab", presets={"lab-small": PRESET.format(name="lab") + '[match]\ntransformer = "WanTransformer3DModel"\n'}
    )
    assert load_preset("lab-small").reference_latent_frames == 9
    facts = {"transformer": "WanTransformer3DModel"}
    assert match_preset(facts, "lab").name == "lab-small"
    assert match_preset(facts, "wan").name == "wan"
    (tmp_path / "mine.toml").write_text(PRESET.format(name="lab"))
    assert load_preset(str(tmp_path / "mine.toml")).family == "lab"


def test_a_package_may_bring_nothing_but_presets(package: Package) -> None:
    package("wan", "", presets={"wan-long": PRESET.format(name="wan") + "[match]\nnum_layers = 7\nin_channels = 3\n"})
    assert match_preset({"transformer": "WanTransformer3DModel", "num_layers": 7, "in_channels": 3}).name == "wan-long"
    assert match_preset({"transformer": "WanTransformer3DModel", "num_layers": 8, "in_channels": 3}).name == "wan"


@pytest.mark.parametrize(
    ("preset", "toml", "sentence"),
    [
        ("wan", PRESET.format(name="lab"), "the package lvsa-lab has the preset 'wan', a name that is taken"),
        (
            "lab",
            PRESET.format(name="wan"),
            "lvsa-lab registers presets for the family 'lab', but lab.toml is for 'wan'",
        ),
        (
            "lab",
            PRESET.format(name="vhs"),
            "preset lab: family is 'vhs', but must be one of wan, hunyuan, cosmos3, lab",
        ),
    ],
)
def test_wrong_presets_are_one_sentence(
    preset: str, toml: str, sentence: str, package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    package("lab", presets={preset: toml})
    with pytest.raises(PresetError, match=sentence):
        known_presets("lab")
    assert set(known_presets("wan"))  # other families do not suffer
    assert main(["models"]) == 2
    assert sentence in capsys.readouterr().err


def test_presets_of_a_package_that_cannot_be_imported(package: Package) -> None:
    package("lab", text="import nowhere", presets={"lab": PRESET.format(name="lab")})
    with pytest.raises(
        PresetError, match=r"presets of the package lvsa-lab cannot be read from 'lab' \(ModuleNotFound"
    ):
        known_presets("lab")


def test_the_tables_of_the_documentation_are_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--markdown"]) == 0
    text = (REPOSITORY / "docs" / "models.md").read_text()
    between = text.split("<!-- models -->\n")[1].split("<!-- /models -->")[0]
    assert between == capsys.readouterr().out, "write what `lvsa models --markdown` prints between the marks"


def test_the_table_of_models(package: Package, capsys: pytest.CaptureFixture[str]) -> None:
    package("lab", presets={"lab-small": PRESET.format(name="lab")})
    assert main(["models"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len({row.index(word) for row, word in zip(rows, ("switch", *["LVSA_"] * 3), strict=False)}) == 1
    (mine,) = (row for row in rows if row.startswith("lab-small"))
    assert "LVSA_LAB_HOOK=1" in mine and "9 latent frames" in mine and mine.count("not yet") == 2
    markdown = "\n".join(models.markdown())
    assert "lab-small" not in markdown
    assert all(spec.dense in markdown for spec in SPECS.values())
