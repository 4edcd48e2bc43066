"""Numbers and tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_PREFIXES = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0), ("m", 1e-3), ("µ", 1e-6))


def scaled(value: float, unit: str = "") -> str:
    """Three digits or more, the SI prefix and the unit: 327 T, 84.8 ms, 4.54 s."""
    prefix, size = next((item for item in _PREFIXES if abs(value) >= item[1] * 0.9995), _PREFIXES[-1])
    number = value / size
    digits = max(0, 3 - len(str(int(abs(number)))))
    return f"{number:.{digits}f} {prefix}{unit}".rstrip()


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first cell to the left, all others to the right."""
    first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join([cells[0].ljust(len(first)), *others]).rstrip()


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of words under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def markdown_table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A header and rows as a table in Markdown."""
    header, *others = rows
    for row in (header, ["---"] * len(header), *others):
        yield f"| {' | '.join(row)} |"


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows under each other, columns as wide as they need."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return (line(row, widths) for row in rows)
