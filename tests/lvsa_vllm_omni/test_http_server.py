"""What a server is given, with stand-ins; that a real one ends is in tests/engine/test_serving.py."""

import asyncio
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from lvsa_vllm_omni import http_server
from lvsa_vllm_omni.seam import replace_server

pytestmark = [
    pytest.mark.slow,  # it imports the engine
    pytest.mark.skipif(find_spec("vllm_omni") is None, reason="needs vLLM-Omni"),
]


class Engine:
    """An engine without a worker that can compute."""

    def __init__(self, stages: int, shutdown: bool = False) -> None:
        self.num_stages, self._shutdown_called = stages, shutdown

    async def check_health(self) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        raise EngineDeadError("Stage-0 has no live replica")


@pytest.fixture
def api_server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The engine's module, whose server ends at once and says what it was given."""

    async def serve_http(app: Any, **options: Any) -> Any:
        app.state.given = options
        await asyncio.sleep(0.05)
        return asyncio.sleep(0)

    module = ModuleType("vllm_omni.entrypoints.openai.api_server")
    module.serve_http = serve_http  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(http_server, "INTERVAL", 0.01)
    monkeypatch.setattr("os.kill", lambda *_: None)
    monkeypatch.setattr(http_server, "_cut_off", lambda _: None)  # it would end the tests
    return module


def test_patched_once_and_taken_off_again(api_server: Any) -> None:
    own = api_server.serve_http
    undo = replace_server(http_server.with_an_end)
    patched = api_server.serve_http
    assert replace_server(http_server.with_an_end) is undo and api_server.serve_http is patched is not own
    undo()
    assert api_server.serve_http is own


@pytest.mark.parametrize("options", [{}, {"timeout_graceful_shutdown": 60}])
def test_the_limit_of_connections_is_the_callers_if_it_has_one(api_server: Any, options: dict[str, Any]) -> None:
    replace_server(http_server.with_an_end)
    app = SimpleNamespace(state=SimpleNamespace(engine_client=Engine(stages=2)))

    async def run() -> None:
        await (await api_server.serve_http(app, **options))

    asyncio.run(run())
    assert app.state.given == {"timeout_graceful_shutdown": http_server.GRACE, **options}


@pytest.mark.parametrize(
    ("engine", "code"),
    [(Engine(1), 1), (Engine(1, shutdown=True), None), (Engine(2), None)],
    ids=["lost", "asked to end", "of two stages"],
)
def test_an_error_only_where_a_worker_is_lost(api_server: Any, engine: Engine, code: int | None) -> None:
    """One that was asked to end has no workers either, and one of several stages may still answer."""
    replace_server(http_server.with_an_end)

    async def run() -> None:
        await (await api_server.serve_http(SimpleNamespace(state=SimpleNamespace(engine_client=engine))))

    if code is None:
        asyncio.run(run())
        return
    with pytest.raises(SystemExit) as ended:
        asyncio.run(run())
    assert ended.value.code == code
