"""Differences between vLLM-Omni versions, asked by capability."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import torch

from lvsa_core import Placement
from lvsa_vllm_omni.hooks import HookError

#: The oldest and the newest vLLM-Omni that the tests run on: docs/install.md has the table.
TESTED = ("0.22", "0.30")
#: What helps where an engine does not fit.
INSTALL_TESTED = f"install vllm and vllm-omni {' to '.join(TESTED)}"

#: By which the engine's attention configuration chooses LVSA; see :mod:`lvsa_vllm_omni.by_name`.
BACKEND_NAME = "LVSA"

#: Attributes of an attention layer that hold what computes it. Older layers send every call in float32 to the second,
#: whatever was chosen.
IMPLEMENTATIONS = ("attention", "sdpa_fallback")


def check_release(*, allow: bool) -> str:
    """A sentence about an installed vLLM-Omni that the tests do not run on, empty for one that they do.

    A newer one runs if every hook fits; an older one only if the user asks for it.

    Args:
        allow: whether the user does (LVSA_ALLOW_UNTESTED).

    Raises:
        HookError: if it is older, and the user does not.
    """
    try:
        found = version("vllm-omni")
    except PackageNotFoundError:  # a copy of the sources on the path
        return ""
    oldest, newest, number = (_number(text) for text in (*TESTED, found))
    if oldest <= number <= newest:
        return ""
    tested = f"LVSA is tested with {TESTED[0]} to {TESTED[1]}"
    if number > newest:
        return f"vLLM-Omni {found} is newer: {tested}. It runs, as every hook fits"
    if not allow:
        raise HookError(
            f"vLLM-Omni {found} is too old: {tested}. Install one of these, or set LVSA_ALLOW_UNTESTED=1 to try"
        )
    return f"vLLM-Omni {found} is older: {tested}. It is tried, as LVSA_ALLOW_UNTESTED=1 asks"


def _number(text: str) -> tuple[int, ...]:
    """Major and minor number of a release."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def default_backend(head_size: int) -> tuple[Any, dict[str, Any]]:
    """The dense backend class of a layer that chose ``LVSA`` by name: the configured default, else the platform's.

    Args:
        head_size: channels of one head; -1 if not known.

    Returns:
        The class, and the arguments of its implementation that tell how it was chosen.
    """
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm_omni.diffusion.model_metadata import get_diffusion_model_metadata
    from vllm_omni.platforms import current_omni_platform

    config = diffusion_config()
    default = getattr(getattr(config, "diffusion_attention_config", None), "default", None)
    name = getattr(default, "backend", None)
    if name is not None and name.upper() == BACKEND_NAME:
        default = name = None
    resolve = current_omni_platform.get_diffusion_attn_backend_cls
    options: dict[str, Any] = {}
    if "allow_trtllm_default" in inspect.signature(resolve).parameters:
        metadata = get_diffusion_model_metadata(getattr(config, "model_class_name", None))
        options["allow_trtllm_default"] = getattr(metadata, "attention_mask_free", False)
    kwargs = None
    if default is not None:  # older releases take any option
        kwargs = default.backend_kwargs() if hasattr(default, "backend_kwargs") else default.extra or None
    chosen = {"backend_kwargs": kwargs, "backend_explicit": default is not None}
    return resolve_obj_by_qualname(resolve(name, head_size, **options)), chosen


def head_size(layer: Any) -> int:
    """Channels of one head of an attention layer; older ones keep only the scale, which is its inverse square root."""
    found = getattr(layer, "head_size", None)
    return int(found if found is not None else round(layer.softmax_scale**-2))


def diffusion_config() -> Any:
    """The engine's configuration: while a model is built, or of the running request; None outside both."""
    from vllm_omni.diffusion.config import get_current_diffusion_config_or_none

    context = forward_context()
    return get_current_diffusion_config_or_none() or getattr(context, "omni_diffusion_config", None)


def forward_context() -> Any:
    """The engine's context of the running request, None outside one."""
    from vllm_omni.diffusion.forward_context import get_forward_context, is_forward_context_available

    return get_forward_context() if is_forward_context_available() else None


def client_error(sentence: str) -> Exception:
    """What to raise inside a request that cannot be served as it was asked: the server answers it with status 400."""
    return client_error_class()(sentence)


def client_error_class() -> type[Exception]:
    """The engine's class of such errors; a built-in one where the engine knows none, and answers with status 500."""
    try:
        from vllm_omni.errors import OmniClientError
    except ImportError:
        return ValueError
    return OmniClientError


def pipeline_index(config: Any) -> Mapping[str, Any]:
    """``model_index.json`` of the running model, empty where it cannot be read."""
    from vllm_omni.diffusion.utils import hf_utils

    model = getattr(config, "model", None)
    if not model:
        return {}
    try:
        read = getattr(hf_utils, "get_diffusion_model_index", None) or hf_utils.load_diffusers_config
        return read(model) or {}
    except Exception:  # a hub that does not answer: only the choice between presets of one reference depends on it
        return {}


def transformer_config(config: Any) -> Mapping[str, Any]:
    """``config.json`` of the running model's transformer, empty where the engine has read none."""
    return dict(getattr(getattr(config, "tf_model_config", None), "params", {}))


def placement(config: Any) -> Placement:
    """Degrees of parallelism that the engine runs with."""
    parallel = getattr(config, "parallel_config", None)

    def degree(name: str) -> int:
        return int(getattr(parallel, name, 1) or 1)

    return Placement(
        tp=degree("tensor_parallel_size"),
        cfg=degree("cfg_parallel_size"),
        pp=degree("pipeline_parallel_size"),
        hsdp=degree("hsdp_shard_size") if getattr(parallel, "use_hsdp", False) else 1,
        ulysses=degree("ulysses_degree"),
        ring=degree("ring_degree"),
        allgather_kv=degree("allgather_degree"),
    )


def text_metadata(text: tuple[torch.Tensor, torch.Tensor] | None, *, behind: bool) -> Any:
    """Metadata that hands text keys and values, which every rank has, to the engine's ring; None without text."""
    if text is None:
        return None
    from vllm_omni.diffusion.attention.backends.abstract import AttentionMetadata

    return AttentionMetadata(joint_key=text[0], joint_value=text[1], joint_strategy="rear" if behind else "front")


class SequenceRank(NamedTuple):
    """This process's place among those whose attention holds parts of one sequence, after what the engine gathers.

    Args:
        rank, ranks: which of how many equal parts the queries are.
        group: the ranks, in this order, among which the keys are divided too (ring); None if the keys are whole.
    """

    rank: int = 0
    ranks: int = 1
    group: Any = None


#: Where the attention holds the whole sequence.
WHOLE = SequenceRank()


def sequence_rank(placement: Placement) -> SequenceRank:
    """This process's place; the engine's groups must be there."""
    if placement.ring == placement.allgather_kv == 1:
        return WHOLE
    from vllm_omni.diffusion.distributed.parallel_state import get_sp_group

    group = get_sp_group()
    if placement.ring > 1:
        return SequenceRank(group.ring_rank, group.ring_world_size, group.ring_group)
    return SequenceRank(group.allgather_rank, group.allgather_world_size)


def device_type() -> str:
    """Type of the devices that the engine computes on, such as ``cuda`` or ``cpu``."""
    from vllm_omni.platforms import current_omni_platform

    return str(current_omni_platform.device_type)


def device() -> torch.device:
    """The device that this process of the engine computes on, with the index that its tensors have."""
    return torch.empty(0, device=device_type()).device
