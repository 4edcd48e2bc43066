"""The families and the placements of the table, and which of them the engine itself cannot do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from tests.support.families import FAMILIES as ENGINE_FAMILIES
from tests.support.families import Family

#: Also VACE, for whose tests the table of placements is the only one.
FAMILIES = {**ENGINE_FAMILIES, "wan-vace": replace(ENGINE_FAMILIES["wan-i2v"], kind="wan-vace", image=False)}


@dataclass(frozen=True)
class Placed:
    """A placement.

    Args:
        ranks: number of processes. parallel: fields of the engine's ``DiffusionParallelConfig``.
        sizes: of the requests it is tested with. Only where the sequence is split do both matter.
        share: a rank's part of the attention calls; None where each rank has layers of its own.
        heads: sizes of the checkpoint where the usual ones do not do. grouped: the same for a model whose heads share
            keys and values (usually 4 heads, 2 of keys).
        decode: whether the VAE runs.
    """

    ranks: int
    parallel: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[str, ...] = ("odd",)
    share: float | None = 1.0
    heads: Mapping[str, int] = field(default_factory=dict)
    grouped: Mapping[str, int] = field(default_factory=dict)
    decode: bool = False

    @property
    def parts(self) -> int:
        """Among how many ranks one layer's queries are divided, by heads or by tokens."""
        degrees = ("tensor_parallel_size", "ulysses_degree", "ring_degree", "allgather_degree")
        return prod(self.parallel.get(name, 1) for name in degrees)

    def checkpoint(self, family: Family) -> dict[str, int]:
        """Sizes of the checkpoint."""
        return dict(self.grouped if family.grouped else self.heads)


TP, PP, CFG, DP = "tensor_parallel_size", "pipeline_parallel_size", "cfg_parallel_size", "data_parallel_size"
ULYSSES, RING, ALLGATHER = "ulysses_degree", "ring_degree", "allgather_degree"
VAE, TEXT, UAA = "vae_patch_parallel_size", "text_encoder_tp_size", {"ulysses_mode": "advanced_uaa"}
HSDP = {"use_hsdp": True, "hsdp_shard_size": 2}
EVEN, BOTH = ("even",), ("even", "odd")
#: Heads for four parts, and for two parts that are not equal; with grouped keys and values the heads of these count.
FOUR_PARTS, THREE, SIX = {"heads": 8, "kv_heads": 4}, {"heads": 3}, {"heads": 6, "kv_heads": 3}

#: Of Wan and HunyuanVideo and, those with AllGather-KV aside, of Cosmos 3.
EVERYWHERE = {
    "tp2": Placed(2, {TP: 2}),
    "cfg2": Placed(2, {CFG: 2}, share=0.5),
    "hsdp2": Placed(2, HSDP),
    "ulysses2": Placed(2, {ULYSSES: 2}, BOTH),
    "uaa2": Placed(2, {ULYSSES: 2, **UAA}),
    "uaa2-3heads": Placed(2, {ULYSSES: 2, **UAA}, BOTH, heads=THREE, grouped=SIX),
    "ring2": Placed(2, {RING: 2}, EVEN),
    "allgather2": Placed(2, {ALLGATHER: 2}, BOTH),
    "ulysses2-vae2-text2": Placed(2, {ULYSSES: 2, VAE: 2, TEXT: 2}, decode=True),
    "hsdp2-ulysses2": Placed(2, {**HSDP, ULYSSES: 2}),
    "hsdp2-ring2": Placed(2, {**HSDP, RING: 2}, EVEN),
    "hsdp2-allgather2": Placed(2, {**HSDP, ALLGATHER: 2}),
    "hsdp2-cfg2": Placed(2, {**HSDP, CFG: 2}, share=0.5),
    "hsdp4-ulysses2-ring2": Placed(4, {**HSDP, "hsdp_shard_size": 4, ULYSSES: 2, RING: 2}, EVEN),
    "tp2-cfg2": Placed(4, {TP: 2, CFG: 2}, share=0.5),
    "tp2-ulysses2": Placed(4, {TP: 2, ULYSSES: 2}, grouped=FOUR_PARTS),
    "tp2-ring2": Placed(4, {TP: 2, RING: 2}, EVEN),
    "tp2-allgather2": Placed(4, {TP: 2, ALLGATHER: 2}),
    "ulysses2-ring2": Placed(4, {ULYSSES: 2, RING: 2}, EVEN),
    "uaa2-ring2": Placed(4, {ULYSSES: 2, RING: 2, **UAA}, EVEN, heads=THREE, grouped=SIX),
    "ulysses2-cfg2": Placed(4, {ULYSSES: 2, CFG: 2}, share=0.5),
    "ring2-cfg2": Placed(4, {RING: 2, CFG: 2}, EVEN, share=0.5),
    "allgather2-cfg2": Placed(4, {ALLGATHER: 2, CFG: 2}, share=0.5),
    "hsdp2x2-ulysses4": Placed(
        4,
        {**HSDP, "hsdp_replicate_size": 2, ULYSSES: 4},
        grouped=FOUR_PARTS,
    ),
    "ring4": Placed(4, {RING: 4}, EVEN),
    "ulysses4": Placed(4, {ULYSSES: 4}, BOTH, grouped=FOUR_PARTS),
    "uaa4": Placed(4, {ULYSSES: 4, **UAA}),
    "allgather4": Placed(4, {ALLGATHER: 4}, BOTH),
}

