"""The shape of a model's transformer: what its time and memory depend on besides the request."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Shape:
    """What a model's transformer is made of, as far as its time and memory depend on it: ``[shape]`` of its TOML file.

    No pydantic: benchmarks read it on machines that have PyTorch alone.

    Args:
        heads, kv_heads: of the self-attention; fewer of the latter are grouped-query heads, 0: as many.
        head_size: D. hidden: width of a token between the blocks, 0: of all heads.
        blocks: how many there are. ffn: hidden width of the feed-forward.
        patch: latent rows and columns to a token. vae_spatial_factor: pixels to a latent row or column.
        ffn_matrices: 2, or 3 where the feed-forward has a gate.
        text_tokens: joined to the video in the self-attention. cross_tokens: text that the cross-attention sees; 0: the
            blocks have none.
        pads: the model pads a size that the patches do not tile.

    Raises:
        ValueError: if a number is out of range.
    """

    heads: int
    head_size: int
    blocks: int
    ffn: int
    patch: int
    vae_spatial_factor: int
    kv_heads: int = 0
    hidden: int = 0
    ffn_matrices: int = 2
    text_tokens: int = 0
    cross_tokens: int = 0
    pads: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "kv_heads", self.kv_heads or self.heads)
        object.__setattr__(self, "hidden", self.hidden or self.heads * self.head_size)
        for name in (field.name for field in fields(self)):
            least = 0 if name in ("text_tokens", "cross_tokens", "pads") else 1
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads must divide heads, {self.heads}, got {self.kv_heads}")

    @property
    def size_multiple(self) -> int:
        """Pixels that height and width are multiples of."""
        return self.vae_spatial_factor * (1 if self.pads else self.patch)

    def patches(self, height: int, width: int) -> int:
        """Tokens of one latent frame; height and width in pixels."""
        rows, columns = (-(-pixels // self.vae_spatial_factor // self.patch) for pixels in (height, width))
        return rows * columns
