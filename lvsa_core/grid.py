"""Where the video stands among the tokens of an attention call: its frame grid, and the tokens around it."""

from __future__ import annotations

from dataclasses import dataclass

#: The most frames that a knob or a setting may name: more than any video has.
MOST_FRAMES = 1_000_000


def check_int(name: str, value: object, minimum: int, most: int = 2**31 - 1) -> int:
    """Return ``value`` if it is an integer of at least ``minimum`` and at most ``most``.

    Raises:
        ValueError: naming ``name``, the value and what is accepted.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}")  # not the value, which may have any length
    return value


@dataclass(frozen=True)
class FrameGrid:
    """A video as the transformer sees it: latent frames, one after another, all with the same number of tokens.

    Args:
        frames: number of latent frames T.
        patches: number of tokens P in one latent frame; token ``i`` of the video is in frame ``i // patches``.

    Raises:
        ValueError: if either is not a positive integer.
    """

    frames: int
    patches: int

    def __post_init__(self) -> None:
        check_int("frames", self.frames, 1)
        check_int("patches", self.patches, 1)

    @property
    def tokens(self) -> int:
        """Number of tokens in the whole video, T * P."""
        return self.frames * self.patches


@dataclass(frozen=True)
class TokenLayout:
    """The order of the tokens in one attention call; all numbers are tokens.

    Keys are ``[kv_before | video | pad | kv_after]``. Queries are ``[q_before | rows | q_after]``, where ``rows`` are
    the rows ``[q_offset, q_offset + q_rows)`` of ``[video | pad]``. Every query attends to the tokens before and after
    the video (text, control, sound), and these tokens, as queries, attend to every key. No query attends to padding,
    and the output rows of padding are zero.

    Args:
        grid: the video.
        kv_before, kv_after: other keys before and after the video.
        q_before, q_after: other queries before and after the video's rows.
        pad: padding tokens right after the video; sequence parallelism adds them to make the length divisible.
        q_offset, q_rows: the rows that this rank holds as queries; ``q_rows=None``: all from ``q_offset`` on.
        kv_frames: the frames that the keys hold, in the order of the keys; None: all frames in time order.

    Raises:
        ValueError: if a number is negative, if the rows reach past the padded video, or if a frame of ``kv_frames`` is
            there twice or is not in the video.
    """

    grid: FrameGrid
    kv_before: int = 0
    kv_after: int = 0
    q_before: int = 0
    q_after: int = 0
    pad: int = 0
    q_offset: int = 0
    q_rows: int | None = None
    kv_frames: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("kv_before", "kv_after", "q_before", "q_after", "pad", "q_offset"):
            check_int(name, getattr(self, name), 0)
        held = self.grid.tokens + self.pad
        if self.q_rows is not None:
            check_int("q_rows", self.q_rows, 0)
        if self.q_offset + (self.q_rows or 0) > held:
            raise ValueError(
                f"query rows {self.q_offset} to {self.q_offset + (self.q_rows or 0)} reach past the {held} rows of the "
                f"video and its padding"
            )
        frames = self.kv_frames or ()
        if len(set(frames)) != len(frames) or not all(0 <= frame < self.grid.frames for frame in frames):
            raise ValueError(f"kv_frames must be different frames of 0..{self.grid.frames - 1}, got {self.kv_frames}")

    @property
    def held_frames(self) -> tuple[int, ...]:
        """The frames that the keys hold, in the order of the keys."""
        return tuple(range(self.grid.frames)) if self.kv_frames is None else self.kv_frames

    @property
    def video_rows(self) -> int:
        """Number of query rows of ``[video | pad]`` in this call."""
        return self.grid.tokens + self.pad - self.q_offset if self.q_rows is None else self.q_rows

    @property
    def q_tokens(self) -> int:
        """Number of query tokens in the whole call."""
        return self.q_before + self.video_rows + self.q_after

    @property
    def kv_tokens(self) -> int:
        """Number of key tokens in the whole call."""
        return self.kv_before + self.kv_rows + self.pad + self.kv_after

    @property
    def kv_rows(self) -> int:
        """Number of key tokens that are video."""
        return self.grid.patches * (self.grid.frames if self.kv_frames is None else len(self.kv_frames))

    @property
    def real_rows(self) -> int:
        """Number of query rows that are video and not padding."""
        return max(0, min(self.video_rows, self.grid.tokens - self.q_offset))
