"""The workers of one engine must have the same settings: a rank with another pattern makes every video wrong."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version

import torch.distributed as dist

from lvsa_core import consensus
from lvsa_vllm_omni.settings import LOCAL, PREFIX, LvsaSettings

#: Seconds to wait for what other ranks say when they load the model, which is before the first request.
WAIT = 20.0

_TOPIC = "settings"


def count() -> int:
    """How many processes run the model together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def publish(settings: LvsaSettings, reference_frames: int) -> None:
    """Tell the other ranks this one's settings, when a model is loaded; without other ranks nothing happens."""
    if count() == 1:
        return
    named = {f"{PREFIX}{name.upper()}": value for name, value in asdict(settings).items() if name not in LOCAL}
    more = {"the reference in latent frames": reference_frames, "lvsa-vllm-omni": version("lvsa-vllm-omni")}
    consensus.tell(_TOPIC, {**named, **more})


def check() -> None:
    """Compare with what the other ranks have told, at the first request.

    Raises:
        RanksDiffer: on every rank that has LVSA, if one has told something else, or nothing (it has LVSA off).
    """
    if count() > 1:
        consensus.compare(
            _TOPIC,
            range(count()),
            WAIT,
            silent="rank {silent} does not run LVSA, but rank {rank} does: install the plugin and set the same "
            f"{PREFIX}* variables on every rank",
            differ="every rank needs the same settings and the same version of the plugin",
        )
