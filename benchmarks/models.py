"""The models that the benchmarks time: the numbers of their presets, and the order of tokens in their attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lvsa_core import FrameGrid, Pattern, TokenLayout, plan
from lvsa_core.facts import shipped
from lvsa_vllm_omni.measure import cost
from lvsa_vllm_omni.shape import Shape


@dataclass(frozen=True)
class Model:
    """A model and the size of its videos.

    Args:
        horizon: latent frames that it was trained for. factor: frames of video to a latent one.
        height, width: pixels.
        text_in_keys: tokens of text before the video in the keys alone; ``shape`` tells of those joined to it.
    """

    shape: Shape
    horizon: int
    factor: int
    height: int
    width: int
    text_in_keys: int = 0

    @property
    def patches(self) -> int:
        """Tokens of a latent frame."""
        return self.shape.patches(self.height, self.width)

    def frames(self, latent_frames: int) -> int:
        """The video's frames, of so many latent ones."""
        return (latent_frames - 1) * self.factor + 1

    def layout(self, latent_frames: int) -> TokenLayout:
        """The order of tokens in the self-attention."""
        grid, text = FrameGrid(latent_frames, self.patches), self.shape.text_tokens
        return TokenLayout(grid, kv_before=self.text_in_keys, kv_after=text, q_after=text)

    def pattern(self, latent_frames: int, step: int = 0) -> Pattern:
        """LVSA's at a denoising step."""
        return plan(latent_frames, reference_frames=self.horizon, step=step)

    def flop(self, latent_frames: int, pattern: Pattern) -> int:
        """The operations of the blocks of one forward."""
        grid = FrameGrid(latent_frames, self.patches)
        attention = cost.lvsa_attention(self.shape, grid, pattern).flop
        block = attention + cost.linear_flop(self.shape, grid) + cost.cross_flop(self.shape, grid)
        return self.shape.blocks * block

    def small(self, patches: int = 4, head_size: int = 32) -> Model:
        """The same order of tokens and groups of heads, with 2 blocks, few heads and little text."""
        shape, side = self.shape, self.shape.patch * self.shape.vae_spatial_factor
        group = shape.heads // shape.kv_heads
        shape = replace(
            shape, heads=2 * group, kv_heads=2, head_size=head_size, hidden=2 * group * head_size, blocks=2, ffn=128,
            text_tokens=min(shape.text_tokens, 77), cross_tokens=min(shape.cross_tokens, 77),
        )  # fmt: skip
        return replace(self, shape=shape, height=side, width=patches * side, text_in_keys=min(self.text_in_keys, 77))


def _model(preset: str, height: int | None = None, width: int | None = None) -> Model:
    """A model of ``configs/``, at the size that is given there or here."""
    facts = shipped()[preset]
    shape = Shape(**facts["shape"])
    keys = shape.cross_tokens if facts["family"] == "cosmos3" else 0  # its text has attention of its own
    return Model(
        replace(shape, cross_tokens=0) if keys else shape, facts["reference_latent_frames"],
        facts["vae_temporal_factor"], height or facts["height"], width or facts["width"], keys,
    )  # fmt: skip


#: By the name on the command line.
MODELS = {
    "wan-14b": _model("wan2.1-14b", 480, 832),
    "wan-1.3b": _model("wan2.1-1.3b"),
    "hunyuan-video-1.5": _model("hunyuan-video-1.5"),
    "cosmos3": _model("cosmos3"),
    "wan-14b-720p": _model("wan2.1-14b"),
    "hunyuan-video-1.5-720p": _model("hunyuan-video-1.5", 720, 1280),
}
