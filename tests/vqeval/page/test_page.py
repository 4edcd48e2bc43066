"""The pages: self-contained, with every dimension, the pictures, and what one has to know."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vqeval.batch import Entry, evaluate_all
from vqeval.checks import edits, scenes
from vqeval.checks.clip import Clip, write
from vqeval.comparison import Comparison, Pair, rows_of
from vqeval.evaluation import Settings, evaluate_with
from vqeval.learned import Learned
from vqeval.page import comparison_page, video_page
from vqeval.words import TITLES


class Page(HTMLParser):
    """Text and pictures of a page; refuses tags that are not closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.sources, self.open = "", list[str](), list[str]()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += " ".join(data.split()) + " "


def page_of(clip: Clip, folder: Path, settings: Settings | None = None) -> Page:
    result, analysis = evaluate_with(write(clip, folder / "a & b.mp4"), settings or Settings())
    text = video_page(result, analysis)
    assert "http" not in re.sub(r"xmlns(:\w+)?=\S+|data:[^\"]+", "", text), "nothing comes from the network"
    page = Page(text)
    assert all(title in page.text for title, _ in (TITLES[name] for name in result.dimensions))
    assert page.sources and all(source.startswith("data:image/") for source in page.sources)
    return page


def test_a_video(tmp_path: Path) -> None:
    page = page_of(scenes.pan(), tmp_path)
    assert len(page.sources) == 10 + 3 and "a & b.mp4" in page.text
    assert "of 100" in page.text and "The video" not in page.text
    assert "motion has no scale of its own" in page.text


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda clip: edits.looped(clip, 24), "is a loop: "),
        (edits.there_and_back, "goes there and back: "),
        (edits.frozen, "stands still for 100 % of its length"),
    ],
)
def test_what_one_has_to_know_stands_on_it(edit: object, sentence: str, tmp_path: Path) -> None:
    assert callable(edit)
    assert f"The video {sentence}" in page_of(edit(scenes.pan()), tmp_path).text


def test_the_loop_is_marked_in_the_matrix(tmp_path: Path) -> None:
    from vqeval.page.figures import similarity_matrix

    _, looped = evaluate_with(write(edits.looped(scenes.pan(), 24), tmp_path / "loop.mp4"), Settings())
    _, plain = evaluate_with(write(scenes.pan(), tmp_path / "plain.mp4"), Settings())
    assert b"loop, lag 1.50 s" in similarity_matrix(looped)[1]
    assert b"loop, lag" not in similarity_matrix(plain)[1]


def test_a_dimension_that_failed(tmp_path: Path) -> None:
    page = page_of(scenes.pan(32), tmp_path, Settings(Learned(prompt="a <b>cat</b>")))
    assert "No composite: a dimension that was asked for failed; text_alignment: " in page.text


@pytest.mark.parametrize("clip", [scenes.one_colour(16), scenes.static_noise(16)])
def test_pictures_of_odd_videos(clip: Clip, tmp_path: Path) -> None:
    page_of(clip, tmp_path)


def test_the_same_video_gives_the_same_page(tmp_path: Path) -> None:
    path = write(scenes.pan(32), tmp_path / "clip.mp4")
    pages = [video_page(*evaluate_with(path, Settings())) for _ in range(2)]
    assert pages[0] == pages[1]


def test_a_comparison(tmp_path: Path) -> None:
    paths = [write(scenes.pan(32, seed=seed), tmp_path / f"{seed}.mp4") for seed in range(6)]
    found = [outcome.result for outcome in evaluate_all([Entry(path) for path in paths], Settings())]
    results = [result for result in found if result is not None]
    pairs = [Pair(prompt=f"<prompt {i}>", seed=i, a=result, b=result) for i, result in enumerate(results)]
    left_out = {"x/lost.mp4": "has no partner"}
    comparison = Comparison(vqeval="1", a="A/", b="B/", rows=rows_of(pairs), pairs=pairs, left_out=left_out)
    page = Page(comparison_page(comparison))
    assert page.text.count("no difference shown") == len(comparison.rows)
    judged = [name for name, found in results[0].dimensions.items() if found.value is not None]
    assert [row.name for row in comparison.rows] == ["composite", *judged]
    assert "<prompt 3>" in page.text and "lost.mp4: has no partner" in page.text
    assert len(page.sources) == 1
