"""The workers of one engine must have the same settings: a rank with another pattern makes every video wrong."""

from __future__ import annotations

import json
from datetime import timedelta
from importlib.metadata import version

import torch.distributed as dist

from lvsa_vllm_omni.settings import PREFIX, LvsaSettings

#: Seconds to wait for what other ranks say when they load the model, which is before the first request.
WAIT = 20.0

#: Settings that do not change the video.
_LOCAL = ("warn_fallback", "mem_log", "step_time_log", "mask_log", "cpu")

_KEY = "lvsa/settings/{}"


class SettingsDiffer(RuntimeError):
    """Ranks have different settings; the message names the setting, the values and the ranks."""


def ranks() -> int:
    """How many processes run the model together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def publish(settings: LvsaSettings, reference_frames: int) -> None:
    """Tell the other ranks this one's settings, when a model is loaded; without other ranks nothing happens.

    It goes through the store that the ranks met at: no collective, so that no rank waits for one that has LVSA off.
    """
    if ranks() > 1:
        _store().set(_KEY.format(dist.get_rank()), json.dumps(_facts(settings, reference_frames)))


def check() -> None:
    """Compare with what the other ranks have told, at the first request.

    Raises:
        SettingsDiffer: on every rank that has LVSA, if one has told something else, or nothing (it has LVSA off).
    """
    if ranks() == 1:
        return
    store, keys, mine = _store(), [_KEY.format(rank) for rank in range(ranks())], dist.get_rank()
    try:
        store.wait(keys, timedelta(seconds=WAIT))
    except dist.DistStoreError:  # out of time
        silent = ", ".join(str(rank) for rank, key in enumerate(keys) if not store.check([key]))
        raise SettingsDiffer(
            f"rank {silent} does not run LVSA, but rank {mine} does: install the plugin and set the same {PREFIX}* "
            f"variables on every rank"
        ) from None
    told = [json.loads(store.get(key)) for key in keys]
    for rank, facts in enumerate(told):
        for name in {**facts, **told[mine]}:
            if facts.get(name) != told[mine].get(name):
                raise SettingsDiffer(
                    f"{name} is {facts.get(name)!r} on rank {rank} and {told[mine].get(name)!r} on rank {mine}: every "
                    f"rank needs the same settings and the same version of the plugin"
                )


def _facts(settings: LvsaSettings, reference_frames: int) -> dict[str, object]:
    named = {
        f"{PREFIX}{name.upper()}": value
        for name, value in settings.model_dump(mode="json").items()
        if name not in _LOCAL
    }
    return {**named, "the reference in latent frames": reference_frames, "lvsa-vllm-omni": version("lvsa-vllm-omni")}


def _store() -> dist.Store:
    """The store of the default process group."""
    return dist.distributed_c10d._get_default_store()
