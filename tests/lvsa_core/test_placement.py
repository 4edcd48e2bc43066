"""Decisions about the placement on several devices, each with its reason."""

from typing import Any

import pytest

from lvsa_core import Decision, Placement


@pytest.mark.parametrize(
    "placement",
    [
        Placement(),
        Placement(tp=4),
        Placement(cfg=2),
        Placement(pp=2),
        Placement(hsdp=8),
        Placement(tp=2, cfg=2, hsdp=2),
    ],
    ids=str,
)
def test_ranks_that_see_the_whole_sequence(placement: Placement) -> None:
    assert placement.decide() == Decision("sparse", "every rank's attention sees the whole sequence")


@pytest.mark.parametrize("others", [{}, {"tp": 2, "cfg": 2}])
@pytest.mark.parametrize(
    ("degrees", "reason"),
    [
        ({"ulysses": 4}, "Ulysses gathers the whole sequence, each rank holds some heads"),
        ({"allgather_kv": 4}, "AllGather-KV gathers all keys, each rank computes its rows"),
        ({"ring": 4}, "each rank holds its rows; it gets the anchors and its windows' frames from the others"),
        (
            {"ring": 2, "ulysses": 2},
            "a ring rank's rows are gathered by Ulysses; it gets the anchors and its windows' frames from the others",
        ),
    ],
)
def test_sequence_parallelism(degrees: dict[str, int], reason: str, others: dict[str, int]) -> None:
    placement = Placement(**degrees, **others)
    assert placement.decide() == placement.decide("keys first") == Decision("sparse", reason)
    joined = ", and the text's attention is joined from all ranks" if placement.ring > 1 else ""
    assert placement.decide("behind") == Decision("sparse", reason + joined)


@pytest.mark.parametrize("placement", [Placement(ring=2), Placement(ring=4, ulysses=2, cfg=2)], ids=str)
def test_a_kernel_without_log_sum_exp(placement: Placement) -> None:
    """Refused where text is joined from all ranks, with what to do; elsewhere it does not matter."""
    refused = placement.decide("behind", lse=False)
    assert refused.verdict == "refused" and "use Ulysses, or another kernel" in refused.reason
    assert placement.decide("none", lse=False) == placement.decide("none")
    assert placement.decide("keys first", lse=False) == placement.decide("keys first")
    for other in (Placement(), Placement(ulysses=4, tp=2), Placement(allgather_kv=2)):
        assert other.decide("behind", lse=False) == other.decide("behind")


@pytest.mark.parametrize("name", ["tp", "cfg", "pp", "hsdp", "ulysses", "ring", "allgather_kv"])
@pytest.mark.parametrize("degree", [0, -1, 2.0, True, "2"])
def test_degrees(name: str, degree: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be an integer of at least 1, got {degree!r}$"):
        Placement(**{name: degree})


def test_values() -> None:
    assert Placement(tp=2) == Placement(tp=2) and len({Placement(), Placement(), Placement(cfg=2)}) == 2
    with pytest.raises(AttributeError):
        Decision("dense", "because").reason = "why not"  # type: ignore[misc]
