"""FlashInfer: block-sparse attention with a frame as the block, in one call or beside a dense call on the anchors."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lvsa_core.cascade import cascade
from lvsa_core.grid import TokenLayout
from lvsa_core.kernels.copies import frames_in_order
from lvsa_core.kernels.cuda import HALF, capability, unfit
from lvsa_core.kernels.merge import merge_
from lvsa_core.pattern import Pattern
from lvsa_core.tables import frame_indices, spans, stream

WORKSPACE_BYTES = 128 * 2**20  # what FlashInfer recommends

#: A device and one of its streams.
Stream: TypeAlias = tuple[torch.device, int]

_LN2 = math.log(2)


class FlashInferKernel:
    """Leaves the video's keys where they are: each frame is a page of FlashInfer's paged attention.

    Each stream has one wrapper and one workspace. The wrapper is planned again when the pattern or the layout changes,
    which is once in a step, for all layers. Planning waits until the device has read the last plan.

    Args:
        dense_prefix: compute the anchors, which all queries share, with FlashInfer's dense kernel on a copy of the
            anchors, and only the windows with pages. If false, one paged call computes both. None: true on Hopper,
            where only the dense kernel lets the hardware load whole tiles, and false elsewhere.
    """

    family = "flashinfer"

    def __init__(self, name: str, dense_prefix: bool | None = None) -> None:
        self.name, self.dense_prefix = name, dense_prefix
        self._wrappers: dict[Stream, Any] = {}
        self._planned: dict[Stream, object] = {}
        self._read: dict[Stream, torch.cuda.Event] = {}

    def available(self, device: torch.device, dtype: torch.dtype, head_size: int) -> str | None:
        """None if the kernel can run there, else the reason why not."""
        if reason := unfit(device, dtype, head_size, dtypes=HALF, needs=(8, 0)):
            return reason
        if head_size not in (64, 128, 256):
            return f"head size must be 64, 128 or 256, got {head_size}"
        return _missing()

    def release(self) -> None:
        """Free the workspaces, after the device has read the last plan from their pinned memory."""
        for event in self._read.values():
            event.synchronize()
        self._wrappers.clear()
        self._planned.clear()
        self._read.clear()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, scale: float) -> Tensor:
        """Sparse attention of one layer; see :func:`lvsa_core.attend`. Rows of padding hold anything."""
        if k.stride() != v.stride():  # on Hopper FlashInfer needs the same strides for both
            k, v = k.contiguous(), v.contiguous()
        calls = cascade(pattern, layout)
        every = layout.held_frames
        in_prefix: tuple[int, ...] = ()
        if not calls.remaining:
            in_prefix = every
        elif capability(q.device)[0] == 9 if self.dense_prefix is None else self.dense_prefix:
            in_prefix = calls.anchors
        pages = frame_lists(pattern, layout, in_prefix) if len(in_prefix) < len(every) else None
        if pages is not None and not all(pages[1]):  # no list of pages may be empty, but a window may hold only anchors
            in_prefix, pages = (), frame_lists(pattern, layout, ())
        entries = [self._entry(*entry, pattern, layout, in_prefix, pages, scale) for entry in zip(q, k, v, strict=True)]
        return entries[0][None] if len(entries) == 1 else torch.stack(entries)

    def attention(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Dense attention; see :meth:`lvsa_core.kernels.prefix_window.PrefixWindow.attention`."""
        k, v = k.contiguous(), v.contiguous()
        entries = [_dense(*entry, scale) for entry in zip(q.contiguous(), k, v, strict=True)]
        return torch.stack([out for out, _ in entries]), torch.stack([lse.t() * _LN2 for _, lse in entries])

    def _entry(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, layout: TokenLayout, in_prefix: tuple[int, ...],
        pages: tuple[list[int], list[tuple[int, ...]]] | None, scale: float,
    ) -> Tensor:  # fmt: skip
        """The output [Sq, H, D] of one entry of the batch."""
        q = q.contiguous()
        results = []
        if in_prefix or layout.kv_before or layout.kv_after:
            results.append(_dense(q, _prefix(k, layout, in_prefix), _prefix(v, layout, in_prefix), scale))
        if pages is not None:
            shared, page = (pattern, layout, in_prefix), layout.grid.patches
            wrapper = self._planned_wrapper(q, k, shared, pages, page, scale)
            results.append(wrapper.run(q, (_video(k, layout), _video(v, layout)), return_lse=True))
        out, lse = results[0]
        for other, other_lse in results[1:]:
            # FlashInfer returns log-sum-exps as [Sq, H] and to base 2.
            merge_(out[None], lse.t()[None] * _LN2, other[None], other_lse.t()[None] * _LN2)
        return out

    def _planned_wrapper(
        self,
        q: Tensor,
        k: Tensor,
        shared: object,
        pages: tuple[list[int], list[tuple[int, ...]]],
        page: int,
        scale: float,
    ) -> Any:
        """The stream's wrapper, planned for these pages, again only if something changed since the last call."""
        device, here = q.device, (q.device, stream(q.device))
        if here not in self._wrappers:
            from flashinfer import BatchPrefillWithPagedKVCacheWrapper

            with torch.inference_mode(False):  # it writes into its buffers inside and outside inference mode
                workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
                self._wrappers[here] = BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
        key = (shared, q.shape[1:], k.shape[1:], q.dtype, scale)
        if self._planned.get(here) != key:
            if here in self._read:  # the wrapper writes each plan into the same pinned memory
                self._read[here].synchronize()
            q_starts, lists = pages
            counts = [0]
            for frames in lists:
                counts.append(counts[-1] + len(frames))
            self._wrappers[here].plan(
                _host(q_starts),
                _host(counts),
                _host([frame for frames in lists for frame in frames]),
                _host([page] * len(lists)),
                num_qo_heads=q.shape[1],
                num_kv_heads=k.shape[1],
                head_dim_qk=q.shape[2],
                page_size=page,
                causal=False,
                sm_scale=scale,
                q_data_type=q.dtype,  # by default all three are float16
                kv_data_type=q.dtype,
                o_data_type=q.dtype,
            )
            self._planned[here] = key
            if device.type == "cuda":
                self._read[here] = torch.cuda.Event()  # type: ignore[no-untyped-call]
                self._read[here].record(torch.cuda.current_stream(device))
        return self._wrappers[here]


