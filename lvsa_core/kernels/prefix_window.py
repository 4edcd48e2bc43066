"""Prefix + window: a pattern as dense calls of any kernel that returns the log-sum-exp, by which they are joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lvsa_core.cascade import Batch, Cascade, Part, cascade
from lvsa_core.grid import TokenLayout
from lvsa_core.kernels.apart import attend_apart
from lvsa_core.kernels.copies import frames_in_order
from lvsa_core.kernels.merge import Merge, merge_
from lvsa_core.pattern import Pattern
from lvsa_core.tables import Spans, Tables, frame_indices, spans, tables


class Arriving(NamedTuple):
    """Keys of which another process is still sending a part."""

    ready: int  # rows of the prefix that are there from the start, at least 1
    wait: Callable[[], None]  # returns when all rows are there


class PrefixWindow:
    """Base of kernels that compute dense attention: all queries on the prefix, groups of frames on their spans of keys.

    A subclass implements ``available`` and ``attention``. The spans overlap in memory. Here they are strided views, and
    a pattern takes 6 to 17 batches of them.
    """

    name: str
    family: str
    merge = staticmethod(merge_)

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """None if the kernel can run there, else the reason why not."""
        raise NotImplementedError

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Softmax attention of each batch entry.

        Args:
            q: [N, Sq, H, D]. k, v: [N, Sk, Hkv, D] with Sk >= 1; entries may overlap in memory.
            scale: multiplies the scores.

        Returns:
            Output [N, Sq, H, D], and the natural log-sum-exp of the scores [N, H, Sq], float32 or wider. Where all
            scores of a row are minus infinity these are 0 and minus infinity.
        """
        raise NotImplementedError

    def attention_into(self, out: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """:meth:`attention`, written to ``out``, which may be a strided view; returns the log-sum-exp."""
        found, lse = self.attention(q, k, v, scale)
        out.copy_(found)
        return lse

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        pattern: Pattern,
        layout: TokenLayout,
        scale: float,
        arriving: Arriving | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Sparse attention of one layer; see :func:`lvsa_core.attend`. Rows of padding hold anything.

        Keys that do not have the order ``[other tokens | anchors | remaining frames]`` are copied in that order. One
        call of all queries on the first two parts gives the output. The windows, which are spans of the third part, are
        then merged into it. Boosted anchors are a call of their own, if there are other tokens. Anchors that are seen
        at other positions are :func:`lvsa_core.kernels.apart.attend_apart`'s.

        Args:
            arriving: which part of the keys is still to come; if given, the keys must already have that order.
            out: where the result is written, such as some heads of a larger output; None: new memory.
        """
        if pattern.grouping is not None:
            assert arriving is None, "keys that arrive must be waited for"
            return attend_apart(self, q, k, v, pattern, layout, scale, out)
        calls = cascade(pattern, layout)
        if layout.pad or (calls.remaining and not calls.in_order):
            order = self.frame_order(calls, q.device)
            k, v = (self.prefix_first(x, layout, order) for x in (k, v))
        prefix = layout.kv_before + layout.kv_after + len(calls.anchors) * layout.grid.patches
        out, lse = self._prefix(q, k[:, :prefix], v[:, :prefix], pattern, layout, scale, arriving, out)
        if calls.remaining:
            for i in range(len(q)):
                self.windows(q[i], k[i, prefix:], v[i, prefix:], out[i], lse[i], calls, scale)
        return out

    def _prefix(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float,
        arriving: Arriving | None, out: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """All queries on the prefix: one call, and more for what arrives and boosted anchors behind other tokens.

        All keys have arrived afterwards.
        """
        others, ready = layout.kv_before + layout.kv_after, k.shape[1] if arriving is None else arriving.ready
        ends = {ready, k.shape[1], *([others] if pattern.bias and others else ())}
        video = slice(layout.q_before, layout.q_before + layout.video_rows)
        joined: tuple[Tensor, Tensor] | None = None
        for start, end in pairwise((0, *sorted(ends))):
            if arriving is not None and end > ready:
                arriving.wait()
                arriving = None
            piece = (q, k[:, start:end], v[:, start:end], scale)
            found, lse = self.attention(*piece) if start or out is None else (out, self.attention_into(out, *piece))
            if pattern.bias and start >= others:
                lse[..., video] += pattern.bias
            if joined is None:
                joined = found, lse
            else:
                self.merge(*joined, found, lse)
                joined = joined[0], torch.logaddexp(joined[1], lse)
        if arriving is not None:
            arriving.wait()
        assert joined is not None
        return joined

    @staticmethod
    def prefix_first(x: Tensor, layout: TokenLayout, order: Tensor) -> Tensor:
        """Keys or values [B, Sk, Hkv, D] copied to [B, Sk - pad, Hkv, D]: other tokens, then the frames in order."""
        before, after = layout.kv_before, layout.kv_after
        video = x[:, before : before + layout.kv_rows] if before or after or layout.pad else x
        video = video.view(x.shape[0], -1, layout.grid.patches, *x.shape[2:])
        if not (before or after):
            return frames_in_order(video, order, 1).view(x.shape[0], -1, *x.shape[2:])
        copy = x.new_empty(x.shape[0], before + after + layout.kv_rows, *x.shape[2:])
        copy[:, :before] = x[:, :before]
        copy[:, before : before + after] = x[:, layout.kv_tokens - after :]
        frames_in_order(video, order, 1, copy[:, before + after :].view(video.shape))
        return copy

    def frame_order(self, calls: Cascade, device: torch.device, part: Part = "remaining") -> Tensor:
        """Places of a part's frames among the keys, as an index on the device; see :attr:`Cascade.orders`."""
        return frame_indices(calls.orders[part], device)

    def windows(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        calls: Cascade,
        scale: float,
        part: Part = "remaining",
        merge: Merge | None = None,
    ) -> None:
        """Merge one entry's windows, or other spans, into its output, in place.

        Args:
            q, out: [Sq, H, D]. lse: [H, Sq], that of ``out``. k, v: [S, Hkv, D], the frames of ``part``.
            part: what the spans are parts of. merge: as :func:`lvsa_core.kernels.merge.merge_`, which it is by default.
        """
        merge, rows_lse = merge or self.merge, lse.transpose(0, 1)
        for batch in calls.batches if part == "remaining" else calls.apart[part]:
            window, window_lse = self.attention(_groups(q, batch), _spans(k, batch), _spans(v, batch), scale)
            merge(_groups(out, batch), _groups(rows_lse, batch).transpose(1, 2), window, window_lse)


class GatheredWindow(PrefixWindow):
    """Copies the spans of a few frames at a time, for kernels that cannot read overlapping keys."""

    def windows(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, calls: Cascade, scale: float,
        part: Part = "remaining", merge: Merge | None = None,
    ) -> None:  # fmt: skip
        """See :meth:`PrefixWindow.windows`. There are few different shapes, for kernels that compile one each."""
        merge = merge or self.merge
        for first, rows, starts, length in _chunks(spans(calls.pattern, calls.layout, part), q.shape[0]):
            held = slice(first, first + rows * len(starts))
            self._gathered_windows(q[held], k, v, out[held], lse[:, held], rows, starts, length, scale, merge)

    def _gathered_windows(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rows: int, starts: tuple[int, ...],
        length: int, scale: float, merge: Merge,
    ) -> None:  # fmt: skip
        """Some of the spans, ``rows`` queries each. In a function, so that its copies are freed before the next."""
        keys, values = (_gathered(x, starts, length) for x in (k, v))
        window, window_lse = self.attention(_split(q, rows), keys, values, scale)
        merge(_split(out, rows), lse.view(lse.shape[0], -1, rows).transpose(0, 1), window, window_lse)


class VarlenWindow(PrefixWindow):
    """Reads all spans in place in one call, for kernels that take a start and a length of keys for each group."""

    def varlen(self, q: Tensor, k: Tensor, v: Tensor, groups: Tables, scale: float) -> tuple[Tensor, Tensor]:
        """Softmax attention of groups of query rows, each on its own span of keys.

        Args:
            q: [Sq, H, D]. k, v: [S, Hkv, D].
            groups: query rows and keys of each group; the spans of keys may overlap.
            scale: multiplies the scores.

        Returns:
            Output [Sq, H, D], and the natural log-sum-exp [H, Sq], infinite for a group without keys.
        """
        raise NotImplementedError

    def frame_order(self, calls: Cascade, device: torch.device, part: Part = "remaining") -> Tensor:
        """See :meth:`PrefixWindow.frame_order`."""
        return tables(calls.pattern, calls.layout, device, part).order

    def windows(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, calls: Cascade, scale: float,
        part: Part = "remaining", merge: Merge | None = None,
    ) -> None:  # fmt: skip
        """See :meth:`PrefixWindow.windows`."""
        window, window_lse = self.varlen(q, k, v, tables(calls.pattern, calls.layout, q.device, part), scale)
        (merge or self.merge)(out[None], lse[None], window[None], window_lse[None])


def _split(x: Tensor, rows: int) -> Tensor:
    """A view of the rows [S, ...] as [S / rows, rows, ...]."""
    return x.view(-1, rows, *x.shape[1:])


def _gathered(x: Tensor, starts: tuple[int, ...], length: int) -> Tensor:
    """Spans [len(starts), length, H, D] of ``x`` [S, H, D]; a copy, but a view if there is only one."""
    if len(starts) == 1:
        return x[starts[0] : starts[0] + length].unsqueeze(0)
    return torch.stack([x[start : start + length] for start in starts])


def _chunks(spans: Spans, rows: int) -> Iterator[tuple[int, int, tuple[int, ...], int]]:
    """Successive spans of equal shapes: first query row, query rows of each, where the spans start, their length.

    As many at a time as possible while the copied keys and values and the output together are no larger than Q.
    """
    at = 0
    while at < len(spans.k_rows):
        q_rows, k_rows = spans.q_starts[at + 1] - spans.q_starts[at], spans.k_rows[at]
        end = at + 1
        while (
            end < len(spans.k_rows)
            and (spans.q_starts[end + 1] - spans.q_starts[end], spans.k_rows[end]) == (q_rows, k_rows)
            and (end + 1 - at) * (2 * k_rows + q_rows) <= rows
        ):
            end += 1
        if q_rows and k_rows:
            yield spans.q_starts[at], q_rows, spans.k_starts[at:end], k_rows
        at = end


def _groups(x: Tensor, batch: Batch) -> Tensor:
    """A view of the rows [S, ...] as [size, q_rows, ...]."""
    return _strided(x, batch.size, batch.q_start, batch.q_step, batch.q_rows)


def _spans(x: Tensor, batch: Batch) -> Tensor:
    """A view of the rows [S, ...] as [size, k_rows, ...], whose entries may overlap."""
    return _strided(x, batch.size, batch.k_start, batch.k_step, batch.k_rows)


def _strided(x: Tensor, size: int, start: int, step: int, rows: int) -> Tensor:
    row = x.stride(0)
    return x.as_strided(
        (size, rows, *x.shape[1:]), (step * row, row, *x.stride()[1:]), x.storage_offset() + start * row
    )
