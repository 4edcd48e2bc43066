"""Prefix + window: a pattern as dense calls of any kernel that returns its log-sum-exp, joined by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lvsa_core.cascade import Batch, Cascade, Runs, Tables, cascade, frame_indices, runs, tables
from lvsa_core.grid import TokenLayout
from lvsa_core.kernels.merge import merge_
from lvsa_core.pattern import Pattern


class Arriving(NamedTuple):
    """Keys that another process is still sending."""

    ready: int  # rows of the prefix that are there from the start, at least 1
    wait: Callable[[], None]  # comes back when all are


class PrefixWindow:
    """Base of kernels that compute dense attention: all queries on the prefix, groups of frames on their runs of keys.

    A subclass gives ``available`` and ``attention``. The runs overlap in memory; here they are strided views, of which
    6 to 17 batches make up a pattern.
    """

    name: str
    family: str

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """None if the kernel runs there, else the reason it does not."""
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

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        pattern: Pattern,
        layout: TokenLayout,
        scale: float,
        arriving: Arriving | None = None,
    ) -> Tensor:
        """Sparse attention of one layer; see :func:`lvsa_core.attend`. Rows of padding hold anything.

        The keys are copied in the order ``[other tokens | anchors | remaining frames]``, if they are not in it. One
        call of all queries on the first two parts gives the output, into which the windows, which are runs of the
        third, are merged.

        Args:
            arriving: what of the keys is still to come; they must be in that order.
        """
        calls = cascade(pattern, layout)
        if layout.pad or (calls.remaining and not calls.in_order):
            order = self.frame_order(calls, q.device)
            k, v = (prefix_first(x, layout, order) for x in (k, v))
        prefix = layout.kv_before + layout.kv_after + len(calls.anchors) * layout.grid.patches
        ready = prefix if arriving is None else arriving.ready
        out, lse = self.attention(q, k[:, :ready], v[:, :ready], scale)
        if arriving is not None:
            arriving.wait()
            if ready < prefix:
                other, other_lse = self.attention(q, k[:, ready:prefix], v[:, ready:prefix], scale)
                merge_(out, lse, other, other_lse)
                lse = torch.logaddexp(lse, other_lse)
        if calls.remaining:
            for entry in zip(q, k[:, prefix:], v[:, prefix:], out, lse, strict=True):
                self.windows(*entry, calls, scale)
        return out

    def frame_order(self, calls: Cascade, device: torch.device) -> Tensor:
        """Places of the keys' frames as an index on the device: anchors, then the remaining ones."""
        return frame_indices(calls.order, device)

    def windows(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, calls: Cascade, scale: float) -> None:
        """Merge one entry's windows into its output, in place.

        Args:
            q, out: [Sq, H, D]. lse: [H, Sq], of ``out``. k, v: [S, Hkv, D], the remaining frames in time order.
        """
        rows_lse = lse.transpose(0, 1)
        for batch in calls.batches:
            window, window_lse = self.attention(_groups(q, batch), _runs(k, batch), _runs(v, batch), scale)
            merge_(_groups(out, batch), _groups(rows_lse, batch).transpose(1, 2), window, window_lse)


class GatheredWindow(PrefixWindow):
    """Copies the runs of a few frames at a time, for kernels that cannot read them where they overlap."""

    def windows(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, calls: Cascade, scale: float) -> None:
        """See :meth:`PrefixWindow.windows`. Calls have few different shapes, which suits kernels built for a shape."""
        for first, rows, starts, length in _chunks(runs(calls.pattern, calls.layout), q.shape[0]):
            held = slice(first, first + rows * len(starts))
            self._gathered_windows(q[held], k, v, out[held], lse[:, held], rows, starts, length, scale)

    def _gathered_windows(
        self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, rows: int, starts: tuple[int, ...],
        length: int, scale: float,
    ) -> None:  # fmt: skip
        """Some of the runs, ``rows`` queries each. Its copies are gone before those of the next are made."""
        keys, values = (_gathered(x, starts, length) for x in (k, v))
        window, window_lse = self.attention(_split(q, rows), keys, values, scale)
        merge_(_split(out, rows), lse.view(lse.shape[0], -1, rows).transpose(0, 1), window, window_lse)


