"""What stands in on the CPU for kernels that need a GPU: the same operators and signatures, the arithmetic in PyTorch.

They refuse arguments that the real ones refuse, and return for rows without keys what the real ones return.
"""

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

#: The signature of vLLM's build, as its library registers it: no argument has a default.
VLLM_FA3 = (
    "fwd(Tensor! q, Tensor k, Tensor v, Tensor? k_new, Tensor? v_new, Tensor? q_v, Tensor!? out, Tensor? cu_seqlens_q, "
    "Tensor? cu_seqlens_k, Tensor? cu_seqlens_k_new, Tensor? seqused_q, Tensor? seqused_k, int? max_seqlen_q, "
    "int? max_seqlen_k, Tensor? page_table, Tensor? kv_batch_idx, Tensor? leftpad_k, Tensor? rotary_cos, "
    "Tensor? rotary_sin, Tensor? seqlens_rotary, Tensor? q_descale, Tensor? k_descale, Tensor? v_descale, "
    "float softmax_scale, bool is_causal, int window_size_left, int window_size_right, float softcap, "
    "bool is_rotary_interleaved, Tensor? scheduler_metadata, int num_splits, bool? pack_gqa, int sm_margin, "
    "Tensor? s_aux, int cp_world_size, int cp_rank, Tensor? cp_tot_seqused_k) -> Tensor[]"
)
#: The signature of fa3-fwd 0.0.3.
FA3_FWD = (
    "fwd(Tensor q, Tensor k, Tensor v, Tensor(k_new!)? k_new=None, Tensor(v_new!)? v_new=None, Tensor? q_v=None, "
    "Tensor(out!)? out=None, Tensor? cu_seqlens_q=None, Tensor? cu_seqlens_k=None, Tensor? cu_seqlens_k_new=None, "
    "Tensor? seqused_q=None, Tensor? seqused_k=None, int? max_seqlen_q=None, int? max_seqlen_k=None, "
    "Tensor? page_table=None, Tensor? kv_batch_idx=None, Tensor? leftpad_k=None, Tensor? rotary_cos=None, "
    "Tensor? rotary_sin=None, Tensor? seqlens_rotary=None, Tensor? q_descale=None, Tensor? k_descale=None, "
    "Tensor? v_descale=None, float? softmax_scale=None, bool is_causal=False, int window_size_left=-1, "
    "int window_size_right=-1, int attention_chunk=0, float softcap=0., bool is_rotary_interleaved=False, "
    "Tensor? scheduler_metadata=None, int num_splits=0, bool? pack_gqa=None, int sm_margin=0) "
    "-> (Tensor(out!), Tensor, Tensor, Tensor)"
)


def dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output [N, Sq, H, D] and natural log-sum-exp [N, H, Sq] float32 of softmax attention, written out."""
    group = q.shape[2] // k.shape[2]
    wide = torch.promote_types(q.dtype, torch.float32)
    keys, values = (x.to(wide).repeat_interleave(group, 2) for x in (k, v))
    scores = torch.einsum("nqhd,nkhd->nhqk", q.to(wide) * scale, keys)
    out = torch.einsum("nhqk,nkhd->nqhd", scores.softmax(-1), values)
    return out.to(q.dtype), scores.logsumexp(-1)


def varlen(q: Tensor, k: Tensor, v: Tensor, scale: float, lists: list[tuple[int, int, Tensor]], empty: float) -> Any:
    """Groups of rows, each (first, end, indices of its keys); output [S, H, D], log-sum-exp [H, S]."""
    out, lse = torch.zeros_like(q), torch.full((q.shape[1], q.shape[0]), empty, dtype=torch.float32)
    if q.dtype == torch.float64:
        lse = lse.double()
    for first, end, keys in lists:
        if len(keys):
            found = dense(q[None, first:end], k[None, keys], v[None, keys], scale)
            out[first:end], lse[:, first:end] = found[0][0], found[1][0]
    return out, lse


def groups(q: Tensor, k: Tensor, q_starts: Tensor, k_starts: Tensor, k_rows: Tensor, max_q: int, max_k: int) -> Any:
    """The lists of :func:`varlen` from starts and lengths, after the checks of FlashAttention's own entry points."""
    assert q.ndim == k.ndim == 3 and len(q_starts) == len(k_starts) == len(k_rows) + 1
    for x in (q_starts, k_starts, k_rows):
        assert x.dtype == torch.int32 and x.is_contiguous()
    starts, firsts, lengths = q_starts.tolist(), k_starts.tolist(), k_rows.tolist()
    assert starts[0] == 0 and starts[-1] == q.shape[0] and starts == sorted(starts)
    assert max(b - a for a, b in pairwise(starts)) <= max_q and max(lengths) <= max_k
    assert all(0 <= a <= a + n <= k.shape[0] for a, n in zip(firsts, lengths, strict=False))
    return [(starts[i], starts[i + 1], torch.arange(firsts[i], firsts[i] + lengths[i])) for i in range(len(lengths))]


