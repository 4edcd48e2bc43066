"""The benchmarks of a server, in small, on one real server; and that their page says what they found."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic_core", reason="the benchmark asks the package for its settings")
pytest.importorskip("psutil")
import mixed
import reliability
from server import serving

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A server whose journal and latents cannot be written."""
    with serving(LVSA_JOURNAL="/dev/full", LVSA_KEEP_LATENTS="/dev/full/latents", LVSA_STRICT="1") as running:
        yield running


@pytest.mark.engine
@pytest.mark.skipif(find_spec("vllm_omni") is None, reason="needs vLLM-Omni")
def test_in_small(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mixed, reliability):
        monkeypatch.setattr(module, "serving", lambda **_: nullcontext(server))
    many = reliability.clients(count=4, workers=2, seed=2)
    assert many["videos"] and not many["differ from the same request alone"] and not many["fallbacks"]
    wrong = reliability.wrong_input(settings=20, requests=20, over_http=4, seed=0)
    assert wrong["settings refused"] and wrong["knobs refused"] and wrong["over HTTP: status 400"]
    assert not wrong["over HTTP: the next request differs"] and not [name for name in wrong if "without" in name]
    for place in reliability.disk().values():
        assert place == {"right videos of 3": 3, "warnings": {"LVSA_JOURNAL": 1, "LVSA_KEEP_LATENTS": 1}}
    monkeypatch.setattr(mixed, "LENGTHS", {"short": (17,), "long": (89,)})
    found = mixed.measure(rounds=2, size="64x64")
    assert {found[kind]["videos equal to the plain server's"] for kind in ("short", "long")} == {2}


@pytest.mark.parametrize(
    ("benchmark", "measures", "words"),
    [(mixed, "measure", []), (reliability, "clients", ["clients"]), (reliability, "wrong_input", ["input"])],
)
def test_what_was_found_is_kept(
    benchmark: Any, measures: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results.json"
    monkeypatch.setattr(benchmark, measures, lambda *_: {"videos": 3})
    monkeypatch.setattr("sys.argv", ["benchmark.py", *words, "--json", str(file), "--commit", "abc"])
    benchmark.main()
    kept = json.loads(file.read_text())
    assert kept["found"] == {"videos": 3} and kept["machine"]["commit"] == "abc"


def result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text())["found"]


#: The lines of the page about servers that end, by the names of the record.
ENDS = {
    "one device: SIGTERM": "SIGTERM, one device",
    "Ulysses 2: SIGTERM": "SIGTERM, two ranks (Ulysses)",
    "one device: a worker killed": "the worker is killed, one device",
    "Ulysses 2: a worker killed": "one of two workers is killed",
}


def ending(row: dict[str, Any]) -> str:
    """Cells of what became of the request and of the processes."""
    answer = {"ReadTimeout": "no answer in", "RemoteProtocolError": "the connection ends after"}
    left = row["processes left after 120 s"]
    what = answer.get(row["the request"], f"{row['the request']} after")
    return f"{what} {row['its seconds']:.0f} s | {'all have ended' if left.startswith('0') else f'{left} still run'}"


def test_the_page_says_what_was_found() -> None:
    page = PAGE.read_text("utf-8")
    many = result("reliability-clients.json")
    assert f"| videos that came | {many['videos']} of the {many['videos']} that were waited for" in page
    first, last = (round(many[f"MB, mean of the {part} quarter"]) for part in ("first", "last"))
    assert f"| {first:,} MB and {last:,} MB |" in page
    assert many["differ from the same request alone"] == many["fallbacks"] == 0
    for place in result("reliability-disk.json").values():
        assert place == {"right videos of 3": 3, "warnings": {"LVSA_JOURNAL": 1, "LVSA_KEEP_LATENTS": 1}}
    wrong = result("reliability-input.json")
    for kind in ("settings", "knobs"):
        assert f"| {kind} | {wrong[f'{kind} accepted']:,} | {wrong[f'{kind} refused']:,} | 0 | 0 |" in page
    answered = (wrong[f"over HTTP: status {status}"] for status in (200, 400))
    assert "| requests over HTTP | {:,} (status 200) | {:,} (status 400) | 0 | |".format(*answered) in page
    assert len(wrong) == 7 and not wrong["over HTTP: the next request differs"]
    ended = result("reliability-ends.json")
    for name, words in ENDS.items():
        assert f"| {words} | {ending(ended['with LVSA'][name])} | {ending(ended['without'][name])} |" in page
        assert ended["with LVSA"][name]["processes left after 120 s"].startswith("0 of")
        assert ended["with LVSA"][name]["the next request"] == "ConnectError"
    assert ended["with LVSA"]["the model's folder is emptied"] == "same video"
    mix = result("mixed-cpu.json")
    assert mix["short"]["videos equal to the plain server's"] == 18 and mix["requests that ran sparse"] == 18 + 3
    for side in (mix["short"], mix["long"]):
        seconds = (side[f"seconds {which}, median"] for which in ("without LVSA", "with LVSA_AUTO=1"))
        ratios = (side["ratio, median"], *side["its 95 % interval"])
        assert "| {:.2f} | {:.2f} | {:.2f} [{:.2f}, {:.2f}] |".format(*seconds, *ratios) in page
