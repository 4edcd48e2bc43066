"""The ranks of one video must have the same knobs and the same noise: else it is wrong, or they wait for each other."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

from lvsa_core.diffusers.ranks import Ranks

#: Seconds to wait for what the other ranks say at a call's first step; loading the model may take one longer.
WAIT = 120.0
#: Difference of two latents that is no rounding; those of different seeds differ by about one.
OTHER_NOISE = 0.1


class RanksDiffer(RuntimeError):
    """Ranks that make one video together were told different things; the message names what, where, and the remedy."""


def agree(ranks: Ranks, facts: Mapping[str, Any], latents: Tensor) -> None:
    """Compare with the other ranks, at the first step of a pipeline's call.

    It goes through the store that the ranks met at: no collective, so that none hangs where a rank has LVSA off. The
    first rank opens a meeting of a name of its own and compares, the others tell it what they have and read its
    verdict. Nobody counts meetings: a rank that failed before one would count another number from then on.

    Args:
        facts: by name, what must be equal. latents: that the transformer is called with.

    Raises:
        RanksDiffer: on every rank, if one says something else, or nothing.
    """
    members = dist.get_process_group_ranks(ranks.world)
    sample = latents.detach().flatten()[:: max(1, latents.numel() // 64)].float().tolist()
    own = json.dumps([{**facts, "the latents' shape": list(latents.shape)}, sample])
    store = dist.distributed_c10d._get_default_store()
    door = f"lvsa_diffusers/{'-'.join(map(str, members))}"
    verdict = _lead(store, door, members, own) if ranks.rank == 0 else _follow(store, door, members, ranks.rank, own)
    if verdict:
        raise RanksDiffer(verdict)


def _lead(store: dist.Store, door: str, members: list[int], own: str) -> str:
    """The first rank's part: the verdict, empty if all agree."""
    meeting = f"{door}/{uuid.uuid4()}"
    keys = {rank: f"{meeting}/{rank}" for rank in members[1:]}
    store.set(door, meeting)
    try:
        if _there(store, list(keys.values()), WAIT):
            said = {members[0]: own, **{rank: store.get(key).decode() for rank, key in keys.items()}}
            verdict = _difference({rank: json.loads(text) for rank, text in said.items()})
        else:
            verdict = _silent([rank for rank, key in keys.items() if not store.check([key])], members[0])
    finally:
        store.delete_key(door)
    store.set(f"{meeting}/verdict", verdict or "agreed")
    return verdict


def _follow(store: dist.Store, door: str, members: list[int], index: int, own: str) -> str:
    """Another rank's part, as :func:`_lead`."""
    try:
        meeting = store.get(door).decode() if _there(store, [door], WAIT) else ""
    except RuntimeError:  # the first rank has closed it meanwhile
        meeting = ""
    if meeting:
        store.set(f"{meeting}/{members[index]}", own)
        if _there(store, [f"{meeting}/verdict"], WAIT + 10):  # the first may wait for a third rank
            verdict = store.get(f"{meeting}/verdict").decode()
            return "" if verdict == "agreed" else verdict
    return _silent(members[:1], members[index])


def _there(store: dist.Store, keys: list[str], seconds: float) -> bool:
    """Wait until all of them are set, at most so long."""
    try:
        store.wait(keys, timedelta(seconds=seconds))
    except RuntimeError:  # out of time; each store has its own
        return False
    return True


def _silent(silent: list[int], waiting: int) -> str:
    return (
        f"rank {', '.join(map(str, silent))} does not run LVSA, or has failed, while rank {waiting} waits for it: call "
        f"enable_lvsa, and the pipeline, on every rank"
    )


def _difference(said: Mapping[int, Any]) -> str:
    """The first difference between what the first rank has and what another says, as a sentence."""
    (first, (facts, noise)), *others = said.items()
    for rank, (told, other) in others:
        for name in {**facts, **told}:
            if facts.get(name) != told.get(name):
                return (
                    f"{name} is {facts.get(name)!r} on rank {first} and {told.get(name)!r} on rank {rank}: "
                    f"every rank needs the same knobs of enable_lvsa and the same arguments of the pipeline's call"
                )
        if max(abs(x - y) for x, y in zip(noise, other, strict=True)) > OTHER_NOISE:
            return (
                f"the noise of rank {rank} is not that of rank {first}: give the pipeline's call "
                f"generator=torch.Generator().manual_seed(...) of the same seed on every rank"
            )
    return ""
