"""Files that are whole or absent: written beside their target, then moved over it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a path in the target's folder to write to; it becomes the target when the block ends without an exception.

    An exception, Ctrl-C included, removes what was written and leaves an older target as it was.
    """
    # Not tempfile: its files are private to the user (0600), and os.replace keeps that mode.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    text = json.dumps(value, indent=2) + "\n"
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
