"""The record of what ran on each vLLM-Omni, and its table in docs/install.md: ``python -m tests.support.versions``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECORD, PAGE = ROOT / "tests" / "data" / "versions.json", ROOT / "docs" / "install.md"
START, END = "<!-- versions -->\n", "<!-- /versions -->"


def table(record: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows in Markdown, oldest first."""
    header = "| vLLM-Omni | torch | diffusers | Python | tests of the engine | what was left out, and why |\n"
    return header + "|---|---|---|---|---|---|\n" + "".join(_rows(record))


def _rows(record: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for version, ran in sorted(record.items()):
        has, outcomes = ran["versions"], ran["outcomes"]
        left_out = "; ".join(f"{reason} ({count})" for reason, count in sorted(ran["skipped"].items()))
        counts = ", ".join(f"{outcomes[name]} {name}" for name in sorted(outcomes))
        cells = (version, has["torch"], has["diffusers"], ran["python"], counts, left_out or "nothing")
        yield f"| {' | '.join(cells)} |\n"


def written(page: str, record: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with the table between its marks."""
    before, _, rest = page.partition(START)
    return before + START + table(record) + END + rest.partition(END)[2]


def main(folder: str) -> None:
    """Read the records that ``--record`` wrote, ``<version>.json`` each, into the one record and the page."""
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for file in sorted(Path(folder).glob("*.json")):
        ran = json.loads(file.read_text())
        ran.pop("placements")
        record[ran["versions"]["vllm-omni"]] = ran
    RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(written(PAGE.read_text(), record))


if __name__ == "__main__":
    main(sys.argv[1])
