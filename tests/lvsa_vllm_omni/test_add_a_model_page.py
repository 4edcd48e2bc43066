"""The page about another package's family shows the example that the tests run, and every fact there is."""

import re
from dataclasses import fields
from pathlib import Path

from lvsa_vllm_omni.hooks import (
    FamilySpec,
)

REPOSITORY = Path(__file__).parents[2]


EXAMPLE = REPOSITORY / "tests" / "data" / "third_party"


def test_the_documentation_shows_the_files_of_the_example() -> None:
    text = (REPOSITORY / "docs" / "add-a-model.md").read_text()
    files = [file for file in sorted(EXAMPLE.rglob("*")) if file.suffix in (".py", ".toml")]
    assert len(files) == 3
    for file in files:
        assert f"\n{file.read_text()}```\n" in text
        assert f"`{file.relative_to(EXAMPLE).as_posix()}`" in text


def test_the_documentation_tells_of_every_fact_of_a_family() -> None:
    text = (REPOSITORY / "docs" / "add-a-model.md").read_text().split("## The facts")[1].split("\n## ")[0]
    told = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(told) == sorted(field.name for field in fields(FamilySpec))