def flash3(**given: Any) -> list[Tensor]:
    """FlashAttention-3's ``fwd``: rows without keys get 0 and a log-sum-exp of minus infinity."""
    q, k, v, scale = given["q"], given["k"], given["v"], given["softmax_scale"]
    allowed = {"out", "cu_seqlens_q", "cu_seqlens_k", "seqused_k", "max_seqlen_q", "max_seqlen_k"}
    neutral = {"window_size_left": -1, "window_size_right": -1, "num_splits": 1, "cp_world_size": 1}
    for name, value in given.items():
        if name not in allowed | {"q", "k", "v", "softmax_scale"}:
            assert value == neutral.get(name, value if value in (None, 0) else "?"), (name, value)
    if given["cu_seqlens_q"] is None:
        out, lse = dense(q, k, v, scale)
    else:
        names = ("cu_seqlens_q", "cu_seqlens_k", "seqused_k", "max_seqlen_q", "max_seqlen_k")
        lists = groups(q, k, *(given[name] for name in names))
        out, lse = varlen(q, k, v, scale, lists, -math.inf)
    if given["out"] is not None:
        assert given["out"].shape == out.shape and given["out"].dtype == out.dtype and given["out"].stride(-1) == 1
        out = given["out"].copy_(out)
    return [out, lse, torch.empty(0), torch.empty(0)]


