"""A call's way to the kernel: as docs/architecture.md lists it, and as the stack shows it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from lvsa_core import attention

ROOT = Path(__file__).parents[2]
PRODUCT = ("lvsa_core", "lvsa_vllm_omni", "hooks")


def documented(heading: str) -> list[set[str]]:
    """The functions that each row of the table below a heading names, without their classes."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = page.partition(f"### {heading}\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| \d+ \| (.*?) \|", table, re.MULTILINE)
    return [
        {
            name.rpartition(".")[2]
            for name in re.findall(r"`([\w.]+)`", row)
            if "/" not in name and not name.endswith(".py")
        }
        for row in rows
    ]


def watch(patch: pytest.MonkeyPatch, module: Any = attention, seen: list[list[str]] | None = None) -> list[list[str]]:
    """The functions of the product that are on the stack at the kernel, outermost first, of each call from now on."""
    seen = [] if seen is None else seen
    compute = module.compute

    def watched(*given: Any, **more: Any) -> Any:
        frame, names = sys._getframe(1), ["compute"]
        while frame is not None:
            file = Path(frame.f_code.co_filename)
            if file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] in PRODUCT:
                names.append(frame.f_code.co_name)
            frame = frame.f_back  # type: ignore[assignment]
        seen.append(names[::-1])
        return compute(*given, **more)

    patch.setattr(module, "compute", watched)
    return seen
