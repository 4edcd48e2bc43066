"""`lvsa show --html`: one file with the server's own patterns, as a reader of the page sees and operates it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lvsa_core import plan, show
from lvsa_vllm_omni.cli.main import main
from tests.support.browser import Page, opened

WAN = ["show", "--preset", "wan2.1-14b", "--size", "832x480"]

#: What stands at the middle of every cell of the matrix, by its colour.
CELLS = """(() => {
  const canvas = document.getElementById("matrix"), pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement), letters = {none: ".", anchor: "G", window: "W", both: "X"};
  const rgb = text => [1, 3, 5].map(i => parseInt(text.slice(i, i + 2), 16)).join();
  const known = Object.fromEntries(Object.keys(letters).map(name =>
    [rgb(style.getPropertyValue("--" + name).trim()), letters[name]]));
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data, T = JSON.parse(
    document.getElementById("data").textContent).frames;
  const middle = (i, size) => Math.floor((Math.round(i * size / T) + Math.round((i + 1) * size / T) - 1) / 2);
  return [...Array(T).keys()].map(q => [...Array(T).keys()].map(k => {
    const at = 4 * (middle(q, canvas.height) * canvas.width + middle(k, canvas.width));
    return known[[pixels[at], pixels[at + 1], pixels[at + 2]].join()] ?? "?";
  }).join(""));
})()"""


def written(file: Path, *arguments: str) -> str:
    assert main([*WAN, "--html", str(file), *arguments]) == 0
    return file.read_text("utf-8")


def data_of(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    data: dict[str, Any] = json.loads(found)
    return data


def test_one_file_with_the_servers_patterns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pattern.html"
    text = written(file, "--frames", "321", "--step", "7")
    assert f"Drawn: {file}" in capsys.readouterr().out
    assert not re.search(r"https?:|//\w|src=|<link|@import|url\(", text), "nothing comes from the network"
    data = data_of(text)
    assert (data["frames"], data["steps"], data["step"], len(data["patterns"])) == (81, 50, 7, 6)
    for step, found in enumerate(data["patterns"]):
        pattern = plan(81, reference_frames=21, step=step)
        assert found["anchors"] == list(pattern.anchors) and found["offset"] == pattern.offset
        assert list(zip(found["low"], found["high"], strict=True)) == list(pattern.windows)
        assert found["counts"] == [len(pattern.attended(frame)) for frame in range(81)]
        assert f"<td>{' '.join(map(str, pattern.anchors))}</td>" in text, "also without JavaScript"
    assert "81 latent frames of 1,560 tokens" in text and "21-22 <small>of 81 frames" in text


def test_a_dense_request(tmp_path: Path) -> None:
    text = written(tmp_path / "dense.html", "--frames", "81")
    assert "<b>dense</b>: within the attention budget of 21 latent frames" in text
    (pattern,) = data_of(text)["patterns"]
    assert pattern["counts"] == [21] * 21 and "<td>all</td>" in text


def test_a_name_is_only_a_name(tmp_path: Path) -> None:
    preset = tmp_path / "<script>alert(1)<" / "script>.toml"
    preset.parent.mkdir()
    shipped = Path(__file__).parents[3] / "configs" / "wan2.1-14b.toml"
    preset.write_text(shipped.read_text("utf-8"))
    file = tmp_path / "page.html"
    assert main(["show", "--preset", str(preset), "--frames", "321", "--size", "832x480", "--html", str(file)]) == 0
    assert file.read_text("utf-8").count("<script") == 2


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("page.pdf", "--html must name a file that ends in .html, got 'page.pdf'"),
        ("/proc/none/page.html", "cannot write /proc/none/page.html: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_written(file: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WAN, "--frames", "161", "--html", file]) == 2
    assert capsys.readouterr() == ("", f"lvsa show: {sentence}\n")


@pytest.mark.slow
def test_a_reader_sees_each_step_and_needs_no_mouse(tmp_path: Path) -> None:
    written(tmp_path / "pattern.html", "--frames", "161")
    with opened(tmp_path / "pattern.html", tmp_path / "profile") as page:
        for scheme in ("light", "dark"):
            page.scheme(scheme)
            assert seen(page) == show.rows(plan(41, reference_frames=21, step=0))
            page.picture(tmp_path / f"{scheme}.png")
        assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 26)"
        page.value("document.getElementById('step').focus()")
        for step in (1, 2):
            page.press("ArrowRight", 39)
            assert seen(page) == show.rows(plan(41, reference_frames=21, step=step))
            assert page.value("document.getElementById('number').textContent") == f"{step} / 49"
        page.press("End", 35)
        assert seen(page) == show.rows(plan(41, reference_frames=21, step=49))
        page.value("document.getElementById('matrix').focus()")
        page.press("Home", 36)
        page.press("ArrowDown", 40)
        pattern = plan(41, reference_frames=21, step=49)
        said = page.value("document.getElementById('chosen').textContent")
        assert said.startswith(f"Frame 1 attends to {pattern.attended_count(1)} of 41 frames: the anchors ")
        assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
    assert (tmp_path / "dark.png").read_bytes() != (tmp_path / "light.png").read_bytes()


def seen(page: Page) -> list[str]:
    """The letters of the matrix; the frame around the row that is chosen lies outside the middle of cells."""
    rows: list[str] = page.value(CELLS)
    return rows