def flash2(
    q: Tensor, k: Tensor, v: Tensor, q_starts: Tensor | None, k_starts: Tensor | None, max_q: int, max_k: int,
    dropout: float, causal: bool, debug: bool, *, scale: float, seqused_k: Tensor | None = None, **more: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    """PyTorch's FlashAttention-2: rows without keys get 0 and a log-sum-exp of plus infinity."""
    assert not (dropout or causal or debug or any(x is not None for x in more.values()))
    rest = (torch.empty(2), torch.empty(0), torch.empty(0))
    if q_starts is None:
        assert q.ndim == 4 and (max_q, max_k) == (q.shape[1], k.shape[1])
        return (*dense(q, k, v, scale), *rest)
    assert k_starts is not None and seqused_k is not None
    return (*varlen(q, k, v, scale, groups(q, k, q_starts, k_starts, seqused_k, max_q, max_k), math.inf), *rest)


def flash4_dense(q: Tensor, k: Tensor, v: Tensor, *, softmax_scale: float, return_lse: bool) -> tuple[Tensor, Tensor]:
    """FlashAttention-4's ``flash_attn_func``."""
    assert q.ndim == 4 and return_lse
    return dense(q, k, v, softmax_scale)


def flash4_varlen(
    q: Tensor, k: Tensor, v: Tensor, *, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, seqused_k: Tensor,
    max_seqlen_q: int, max_seqlen_k: int, softmax_scale: float, return_lse: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """FlashAttention-4's ``flash_attn_varlen_func``: rows without keys get 0 and a log-sum-exp of minus infinity."""
    assert return_lse
    lists = groups(q, k, cu_seqlens_q, cu_seqlens_k, seqused_k, max_seqlen_q, max_seqlen_k)
    found: tuple[Tensor, Tensor] = varlen(q, k, v, softmax_scale, lists, -math.inf)
    return found


#: The module that has both.
FLASH4 = "vllm.vllm_flash_attn.cute.interface"


@contextmanager
def flash4() -> Iterator[None]:
    """The module of FlashAttention-4, which cannot be imported without a GPU."""
    module: Any = ModuleType(FLASH4)
    module.flash_attn_func, module.flash_attn_varlen_func = flash4_dense, flash4_varlen
    sys.modules[FLASH4] = module
    try:
        yield
    finally:
        del sys.modules[FLASH4]


def cudnn(q: Tensor, k: Tensor, v: Tensor, bias: Any, with_lse: bool, *rest: Any, scale: float) -> tuple[Any, ...]:
    """cuDNN's attention [N, H, S, D]; its log-sum-exp has a fourth dimension."""
    assert bias is None and with_lse
    out, lse = dense(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale)
    empty = torch.empty(0)
    return out.transpose(1, 2), lse.unsqueeze(-1), empty, empty, q.shape[2], k.shape[2], empty, empty, empty


def npu_fusion_attention(
    query: Tensor, key: Tensor, value: Tensor, head_num: int, input_layout: str, *, scale: float = 1.0,
    keep_prob: float = 1.0,
) -> tuple[Any, ...]:  # fmt: skip
    """torch_npu's operator: statistics [N, H, Sq, 8] with each number eight times."""
    assert input_layout == "BSND" and head_num == query.shape[2] and keep_prob == 1.0
    assert all(x.is_contiguous() for x in (query, key, value))
    out, lse = dense(query, key, value, scale)
    largest = lse - 0.7  # any split of the log-sum-exp into a largest score and a sum of exponentials
    statistics = [x.unsqueeze(-1).expand(*lse.shape, 8) for x in (largest, (lse - largest).exp())]
    return out, *statistics, torch.empty(0), 0, 0, 0


@contextmanager
def operator(namespace: str, name: str, function: Callable[..., Any], schema: str | None = None) -> Iterator[None]:
    """Give a PyTorch operator a CPU implementation, and define it first if no library has."""
    defined = hasattr(getattr(torch.ops, namespace), name)
    with torch.library._scoped_library(namespace, "FRAGMENT" if not defined else "IMPL") as library:
        if not defined:
            assert schema is not None
            library.define(schema)
        found = getattr(getattr(torch.ops, namespace), name).default._schema

        def by_name(*args: Any, **kwargs: Any) -> Any:
            return function(**dict(zip((x.name for x in found.arguments), args, strict=False)), **kwargs)

        library.impl(name, by_name if function is flash3 else function, "CPU")
        yield


class PagedWrapper:
    """FlashInfer's paged prefill: checks the arguments against the real class, log-sum-exps [S, H] to base 2."""

    real: Any  # the class it stands in for
    plans = 0

    def __init__(self, workspace: Tensor, kv_layout: str) -> None:
        assert workspace.dtype == torch.uint8 and kv_layout == "NHD"

    def plan(self, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(self.real.plan).bind(self, *args, **kwargs)
        bound.apply_defaults()
        self.planned = bound.arguments
        type(self).plans += 1
        assert self.planned["q_data_type"] == self.planned["kv_data_type"] == self.planned["o_data_type"]
        for name in ("qo_indptr", "paged_kv_indptr", "paged_kv_indices", "paged_kv_last_page_len"):
            assert self.planned[name].dtype == torch.int32 and self.planned[name].device.type == "cpu"
        counts = self.planned["paged_kv_indptr"].diff()
        assert len(self.planned["qo_indptr"]) == len(counts) + 1 and counts.min() > 0
        assert (self.planned["paged_kv_last_page_len"] == self.planned["page_size"]).all()

    def run(self, q: Tensor, paged: tuple[Tensor, Tensor], *, return_lse: bool) -> tuple[Tensor, Tensor]:
        plan, (k, v) = self.planned, paged
        assert return_lse and q.is_contiguous() and q.dtype == plan["q_data_type"]
        assert q.shape == (plan["qo_indptr"][-1], plan["num_qo_heads"], plan["head_dim_qk"])
        assert k.stride() == v.stride()  # batch_prefill_sm90.cu
        assert k.shape[1:] == (plan["page_size"], plan["num_kv_heads"], plan["head_dim_qk"])
        rows, first, pages = (plan[x].tolist() for x in ("qo_indptr", "paged_kv_indptr", "paged_kv_indices"))
        tokens = torch.arange(k.shape[0] * k.shape[1]).view(k.shape[:2])
        lists = [(rows[i], rows[i + 1], tokens[pages[first[i] : first[i + 1]]].flatten()) for i in range(len(rows) - 1)]
        out, lse = varlen(q, k.flatten(0, 1), v.flatten(0, 1), plan["sm_scale"], lists, -math.inf)
        return out, lse.t().contiguous() / math.log(2)


def single_prefill(real: Any) -> Callable[..., Any]:
    """FlashInfer's dense call: log-sum-exp [S, H] to base 2."""

    def call(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        given = inspect.signature(real).bind(*args, **kwargs)
        given.apply_defaults()
        arguments = given.arguments
        assert arguments["kv_layout"] == "NHD" and arguments["return_lse"] and not arguments["causal"]
        out, lse = dense(*(arguments[x][None] for x in "qkv"), arguments["sm_scale"])
        return out[0], lse[0].t().contiguous() / math.log(2)

    return call
