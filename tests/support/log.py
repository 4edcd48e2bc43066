"""The plugin's log lines, read where they are written."""

from __future__ import annotations

import logging
import re

DIAGNOSTICS = {"LVSA_MEM_LOG": "1", "LVSA_STEP_TIME_LOG": "1", "LVSA_MASK_LOG": "0-1"}
MEMORY_LINE = r"\[LVSA-MEM\] step=(\d+) (?:cpu|cuda)=0 alloc=\d+\.\d{3}GB reserved=\d+\.\d{3}GB peak=\d+\.\d{3}GB"
TIME_LINE = r"\[LVSA-TIME\] step=(\d+) dt=(\d+\.\d{3})s"


class Log(logging.Handler):
    """The plugin's log lines in a ``with`` block, from its own logger: vLLM decides whether others hear of them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def __enter__(self) -> Log:
        logging.getLogger("vllm.lvsa").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("vllm.lvsa").removeHandler(self)

    @property
    def messages(self) -> list[str]:
        """The lines as they are printed."""
        return [record.getMessage() for record in self.records]

    def starting(self, start: str) -> list[str]:
        """Those that start so."""
        return [line for line in self.messages if line.startswith(start)]

    def clear(self) -> None:
        self.records.clear()


def steps(pattern: str, lines: list[str]) -> str:
    """The steps of well-formed lines, in order."""
    found = [re.fullmatch(pattern, line) for line in lines]
    assert all(found), lines
    return "".join(match[1] for match in found if match)