class VarlenWindow(PrefixWindow):
    """Reads all runs in place in one call, for kernels that take a start and a length of keys for each group."""

    def varlen(self, q: Tensor, k: Tensor, v: Tensor, groups: Tables, scale: float) -> tuple[Tensor, Tensor]:
        """Softmax attention of groups of query rows, each on its own run of keys.

        Args:
            q: [Sq, H, D]. k, v: [S, Hkv, D].
            groups: rows and keys of each group; the runs of keys may overlap.
            scale: multiplies the scores.

        Returns:
            Output [Sq, H, D], and the natural log-sum-exp [H, Sq], infinite for a group without keys.
        """
        raise NotImplementedError

    def frame_order(self, calls: Cascade, device: torch.device) -> Tensor:
        """See :meth:`PrefixWindow.frame_order`."""
        return tables(calls.pattern, calls.layout, device).order

    def windows(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, calls: Cascade, scale: float) -> None:
        """See :meth:`PrefixWindow.windows`."""
        window, window_lse = self.varlen(q, k, v, tables(calls.pattern, calls.layout, q.device), scale)
        merge_(out[None], lse[None], window[None], window_lse[None])


def _split(x: Tensor, rows: int) -> Tensor:
    """Rows [S, ...] as [S / rows, rows, ...], a view."""
    return x.view(-1, rows, *x.shape[1:])


def _gathered(x: Tensor, starts: tuple[int, ...], length: int) -> Tensor:
    """Runs [len(starts), length, H, D] of ``x`` [S, H, D]; a single one is a view."""
    if len(starts) == 1:
        return x[starts[0] : starts[0] + length].unsqueeze(0)
    return torch.stack([x[start : start + length] for start in starts])


def _chunks(runs: Runs, rows: int) -> Iterator[tuple[int, int, tuple[int, ...], int]]:
    """Successive runs of equal shapes: first query row, rows a run, where the runs start, their length.

    As many at a time as keep the gathered keys and values and the output within the size of Q.
    """
    at = 0
    while at < len(runs.k_rows):
        q_rows, k_rows = runs.q_starts[at + 1] - runs.q_starts[at], runs.k_rows[at]
        end = at + 1
        while (
            end < len(runs.k_rows)
            and (runs.q_starts[end + 1] - runs.q_starts[end], runs.k_rows[end]) == (q_rows, k_rows)
            and (end + 1 - at) * (2 * k_rows + q_rows) <= rows
        ):
            end += 1
        if q_rows and k_rows:
            yield runs.q_starts[at], q_rows, runs.k_starts[at:end], k_rows
        at = end


def prefix_first(x: Tensor, layout: TokenLayout, order: Tensor) -> Tensor:
    """Keys or values [B, Sk, Hkv, D] copied to [B, Sk - pad, Hkv, D]: other tokens first, then the frames in order."""
    grid, before, after = layout.grid, layout.kv_before, layout.kv_after
    copy = x.new_empty(x.shape[0], before + after + layout.kv_rows, *x.shape[2:])
    copy[:, :before] = x[:, :before]
    copy[:, before : before + after] = x[:, layout.kv_tokens - after :]
    video = x[:, before : before + layout.kv_rows].view(x.shape[0], -1, grid.patches, *x.shape[2:])
    copy_frames(video, order, copy[:, before + after :], 1)
    return copy


def copy_frames(video: Tensor, order: Tensor, out: Tensor, dim: int) -> None:
    """Copy frames of ``video`` [.., T, P, H, D] in some order to ``out`` [.., len(order) * P, H, D].

    Args:
        order: frames, int32. dim: the dimension of ``video`` that counts frames.
    """
    frames = out.view(*out.shape[:dim], len(order), *video.shape[dim + 1 :])
    if not _on_cpu(out) and _in_16_bytes(video) and _in_16_bytes(frames):
        # PyTorch gathers number by number: the larger, the fewer.
        video, frames = video.view(torch.complex128), frames.view(torch.complex128)
    torch.index_select(video, dim, order, out=frames)


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"


def _in_16_bytes(x: Tensor) -> bool:
    """Whether the tensor can be seen as numbers of 16 bytes."""
    counts = (x.shape[-1], x.storage_offset(), *x.stride()[:-1])
    return x.stride(-1) == 1 and all(count * x.itemsize % 16 == 0 for count in counts)


def _groups(x: Tensor, batch: Batch) -> Tensor:
    """Rows [S, ...] as [size, q_rows, ...], a view."""
    return _strided(x, batch.size, batch.q_start, batch.q_step, batch.q_rows)


def _runs(x: Tensor, batch: Batch) -> Tensor:
    """Rows [S, ...] as [size, k_rows, ...], a view whose entries may overlap."""
    return _strided(x, batch.size, batch.k_start, batch.k_step, batch.k_rows)


def _strided(x: Tensor, size: int, start: int, step: int, rows: int) -> Tensor:
    row = x.stride(0)
    return x.as_strided(
        (size, rows, *x.shape[1:]), (step * row, row, *x.stride()[1:]), x.storage_offset() + start * row
    )