@lru_cache(maxsize=256)
def frame_lists(
    pattern: Pattern, layout: TokenLayout, without: tuple[int, ...]
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Groups of query rows: where each starts (and where the last ends), and the places of the frames it attends to.

    Args:
        without: frames to leave out. Padding gets one frame, any one: its rows are set to zero afterwards.
    """
    left_out = set(without)
    places = {frame: place for place, frame in enumerate(layout.held_frames) if frame not in left_out}
    every = tuple(places.values())
    groups = spans(pattern, layout)
    lists = []
    first, end = layout.q_before, layout.q_before + layout.real_rows
    for row in groups.q_starts[:-1]:
        if first <= row < end:
            frame = (layout.q_offset + row - first) // layout.grid.patches
            lists.append(tuple(places[x] for x in pattern.attended(frame) if x in places))
        else:
            lists.append(every[:1] if end <= row < layout.q_before + layout.video_rows else every)
    return list(groups.q_starts), lists


def _prefix(x: Tensor, layout: TokenLayout, frames: tuple[int, ...]) -> Tensor:
    """A copy of the other tokens and of some frames of keys or values [Sk, H, D]."""
    before, after, patches = layout.kv_before, layout.kv_after, layout.grid.patches
    copy = x.new_empty(before + after + len(frames) * patches, *x.shape[1:])
    copy[:before] = x[:before]
    copy[before : before + after] = x[layout.kv_tokens - after :]
    if frames:
        places = {frame: place for place, frame in enumerate(layout.held_frames)}
        order = frame_indices(tuple(places[frame] for frame in frames), x.device)
        frames_in_order(_video(x, layout), order, 0, copy[before + after :].view(-1, patches, *x.shape[1:]))
    return copy


def _video(x: Tensor, layout: TokenLayout) -> Tensor:
    """A view of the frames [T, P, H, D] of keys or values [Sk, H, D]."""
    first = layout.kv_before
    return x[first : first + layout.kv_rows].view(-1, layout.grid.patches, *x.shape[1:])


def _dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output [Sq, H, D] and log-sum-exp [Sq, H] to base 2."""
    from flashinfer import single_prefill_with_kv_cache

    attention: Callable[..., tuple[Tensor, Tensor]] = single_prefill_with_kv_cache
    return attention(q, k, v, causal=False, kv_layout="NHD", sm_scale=scale, return_lse=True)


def _host(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device="cpu")


def _missing() -> str | None:
    """What is missing to run FlashInfer: the package, or its compiled kernels and a compiler for them."""
    if importlib.util.find_spec("flashinfer") is None:
        return "FlashInfer is not installed: pip install flashinfer-python"
    version = _version("flashinfer-python")
    if importlib.util.find_spec("flashinfer_jit_cache") is not None:
        compiled = _version("flashinfer-jit-cache").partition("+")[0]
        if compiled == version:
            return None
        return (
            f"flashinfer-jit-cache {compiled} does not fit FlashInfer {version}: "
            f"install flashinfer-jit-cache=={version}"
        )
    if _nvcc() and shutil.which("ninja"):
        return None
    return (
        f"FlashInfer {version} finds no {'ninja' if _nvcc() else 'nvcc'} to compile its kernels with: "
        f"install the CUDA toolkit and ninja, or the wheel flashinfer-jit-cache=={version}"
    )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # built from source
        return "of unknown version"


def _nvcc() -> bool:
    """Whether the CUDA compiler is installed where FlashInfer looks for it."""
    try:
        from flashinfer.jit.cpp_ext import get_cuda_path
    except ImportError:  # another version of FlashInfer: the self-test will show
        return True
    try:
        return (Path(get_cuda_path()) / "bin" / "nvcc").exists()
    except RuntimeError:
        return False