#: Only Wan's pipelines have stages. Without the VAE of every rank the engine ends its text-to-video with an error.
STAGES = {
    "pp2": Placed(2, {PP: 2}, share=None),
    "pp2-vae2": Placed(2, {PP: 2, VAE: 2}, share=None, decode=True),
    "pp2-cfg2": Placed(4, {PP: 2, CFG: 2}, share=None),
    "pp2-tp2": Placed(4, {PP: 2, TP: 2}, share=None),
    "pp2-ulysses2": Placed(4, {PP: 2, ULYSSES: 2}, BOTH, share=None),
    "pp2-ring2": Placed(4, {PP: 2, RING: 2}, EVEN, share=None),
    "pp2-allgather2": Placed(4, {PP: 2, ALLGATHER: 2}, share=None),
    "pp4": Placed(4, {PP: 4}, share=None, heads={"layers": 5}),
}
#: Where the engine takes the option and lets every rank do everything.
REPLICATED = {"dp2": Placed(2, {DP: 2}), "pp2-ignored": Placed(2, {PP: 2})}

ALL = {**EVERYWHERE, **STAGES, **REPLICATED}


def _table() -> Iterator[tuple[str, str]]:
    """Family and placement of every case that the engine can do."""
    for placement in (*EVERYWHERE, *STAGES, "dp2"):
        yield "wan", placement
    for placement in (*EVERYWHERE, "dp2", "pp2-ignored"):
        yield "hunyuan", placement
    for placement in (*EVERYWHERE, "dp2", "pp2-ignored"):
        if ALLGATHER not in ALL[placement].parallel:
            yield "cosmos3", placement
    for family in ("wan-i2v", "wan-ti2v", "wan-a14b", "hunyuan-i2v"):
        for placement in ("cfg2", "ulysses2", "ring2", "allgather2"):
            yield family, placement
    for family in ("wan-i2v", "wan-ti2v", "wan-a14b"):
        yield family, "pp2"
    for placement in ("ulysses2", "ring2"):
        yield "wan-vace", placement
    yield "wan-a14b", "hsdp2"


CASES = [(family, placement, size) for family, placement in _table() for size in ALL[placement].sizes]

#: The part of the table that every run of the tests covers: each way of LVSA with each kind of text, and what a rank's
#: share of the tokens or heads can be, and once each model and what else stands beside the ranks.
SAMPLE = {
    *(
        (family, way)
        for family in ("wan", "hunyuan", "cosmos3")
        for way in ("tp2", "ulysses2", "ring2", "ulysses2-ring2")
    ),
    *((family, "allgather2") for family in ("wan", "hunyuan")),
    *(("wan", other) for other in ("hsdp2", "pp2-vae2", "pp2-ring2", "ring4")),
    *(("hunyuan", other) for other in ("cfg2", "uaa2-3heads", "hsdp2-ring2")),
    ("cosmos3", "uaa4"),
    *(("wan-i2v", "allgather2"), ("wan-ti2v", "ring2"), ("wan-a14b", "ulysses2"), ("wan-vace", "ring2")),
}

#: Limits that every run of the tests tries with LVSA; the others come with the whole table.
LIMITS_SAMPLE = ("ring, uneven, joint text", "AllGather-KV, causal text", "strict Ulysses, 3 heads")

#: What the engine itself refuses, or breaks at: family, placement, size, and what it says.
LIMITS = {
    "ring, uneven": ("wan", Placed(2, {RING: 2}), "odd", "Cannot use Ring attention which does not support"),
    "ring, uneven, joint text": (
        "hunyuan",
        Placed(2, {RING: 2}),
        "odd",
        "Cannot use Ring attention which does not",
    ),
    "ring, uneven, text keys": (
        "cosmos3",
        Placed(2, {RING: 2}),
        "odd",
        "Cannot use Ring attention which does not",
    ),
    "AllGather-KV, causal text": (
        "cosmos3",
        Placed(2, {ALLGATHER: 2}),
        "even",
        "AllGather-KV SP only supports non-causal attention",
    ),
    "AllGather-KV and Ulysses": ("wan", Placed(4, {ALLGATHER: 2, ULYSSES: 2}), "even", "mutually exclusive"),
    "HSDP and TP": ("wan", Placed(2, {**HSDP, TP: 2}), "even", "not compatible"),
    "strict Ulysses, 3 heads": (
        "wan",
        Placed(2, {ULYSSES: 2}, heads=THREE),
        "even",
        "requires head_cnt divisible by ulysses_degree",
    ),
    "strict Ulysses, 3 heads, joint text": (
        "hunyuan",
        Placed(2, {ULYSSES: 2}, heads=THREE),
        "even",
        "requires joint head_cnt divisible by ulysses_degree",
    ),
    "strict Ulysses, 2 heads of keys": (
        "cosmos3",
        Placed(4, {ULYSSES: 4}),
        "even",
        "requires joint head_cnt divisible by ulysses_degree",
    ),
    "TP, 3 heads": ("wan", Placed(2, {TP: 2}, heads=THREE), "even", "3 is not divisible by 2"),
    "masked padding": (
        "wan",
        Placed(2, {ULYSSES: 2, "mask_sp_padding": True}),
        "odd",
        "'NoneType' object has no attribute 'all'",
    ),
    "stages, and a VAE on the first": (
        "wan",
        Placed(2, {PP: 2}, decode=True),
        "even",
        "'NoneType' object has no attribute 'dim'",
    ),
}
