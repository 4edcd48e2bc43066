"""LVSA_KEEP_LATENTS on the real engine: a decoder that runs out of memory loses nothing."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import numpy as np
import pytest
import torch

from lvsa_vllm_omni.cli.main import main
from lvsa_vllm_omni.latents import read

LONG: dict[str, Any] = {"frames": 89, "seed": 1, "steps": 1, "fps": 24}
#: Wider than a tile of the VAE, 256 pixels.
WIDE = (32, 272)


def full(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_latents_stay_until_their_video_is_there(
    starting: Any, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, journal = tmp_path / "latents", tmp_path / "journal.jsonl"
    settings = {"LVSA_WAN_HOOK": "1", "LVSA_KEEP_LATENTS": str(folder), "LVSA_JOURNAL": str(journal)}
    with starting(settings) as engine:
        (vae,) = [vae for vae, _ in engine._vaes]
        tiled, decode = [], vae._decode
        with patch.object(vae, "_decode", lambda *z, **more: tiled.append(vae.use_tiling) or decode(*z, **more)):
            undisturbed = engine.video(**LONG, size=WIDE)
            engine.video(**{**LONG, "frames": 17})  # within the training length
        assert tiled == [True, False]
        assert not [*folder.iterdir()] and not vae.use_tiling

        with patch.object(vae, "_decode", full):
            engine.submit("lost/1", **LONG, size=WIDE)
            error = engine.outcomes({"lost/1"})["lost/1"]
        file = folder / "lost_1.safetensors"
        assert isinstance(error, str) and "out of memory" in error and f"lvsa decode {file} --model" in error
        assert [*folder.iterdir()] == [file]
        assert json.loads(journal.read_text().splitlines()[-1])["error"] == f"OutOfMemoryError: {error}"
        again = engine.video(**LONG, size=WIDE)  # the next request is right
    assert np.array_equal(undisturbed, again) and [*folder.iterdir()] == [file]

    latents, about = read(file)
    assert latents.shape[2:] == (23, 4, 34) and about["request"] == "lost/1" and about["fps"] == 24
    video = tmp_path / "late.mp4"
    assert main(["decode", str(file), "--model", str(checkpoint), "-o", str(video)]) == 0
    assert "89 frames of 272x32" in capfd.readouterr().out
    with av.open(str(video)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 24
    assert len(frames) == 89
    with patch("lvsa_vllm_omni.offline.video.write_mp4") as written:
        written.return_value = dict.fromkeys(("frames", "width", "height", "seconds"))
        main(["decode", str(file), "--model", str(checkpoint), "-o", str(video)])
        late = np.stack([*written.call_args.args[1]])
    assert np.abs(late / np.float32(255) - undisturbed).max() <= 0.5 / 255 + 1e-4
