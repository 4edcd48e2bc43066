"""The configurations of a checkpoint in the diffusers layout: a folder, or a model on the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class CheckpointError(ValueError):
    """There is no such checkpoint; the message says what was given and what is missing."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint's JSON files say.

    Args:
        folder: that holds them. index: ``model_index.json``. transformer: its configuration. vae: its, empty if none.
    """

    folder: Path
    index: dict[str, Any]
    transformer: dict[str, Any]
    vae: dict[str, Any]

    @classmethod
    def read(cls, model: str | Path) -> Checkpoint:
        """Read a folder; of a model on the Hub its configurations alone are fetched.

        Raises:
            CheckpointError: there is no such folder, it holds no diffusers checkpoint, or the Hub has no such model.
        """
        folder = Path(model).expanduser()
        if not folder.is_dir():
            # A name on the Hub is owner/name; anything else can only be meant as a path.
            if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
                raise CheckpointError(f"--model {model}: no such folder")
            folder = _from_hub(str(model))
        try:
            index, transformer = _read(folder / "model_index.json"), _read(folder / "transformer" / "config.json")
            vae = folder / "vae" / "config.json"
            return cls(folder, index, transformer, _read(vae) if vae.exists() else {})
        except (OSError, ValueError) as error:
            raise CheckpointError(f"--model {model}: not a checkpoint in the diffusers layout ({error})") from None

    @property
    def size_multiple(self) -> int:
        """Pixels that height and width are multiples of: the VAE's spatial factor times the transformer's patch.

        Wan 8 * 2, Wan 2.2 TI2V-5B 16 * 2, HunyuanVideo 1.5 16 * 1. Cosmos 3 names its patch otherwise and pads to it,
        so that its factor alone counts (45 latent rows at 720p are 23 patches).
        """
        patch = self.transformer.get("patch_size", 1)
        factor = self.vae.get("scale_factor_spatial") or self.vae.get("spatial_compression_ratio") or 8
        return int(factor) * int(patch[-1] if isinstance(patch, list) else patch)


def _read(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text("utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no object")
    return value


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*/config.json"]))
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"--model {model}: no such folder, and no such model on the Hugging Face Hub: {reason[0]}"
        ) from None
