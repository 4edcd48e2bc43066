"""What pydantic found wrong, as one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydantic_core import ValidationError


def sentence(error: ValidationError, known: Iterable[str] = (), named: Callable[[str], str] = str) -> str:
    """The first problem of a validation: the name, the value and what is accepted.

    Args:
        known: names that there are. named: says where a name's value came from.
    """
    first = error.errors()[0]
    name = named(".".join(str(part) for part in first["loc"]))
    wanted = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {name!r}; accepted: {', '.join(known)}"
    if first["type"].startswith("missing"):
        return f"the key {name!r} is missing"
    if first["type"] == "bool_parsing":
        wanted = "a boolean: 1, 0, true, false, yes, no, on or off"
    if not name or isinstance(first["input"], dict):
        return f"{name}: {wanted}".removeprefix(": ")
    return f"{name} is {first['input']!r}, but must be {wanted}"
