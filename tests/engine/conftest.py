"""The real engine, shared by the tests of a module."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lvsa_vllm_omni.tiny.checkpoint import CheckpointError
from tests.support.attended import Attended, Call, watch_attended, watch_calls
from tests.support.capabilities import diffusers_has
from tests.support.engine import start
from tests.support.log import Log

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts the engine."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.engine)


def skipped_without_a_model() -> Any:
    """A checkpoint that the engine's own diffusers cannot write is a reason to skip."""
    try:
        return (yield)
    except CheckpointError:
        if diffusers_has("transformer_cosmos3"):
            raise
        pytest.skip("this engine's diffusers has no Cosmos 3, so that no tiny checkpoint can be written")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    return (yield from skipped_without_a_model())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    return (yield from skipped_without_a_model())


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Wan checkpoint, written as a user would have it written."""
    from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint

    return write_checkpoint("wan", tmp_path_factory.mktemp("checkpoint") / "wan")


@pytest.fixture(scope="session")
def starting(checkpoint: Path) -> Callable[..., Any]:
    """``starting(settings, **engine options)``: a context manager that runs an engine."""

    def starter(settings: dict[str, str] | None = None, **options: Any) -> Any:
        return start(checkpoint, settings or {}, **options)

    return starter


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What arrives in the sparse attention, beside the step that the pipeline publishes."""
    return watch_calls(monkeypatch)


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[Attended]:
    """The sparse calls, each of which is compared with the reference."""
    return watch_attended(monkeypatch)


@pytest.fixture
def log() -> Iterator[Log]:
    """What the plugin logs during the test."""
    import lvsa_vllm_omni.journal  # noqa: F401  # vLLM sets up its loggers anew when it is first imported

    with Log() as lines:
        yield lines
