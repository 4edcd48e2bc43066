"""The shape of a model's transformer: what its time and memory depend on besides the request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What a model's transformer is made of, as far as its time and memory depend on it.

    Args:
        heads, kv_heads: of the self-attention; fewer of the latter are grouped-query heads.
        head_size: D. hidden: width of a token between the blocks.
        blocks: how many there are. ffn: hidden width of the feed-forward.
        patch: latent rows and columns to a token. vae_spatial_factor: pixels to a latent row or column.
        ffn_matrices: 2, or 3 where the feed-forward has a gate.
        text_tokens: joined to the video in the self-attention. cross_tokens: text that the cross-attention sees; 0: the
            blocks have none.
        pads: the model pads a size that the patches do not tile.
    """

    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    blocks: int
    ffn: int
    patch: int
    vae_spatial_factor: int
    ffn_matrices: int = 2
    text_tokens: int = 0
    cross_tokens: int = 0
    pads: bool = False

    @property
    def size_multiple(self) -> int:
        """Pixels that height and width are multiples of."""
        return self.vae_spatial_factor * (1 if self.pads else self.patch)

    def patches(self, height: int, width: int) -> int:
        """Tokens of one latent frame; height and width in pixels."""
        rows, columns = (-(-pixels // self.vae_spatial_factor // self.patch) for pixels in (height, width))
        return rows * columns


def parse_shape(table: Any) -> Shape:
    """A shape from a table of a TOML file; ``kv_heads`` and ``hidden`` follow from the heads where they are not given.

    Raises:
        ValueError: one sentence that names the key and what is accepted.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"shape must be a table of numbers, got {table!r}")
    known = [f.name for f in fields(Shape)]
    if unknown := sorted(table.keys() - known):
        raise ValueError(f"shape has the unknown key {unknown[0]!r}: known are {', '.join(known)}")
    needed = ("heads", "head_size", "blocks", "ffn", "patch", "vae_spatial_factor")
    if missing := [key for key in needed if key not in table]:
        raise ValueError(f"shape lacks {', '.join(missing)}")
    for key, value in table.items():
        least = 0 if key in ("text_tokens", "cross_tokens") else 1
        if key == "pads":
            if not isinstance(value, bool):
                raise ValueError(f"shape.pads must be true or false, got {value!r}")
        elif type(value) is not int or value < least:
            raise ValueError(f"shape.{key} must be an integer of at least {least}, got {value!r}")
    shape = Shape(**{"kv_heads": table["heads"], "hidden": table["heads"] * table["head_size"], **table})
    if shape.heads % shape.kv_heads:
        raise ValueError(f"shape.kv_heads must divide shape.heads, {shape.heads}, got {shape.kv_heads}")
    return shape
