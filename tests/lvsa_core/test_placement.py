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
def test_ulysses(others: dict[str, int]) -> None:
    decision = Placement(ulysses=4, **others).decide()
    assert decision == Decision("sparse", "Ulysses gathers the whole sequence, each rank holds some heads")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("ring", "ring attention (degree 2) bypasses the attention backend"),
        ("allgather_kv", "AllGather-KV (degree 2) gives a rank part of the queries, which is not supported"),
    ],
)
@pytest.mark.parametrize("ulysses", [1, 2])
def test_refused(name: str, problem: str, ulysses: int) -> None:
    decision = Placement(**{name: 2, "ulysses": ulysses}).decide()
    assert decision == Decision("refused", f"{problem}: use Ulysses with the same degree")


@pytest.mark.parametrize("name", ["tp", "cfg", "pp", "hsdp", "ulysses", "ring", "allgather_kv"])
@pytest.mark.parametrize("degree", [0, -1, 2.0, True, "2"])
def test_degrees(name: str, degree: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be an integer of at least 1, got {degree!r}$"):
        Placement(**{name: degree})


def test_values() -> None:
    assert Placement(tp=2) == Placement(tp=2) and len({Placement(), Placement(), Placement(cfg=2)}) == 2
    with pytest.raises(AttributeError):
        Decision("dense", "because").reason = "why not"  # type: ignore[misc]
