"""Shared by all tests: a clean environment, the CPU platform where there is no accelerator, and the record of a run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.record import Record, versions

# The engine picks its platform once, at import, so this stands before any test can import it. The platform itself looks
# whether an accelerator is present, and stays away if so.
os.environ["LVSA_CPU"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
STARTUP = Path(__file__).parent / "support" / "startup"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(STARTUP), os.environ.get("PYTHONPATH")]))
# Where tests run in several processes, each takes its share of the cores: threads that wait for each other's core spin.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


def pytest_report_header() -> str:
    return "on: " + ", ".join(f"{name} {number}" for name, number in versions().items())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, metavar="FILE", help="write date, versions and outcomes to this JSON file")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--record")
    if file and not hasattr(config, "workerinput"):  # where tests run in several processes, the first one hears of all
        config.pluginmanager.register(Record(file))


@pytest.fixture(autouse=True)
def only_the_platform_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees LVSA_* variables of the person who runs the tests."""
    for name in list(os.environ):
        if name.startswith("LVSA_") and name != "LVSA_CPU":
            monkeypatch.delenv(name)


@pytest.fixture
def clean_environment() -> Iterator[None]:
    """No LVSA variables but what a test sets, and none left behind by the script."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.upper().startswith("LVSA_")]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole files go to a process, longest first, so that all processes end together."""

    def first(item: pytest.Item) -> int:
        rooms = item.path.parts
        kinds = ("parallel" in rooms, item.get_closest_marker("engine") is not None, "vqeval" in rooms, True)
        return kinds.index(True)

    items.sort(key=first)
