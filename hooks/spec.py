"""What the plugin needs to know about a model family, as data and one small function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lvsa_core import FrameGrid, TokenLayout
from lvsa_core.facts import patched_grid

if TYPE_CHECKING:  # for this who only looks at the settings should not wait
    from lvsa_core.sharded.exchange import Shards


class HookError(RuntimeError):
    """A hook does not fit the installed engine; the message lists what was expected and what was found."""


class MissingModel(HookError):
    """The installed engine does not have the family's model at all."""


class LayoutMismatch(ValueError):
    """A request's tensors are not what the family's function expects; the call goes dense."""


def latent_grid(arguments: Mapping[str, Any], patch: Sequence[int]) -> tuple[int, int, int]:
    """Frames, rows and columns of the tokens of ``hidden_states`` [B, C, T, H, W].

    Raises:
        LayoutMismatch: if it has another number of dimensions.
    """
    try:
        return patched_grid(arguments["hidden_states"].shape, patch)
    except ValueError as error:
        raise LayoutMismatch(str(error)) from None


class VideoTokens(NamedTuple):
    """What a transformer's call makes of a video.

    Args:
        frames: latent frames. patches: tokens of one of them.
        before, after: tokens that the transformer itself puts before and after the video (control, action, sound).
    """

    frames: int
    patches: int
    before: int = 0
    after: int = 0

    @property
    def grid(self) -> FrameGrid:
        """The video alone."""
        return FrameGrid(self.frames, self.patches)


class StaysDense(ValueError):
    """A request that the family leaves to the engine's own attention, as it should; the message is the reason."""


class ImpossibleRequest(ValueError):
    """No video of the size or length that a request asks for can be made; the message says which can."""


class Rope(NamedTuple):
    """The temporal axis of a transformer's rotary embedding: the first channels of each head.

    RIFLEx changes the tables. Anchors at other positions (``remap``) are turned afterwards, in pairs of neighbouring
    channels: an embedding that pairs others, such as a head's two halves, must not be told here.

    Args:
        module: whose ``forward(hidden_states [B, C, T, H, W])`` gives cosines and sines, frame-major, the temporal axis
            first. patch: latent frames that are one frame of tokens.
        channels: of the temporal axis, twice the number of its frequencies. theta: base of the frequencies.
        width: channels of the tables that one frequency fills.
    """

    module: Any
    patch: int
    channels: int
    theta: float
    width: int


@dataclass(frozen=True)
class FamilySpec:
    """One model family.

    Args:
        name: the family as it stands in settings and log lines.
        transformer: upstream class of the video transformer, ``package.module:Class``; subclasses are covered.
        forward_parameters: parameters of its ``forward`` that ``video`` and the step read.
        optional_parameters: more of them, which only some versions or subclasses have.
        attention: names of the upstream classes whose engine attention layers are the video's self-attention.
        attention_layers: their attributes that hold the engine's ``Attention``; only the first must be there.
        video: ``(transformer, forward arguments by name) -> VideoTokens`` of the whole video; raises
            :class:`LayoutMismatch` if the arguments are not a video's, :class:`ImpossibleRequest` if the model cannot
            make that video, :class:`StaysDense` if it is better left to the engine.
        text: where the text stands in the self-attention. ``none``: it comes by cross-attention. ``behind``: behind the
            video, in queries and keys. ``keys first``: before everything, in the keys alone.
        masks_only_padding: whether a mask that comes with sequence parallelism masks nothing but its padding, which
            LVSA leaves out anyway: always, in a batch of one, or never.
        step_parameter: the argument that is equal in all calls of a denoising step and another in the next (a number,
            or a tensor of numbers), used where the pipeline does not publish its step.
        rope: ``transformer -> Rope``, for RIFLEx; None: the family has no such embedding.
        dense: what of the model's attention stays the engine's own, and why; for the table of models.
    """

    name: str
    transformer: str
    forward_parameters: tuple[str, ...]
    attention: tuple[str, ...]
    video: Callable[[Any, Mapping[str, Any]], VideoTokens]
    attention_layers: tuple[str, ...] = ("attn",)
    optional_parameters: tuple[str, ...] = ()
    text: Literal["none", "behind", "keys first"] = "none"
    masks_only_padding: Literal["always", "alone", "never"] = "never"
    step_parameter: str = "timestep"
    rope: Callable[[Any], Rope] | None = None
    dense: str = ""

    def layout(
        self, video: VideoTokens, q_tokens: int, kv_tokens: int, padding: int, rank: int = 0, ranks: int = 1
    ) -> TokenLayout:
        """The order of tokens in one attention call.

        Args:
            video: of the transformer's call. q_tokens, kv_tokens: of the attention call.
            padding: tokens that sequence parallelism has added at the end of the sequence.
            rank, ranks: the part of the sequence that the queries are; text is whole on every rank, and so are keys.

        Returns:
            The layout. Queries and keys beyond its tokens are padding.

        Raises:
            LayoutMismatch: if the tokens are not these.
        """
        grid, before, after = video.grid, video.before, video.after
        tokens = before + grid.tokens + after + padding
        rows = tokens // ranks
        text, first = self._text(q_tokens - rows, kv_tokens - tokens)
        if tokens % ranks or (padding and after and text):
            raise LayoutMismatch("padding elsewhere than at the end of the sequence")
        held = range(rank * rows, (rank + 1) * rows)
        pad = 0 if after else padding
        end, behind = before + grid.tokens + pad, before + grid.tokens + pad + after
        return TokenLayout(
            grid,
            kv_before=first + before,
            kv_after=after + text,
            q_before=_overlap(held, 0, before),
            q_after=_overlap(held, end, behind) + text,
            pad=pad,
            q_offset=min(max(0, held.start - before), grid.tokens + pad),
            q_rows=_overlap(held, before, end) if ranks > 1 else None,
        )

    def shards(self, video: VideoTokens, q_tokens: int, kv_tokens: int, text_tokens: int, ranks: int) -> Shards:
        """How ranks share the sequence where each has only its own part of the queries and keys.

        Args:
            video: of the transformer's call. q_tokens, kv_tokens: of this rank's attention call.
            text_tokens: keys that every rank has besides.

        Raises:
            LayoutMismatch: if the tokens are not these.
        """
        from lvsa_core.sharded.exchange import Shards

        try:
            shards = Shards(video.grid, ranks, video.before, video.after)
        except ValueError as error:
            raise LayoutMismatch(str(error)) from None
        self._text(q_tokens - kv_tokens, text_tokens)
        if kv_tokens != shards.rows:
            raise LayoutMismatch(f"{kv_tokens} keys, where a rank should have {shards.rows}")
        return shards

    def _text(self, queries: int, keys: int) -> tuple[int, int]:
        """Text tokens behind the video, and those before it in the keys alone, of so many in queries and keys."""
        behind, first = queries, keys - queries
        if behind < 0 or (behind and self.text != "behind") or first < 0 or (first and self.text != "keys first"):
            raise LayoutMismatch("other tokens than the video's and the text's")
        return behind, first

    @property
    def setting(self) -> str:
        """The variable that switches this family on."""
        return f"LVSA_{self.name.upper().replace('-', '_')}_HOOK"

    @property
    def transformer_class(self) -> str:
        """Name of the upstream class without its module."""
        return self.transformer.partition(":")[2]


def _overlap(held: range, start: int, end: int) -> int:
    """How many of the tokens ``start`` to ``end`` are held."""
    return max(0, min(end, held.stop) - max(start, held.start))
