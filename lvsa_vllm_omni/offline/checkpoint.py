"""Where the configs of a checkpoint are: a folder, or a model on the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path


def config_folder(model: str) -> Path:
    """The folder that holds a checkpoint's config files; of a model on the Hub only they are fetched.

    Raises:
        ValueError: there is no such folder, it holds no diffusers checkpoint, or the Hub has no such model.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        # A name on the Hub is owner/name; anything else can only be meant as a path.
        if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
            raise ValueError(f"--model {model}: no such folder")
        folder = _from_hub(model)
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"--model {model}: not a diffusers checkpoint, it has no model_index.json")
    return folder


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*/config.json"]))
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"--model {model}: no such folder, and no such model on the Hugging Face Hub: {reason[0]}"
        ) from (None)
