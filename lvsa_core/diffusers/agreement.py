"""The ranks of one video must have the same knobs and the same noise: else it is wrong, or they wait for each other."""

from __future__ import annotations

import json
from collections import Counter
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

#: How often this process has compared itself with these ranks.
_times: Counter[str] = Counter()


class RanksDiffer(RuntimeError):
    """Ranks that make one video together were told different things; the message names what, where, and the remedy."""


def agree(ranks: Ranks, facts: Mapping[str, Any], latents: Tensor) -> None:
    """Compare with the other ranks, at the first step of a pipeline's call.

    It goes through the store that the ranks met at: no collective, so that none hangs where a rank has LVSA off.

    Args:
        facts: by name, what must be equal. latents: that the transformer is called with.

    Raises:
        RanksDiffer: on every rank, if one says something else, or nothing.
    """
    members = dist.get_process_group_ranks(ranks.world)
    group = "-".join(map(str, members))
    _times[group] += 1
    store = dist.distributed_c10d._get_default_store()
    keys = [f"lvsa_diffusers/{group}/{_times[group]}/{rank}" for rank in members]
    sample = latents.detach().flatten()[:: max(1, latents.numel() // 64)].float().tolist()
    store.set(keys[ranks.rank], json.dumps([{**facts, "the latents' shape": list(latents.shape)}, sample]))
    try:
        store.wait(keys, timedelta(seconds=WAIT))
    except RuntimeError:  # out of time; each store has its own
        silent = ", ".join(str(rank) for rank, key in zip(members, keys, strict=True) if not store.check([key]))
        raise RanksDiffer(
            f"rank {silent} does not run LVSA, or has failed, while rank {members[ranks.rank]} waits for it: call "
            f"enable_lvsa, and the pipeline, on every rank"
        ) from None
    first, *others = [json.loads(store.get(key)) for key in keys]
    for rank, (told, noise) in zip(members[1:], others, strict=True):
        for name in {**first[0], **told}:
            if first[0].get(name) != told.get(name):
                raise RanksDiffer(
                    f"{name} is {first[0].get(name)!r} on rank {members[0]} and {told.get(name)!r} on rank {rank}: "
                    f"every rank needs the same knobs of enable_lvsa and the same arguments of the pipeline's call"
                )
        if max(abs(x - y) for x, y in zip(first[1], noise, strict=True)) > OTHER_NOISE:
            raise RanksDiffer(
                f"the noise of rank {rank} is not that of rank {members[0]}: give the pipeline's call "
                f"generator=torch.Generator().manual_seed(...) of the same seed on every rank"
            )
