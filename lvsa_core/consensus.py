"""Ranks that make one video together must have been told the same: else it is wrong, or they wait for each other.

Each tells what it has through the store at which the ranks met, and compares what all have told. No collective is
involved, so that none hangs where a rank has LVSA off.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

#: Difference of two samples that is no rounding; those of noise of different seeds differ by about one.
OTHER_NOISE = 0.1

_AGREED = "agreed"


class RanksDiffer(RuntimeError):
    """Ranks that make one video together were told different things; the message names what, where, and the remedy."""


def tell(topic: str, facts: Mapping[str, Any], noise: Sequence[float] = ()) -> None:
    """Tell the other ranks what this one has.

    Args:
        topic: what it is about; the same on every rank. facts: by name, what must be equal.
        noise: some numbers of this rank's noise, which must be equal but for rounding.
    """
    _store().set(_key(topic, dist.get_rank()), json.dumps([dict(facts), list(noise)]))


def compare(topic: str, members: Sequence[int], wait: float, *, silent: str, differ: str, noise: str = "") -> None:
    """Compare what all members have told; each does, and comes to the same verdict.

    Args:
        topic: as in :func:`tell`. members: global ranks. wait: seconds for those that have not told yet.
        silent: what to say of ranks that tell nothing, with ``{silent}`` and ``{rank}``, this one.
        differ: the remedy where facts differ. noise: the remedy where the noise does.

    Raises:
        RanksDiffer: if one has told something else, or nothing.
    """
    store, keys = _store(), {rank: _key(topic, rank) for rank in members}
    if not _there(list(keys.values()), wait):
        missing = ", ".join(str(rank) for rank, key in keys.items() if not store.check([key]))
        if missing:  # or it came just now
            raise RanksDiffer(silent.format(silent=missing, rank=dist.get_rank()))
    told = {rank: json.loads(store.get(key)) for rank, key in keys.items()}
    (first, (facts, sample)), *others = told.items()
    for rank, (other_facts, other_sample) in others:
        for name in {**facts, **other_facts}:
            ours, theirs = facts.get(name), other_facts.get(name)
            if ours != theirs:
                raise RanksDiffer(f"{name} is {ours!r} on rank {first} and {theirs!r} on rank {rank}: {differ}")
        if any(abs(x - y) > OTHER_NOISE for x, y in zip(sample, other_sample, strict=True)):
            raise RanksDiffer(f"the noise of rank {rank} is not that of rank {first}: {noise}")


def meet(
    name: str, members: Sequence[int], facts: Mapping[str, Any], sample: Sequence[float], wait: float, **sentences: str
) -> None:
    """Tell and compare now, at a moment that comes again: what was told at an earlier one does not count.

    The first member gives each meeting a name of its own and compares; the others read its verdict: all go on, or none.
    Nobody counts meetings, as a rank that failed before one would count another number from then on.

    Args:
        name: of what the members do together. The others: as in :func:`tell` and :func:`compare`.

    Raises:
        RanksDiffer: on every member, as :func:`compare`.
    """
    door = f"lvsa/{name}/{'-'.join(map(str, members))}"
    if dist.get_rank() == members[0]:
        _lead(door, f"{name}/{uuid.uuid4()}", members, facts, sample, wait, **sentences)
    else:
        _follow(door, members[0], facts, sample, wait, sentences["silent"])


def _lead(
    door: str, topic: str, members: Sequence[int], facts: Mapping[str, Any], sample: Sequence[float], wait: float,
    **sentences: str,
) -> None:  # fmt: skip
    """The first member's part: open the meeting, compare, close it, and give the verdict."""
    store, verdict = _store(), "not given"
    tell(topic, facts, sample)
    store.set(door, topic)
    try:
        compare(topic, members, wait, **sentences)
        verdict = _AGREED
    except RanksDiffer as error:
        verdict = str(error)
        raise
    finally:
        store.delete_key(door)  # before anybody can go on to the next meeting
        store.set(_verdict(topic), verdict)


def _follow(door: str, first: int, facts: Mapping[str, Any], sample: Sequence[float], wait: float, silent: str) -> None:
    """Another member's part: tell, and read the verdict."""
    store = _store()
    try:
        topic = store.get(door).decode() if _there([door], wait) else ""
    except RuntimeError:  # the first member has closed the meeting meanwhile
        topic = ""
    if topic:
        tell(topic, facts, sample)
        if _there([_verdict(topic)], wait + 10):  # the first member may wait for a third one
            verdict = store.get(_verdict(topic)).decode()
            if verdict == _AGREED:
                return
            raise RanksDiffer(verdict)
    raise RanksDiffer(silent.format(silent=first, rank=dist.get_rank()))


def _there(keys: list[str], seconds: float) -> bool:
    """Wait until all of them are set, at most so long."""
    try:
        _store().wait(keys, timedelta(seconds=seconds))
    except RuntimeError:  # out of time; each store has its own
        return False
    return True


def _key(topic: str, rank: int) -> str:
    return f"lvsa/{topic}/{rank}"


def _verdict(topic: str) -> str:
    return f"lvsa/{topic}/verdict"


def _store() -> dist.Store:
    """The store of the default process group."""
    return dist.distributed_c10d._get_default_store()
