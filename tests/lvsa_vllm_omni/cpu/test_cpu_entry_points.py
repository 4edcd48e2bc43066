"""The entry points of the CPU platform: who asks for it, what they answer, and what they must not import."""

import os
import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from lvsa_vllm_omni import cpu

BOOLEANS = ["1", "0", "true", "False", "YES", "no", "on", "Off", "t", "F", "y", "n"]


@pytest.mark.parametrize("value", BOOLEANS)
def test_lvsa_cpu_reads_as_pydantic_reads_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LVSA_CPU", value)
    assert cpu.cpu_requested() is TypeAdapter(bool).validate_python(value)


@pytest.mark.parametrize("value", ["maybe", "2", " 1", "-1"])
def test_lvsa_cpu_refuses_what_pydantic_refuses(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(bool).validate_python(value)
    monkeypatch.setenv("LVSA_CPU", value)
    with pytest.raises(ValueError, match=r"LVSA_CPU=.*not a boolean"):
        cpu.cpu_requested()


@pytest.mark.parametrize("value", [None, "", "0", "off"])
def test_without_lvsa_cpu_no_platform_and_no_import(value: str | None) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "LVSA_CPU"}
    if value is not None:
        environment["LVSA_CPU"] = value
    code = (
        "import sys; from lvsa_vllm_omni.cpu import omni_platform, vllm_platform\n"
        "assert omni_platform() is None and vllm_platform() is None\n"
        "print(sorted({'torch', 'vllm', 'vllm_omni', 'pydantic', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


@pytest.mark.parametrize("entry_point", [cpu.vllm_platform, cpu.omni_platform])
def test_a_wrong_value_stops_the_process(monkeypatch: pytest.MonkeyPatch, entry_point: object) -> None:
    """vLLM hides an Exception of a platform plugin in its DEBUG log; SystemExit it does not."""
    monkeypatch.setenv("LVSA_CPU", "maybe")
    assert callable(entry_point)
    with pytest.raises(SystemExit, match="LVSA_CPU='maybe'"):
        entry_point()


@pytest.mark.slow
def test_the_entry_points_stay_callable_after_the_platform_is_imported() -> None:
    """A submodule takes the name of a function of its package; vLLM loads the entry points more than once."""
    pytest.importorskip("vllm_omni")
    import lvsa_vllm_omni.cpu.omni
    import lvsa_vllm_omni.cpu.platform  # noqa: F401

    assert callable(cpu.vllm_platform) and callable(cpu.omni_platform)
