"""Fill the templates."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from vqeval.analysis import Analysis
from vqeval.comparison import Comparison
from vqeval.page import figures
from vqeval.result import Result
from vqeval.words import TITLES, value_text


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vqeval.page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["embedded"] = _embedded
    environment.filters["value_text"] = value_text
    environment.filters["file_name"] = lambda path: Path(path).name
    environment.globals["titles"] = TITLES
    return environment


def _embedded(picture: tuple[str, bytes]) -> str:
    kind, data = picture
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def video_page(result: Result, analysis: Analysis) -> str:
    """The page of one video."""
    template = _environment().get_template("video.html")
    return template.render(
        result=result,
        strip=figures.film_strip(analysis.video),
        slice=figures.slice_through_time(analysis),
        matrix=figures.similarity_matrix(analysis),
        motion=figures.motion(analysis),
    )


def comparison_page(comparison: Comparison) -> str:
    """The page of a comparison."""
    template = _environment().get_template("comparison.html")
    return template.render(comparison=comparison, picture=figures.differences(comparison))
