"""Whether LVSA can compute the pattern when the model is placed on several devices, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lvsa_core.decide import Decision
from lvsa_core.grid import check_int


@dataclass(frozen=True)
class Placement:
    """How a model is placed on devices: the degree of each kind of parallelism, 1 if it is not used.

    Args:
        tp: tensor parallel. cfg: one guidance branch on each rank. pp: pipeline parallel. hsdp: sharded weights.
        ulysses: sequence parallel; each rank attends with some of the heads. ring: sequence parallel; keys circulate.
        allgather_kv: sequence parallel; each rank gathers all keys.

    Raises:
        ValueError: if a degree is not a positive integer.
    """

    tp: int = 1
    cfg: int = 1
    pp: int = 1
    hsdp: int = 1
    ulysses: int = 1
    ring: int = 1
    allgather_kv: int = 1

    def __post_init__(self) -> None:
        for name, degree in vars(self).items():
            check_int(name, degree, 1)

    def decide(self, text: Literal["none", "behind", "keys first"] = "none", *, lse: bool = True) -> Decision:
        """Whether LVSA is sparse under this placement, and why.

        Args:
            text: where the family's text stands in the self-attention; only ``behind`` means also among the queries.
            lse: whether the kernel returns a log-sum-exp, which joining outputs over parts of the keys needs.
        """
        if self.ring > 1 and text == "behind" and not lse:
            return Decision(
                "refused",
                "under Ring the text's queries need the log-sum-exp, which the kernel does not give: use Ulysses, or "
                "another kernel",
            )
        if self.ring > 1:
            rows = "a ring rank's rows are gathered by Ulysses" if self.ulysses > 1 else "each rank holds its rows"
            joined = ", and the text's attention is joined from all ranks" if text == "behind" else ""
            return Decision("sparse", f"{rows}; it gets the anchors and its windows' frames from the others{joined}")
        if self.allgather_kv > 1:
            return Decision("sparse", "AllGather-KV gathers all keys, each rank computes its rows")
        if self.ulysses > 1:
            return Decision("sparse", "Ulysses gathers the whole sequence, each rank holds some heads")
        return Decision("sparse", "every rank's attention sees the whole sequence")
