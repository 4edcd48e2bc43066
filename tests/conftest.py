"""Shared by all tests: a clean environment, and the CPU platform where the machine has no accelerator."""

import os
from importlib.metadata import PackageNotFoundError, version

import pytest

# The engine picks its platform once, at import, so this stands before any test can import it. The platform itself looks
# whether an accelerator is present, and stays away if so.
os.environ["LVSA_CPU"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_report_header() -> str:
    """What the tests run on, as several versions may be installed."""
    found = {name: distribution_version(name) for name in ("torch", "vllm", "vllm-omni", "diffusers")}
    return "on: " + ", ".join(f"{name} {version}" for name, version in found.items() if version)


def distribution_version(name: str) -> str | None:
    """The version of an installed distribution, None if there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@pytest.fixture(autouse=True)
def only_the_platform_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees LVSA_* variables of the person who runs the tests."""
    for name in list(os.environ):
        if name.startswith("LVSA_") and name != "LVSA_CPU":
            monkeypatch.delenv(name)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The placements first: beside a process in which engines have run each takes several times as long."""
    items.sort(key=lambda item: "parallel" not in item.path.parts)
