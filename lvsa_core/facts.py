"""Facts of models that do not depend on who runs them, engine or diffusers: ``configs/*.toml``, and axes of tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Traversable

#: Base of Wan's rotary embedding, the default argument of ``WanRotaryPosEmbed``.
WAN_THETA = 10000.0
#: Axes and base of HunyuanVideo 1.5's, default arguments of ``HunyuanVideo15Transformer3DModel``.
HUNYUAN_AXES, HUNYUAN_THETA = (16, 56, 56), 256.0
#: Base of CogVideoX's, the default argument of ``get_3d_rotary_pos_embed``.
COGVIDEOX_THETA = 10000.0


@lru_cache(maxsize=1)
def shipped() -> dict[str, dict[str, Any]]:
    """What ``configs/*.toml`` says of each model, by the file's name; see :class:`lvsa_vllm_omni.presets.Preset`.

    Read it only, all callers share it.
    """
    from importlib import resources

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        folder: Traversable = resources.files("lvsa_vllm_omni.configs")
    except ModuleNotFoundError:  # run from the repository, without an installation
        folder = Path(__file__).parents[1] / "configs"
    return {name: tomllib.loads(text) for name, text in toml_texts(folder).items()}


def toml_texts(folder: Traversable) -> dict[str, str]:
    """The texts of a folder's TOML files, by name without the ending, in order."""
    files = {file.name.removesuffix(".toml"): file for file in folder.iterdir() if file.name.endswith(".toml")}
    return {name: files[name].read_text("utf-8") for name in sorted(files)}


def model_facts(
    transformer: str | None, config: Mapping[str, Any], index: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the tables ``[match]`` are compared with.

    Args:
        transformer: name of its class. config: of the transformer. index: ``model_index.json``, which tells whether the
            pipeline has a second transformer.
    """
    second = (index or {}).get("transformer_2") or [None]
    return {**config, "transformer": transformer, "transformer_2": second[0] is not None}


def best_match(matches: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> str | None:
    """The name whose conditions all hold for a model, of several the one with most conditions; None if there is none.

    Args:
        matches: by name, the wanted value of each fact, a list where several do. facts: from :func:`model_facts`.
    """

    def fits(match: Mapping[str, Any]) -> bool:
        wanted = {key: value if isinstance(value, list) else [value] for key, value in match.items()}
        return all(facts.get(key) in values for key, values in wanted.items())

    fitting = [name for name, match in matches.items() if fits(match)]
    return max(fitting, key=lambda name: len(matches[name]), default=None)


def training_length(classes: Iterable[str], config: Mapping[str, Any]) -> int:
    """Frames of tokens that a transformer was trained for, by ``configs/``.

    Args:
        classes: names of its class and of those it derives from, the closest first. config: its configuration.

    Raises:
        LookupError: if no model there has such a class.
    """
    matches = {name: table["match"] for name, table in shipped().items()}
    names = (best_match(matches, model_facts(transformer, config)) for transformer in classes)
    found = next(filter(None, names), None)
    if found is None:
        raise LookupError("no model in configs/ has a transformer of this class")
    return int(shipped()[found]["reference_latent_frames"])


def latent_frames(frames: int, factor: int) -> int:
    """Latent frames of a video: its first frame, and one for each ``factor`` frames after it."""
    return (frames - 1) // factor + 1


def patched_grid(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, int, int]:
    """Frames, rows and columns of the tokens of latents.

    Args:
        shape: [B, C, T, H, W]. patch: latents of one token along T, H and W.

    Raises:
        ValueError: if there is another number of dimensions.
    """
    if len(shape) != 5:
        raise ValueError(f"hidden_states has shape {list(shape)}, expected [batch, channels, frames, height, width]")
    frames, rows, columns = (size // step for size, step in zip(shape[2:], patch, strict=True))
    return frames, rows, columns


def temporal_axis(family: str, config: Mapping[str, Any]) -> tuple[int, float] | None:
    """Channels and base of a rotary embedding's temporal axis: the first channels of each head, in neighbouring pairs.

    Args:
        family: of the transformer. config: its configuration; of Wan the size of a head is enough.

    Returns:
        None if no channels turn by time alone (Cosmos 3 mixes it with height and width, CogVideoX-2B has no rotary
        embedding), or LVSA does not know the family.

    Source: diffusers, ``WanRotaryPosEmbed``, ``HunyuanVideo15RotaryPosEmbed``, ``get_3d_rotary_pos_embed``.
    """
    if family == "wan" and (size := head_size(config)):
        return wan_temporal_channels(size), WAN_THETA
    if family == "hunyuan":
        return (config.get("rope_axes_dim") or HUNYUAN_AXES)[0], float(config.get("rope_theta") or HUNYUAN_THETA)
    if family == "cogvideox" and config.get("use_rotary_positional_embeddings"):
        return config.get("attention_head_dim", 64) // 4, COGVIDEOX_THETA
    return None


def head_size(config: Mapping[str, Any]) -> int | None:
    """Numbers of a head of a transformer's attention; None: the configuration does not tell."""
    return config.get("attention_head_dim") or config.get("head_dim")


def wan_temporal_channels(head_size: int) -> int:
    """Channels of a head that Wan's rotary embedding turns by time; height and width have a third each, rounded down.

    Source: ``WanRotaryPosEmbed`` of diffusers and vLLM-Omni.
    """
    return head_size - 4 * (head_size // 6)
