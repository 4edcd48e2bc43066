"""Wan 2.2 S2V makes its video from speech: with LVSA on it stays dense bit for bit, and start-up says why."""

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lvsa_vllm_omni import hooks
from tests.support.engine import Engine, start
from tests.support.log import Log

FRAMES = 97  # video frames of a clip, of 24 latent frames; Wan's training horizon is 21
SECONDS = 7  # of speech, for more video than one clip: the second also attends to the motion of the first
SAMPLE_RATE = 16_000
SPEECH_DIM = 16

#: S2V-14B conditioned as published, in small sizes.
TRANSFORMER = {
    "_class_name": "WanModel_S2V",
    "model_type": "s2v",
    "dim": 128,
    "num_heads": 4,
    "num_layers": 2,
    "ffn_dim": 256,
    "freq_dim": 64,
    "text_dim": 64,
    "audio_dim": SPEECH_DIM,
    "audio_inject_layers": [0],
    "cond_dim": 16,
    "enable_adain": True,
    "enable_framepack": True,
    "enable_motioner": False,
    "framepack_drop_mode": "padd",
    "zero_timestep": True,
}


@pytest.fixture
def float32_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU's convolutions in bfloat16 take nine times as long, most of it in the VAE."""

    def in_float32(convolve: Any) -> Any:
        def convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *rest: Any) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return convolve(x.float(), weight.float(), None if bias is None else bias.float(), *rest).to(x.dtype)

        return convolved

    if not torch.accelerator.is_available():
        for name in ("conv2d", "conv3d"):
            monkeypatch.setattr(torch.nn.functional, name, in_float32(getattr(torch.nn.functional, name)))


@pytest.mark.usefixtures("float32_convolutions")
def test_it_stays_dense(checkpoint: Path, tmp_path: Path, calls: list[Any], log: Log) -> None:
    folder = write_checkpoint(checkpoint, tmp_path / "s2v")
    speech = write_speech(tmp_path / "speech.wav")
    # S2V makes bfloat16 latents whatever the engine's dtype, and float32 weights refuse them.
    with start(folder, {}, dtype="bfloat16") as engine:
        plain = talking_video(engine, speech)
    assert plain.shape == (2 * FRAMES - 3, 64, 64, 3)  # of two clips; the first loses 3 frames to the reference image
    assert plain.std() > 0.05
    assert not log.records
    with start(folder, {"LVSA_WAN_HOOK": "1"}, dtype="bfloat16") as engine:
        (warning,) = [record.getMessage() for record in log.records if record.levelname == "WARNING"]
        assert "Wan22S2VPipeline holds no transformer that it supports: it runs dense throughout" in warning
        assert warning.endswith("(" + hooks.dense_reason({"WanS2VTransformer3DModel"}) + ")")
        assert np.array_equal(talking_video(engine, speech), plain)
    assert not calls


def talking_video(engine: Engine, speech: Path) -> np.ndarray:
    """Frames [F, H, W, 3] in 0..1 of one request."""
    from vllm_omni.inputs.data import OmniDiffusionSamplingParams

    portrait = Image.linear_gradient("L").convert("RGB")
    prompt = {"prompt": "a cat speaks", "multi_modal_data": {"image": portrait, "audio": str(speech)}}
    parameters = OmniDiffusionSamplingParams(
        height=64, width=64, num_frames=FRAMES, num_inference_steps=2, guidance_scale=4.0, seed=42
    )
    return np.asarray(engine.omni.generate(prompt, parameters, use_tqdm=False)[0].images[0])[0]


def write_speech(path: Path) -> Path:
    """Write a tone that rises."""
    time = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    tone = 8000 * np.sin(2 * np.pi * (200 + 50 * time) * time)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(tone.astype("<i2").tobytes())
    return path


def write_checkpoint(wan: Path, folder: Path) -> Path:
    """Write the tiny Wan with S2V's transformer and its encoder of speech."""
    shutil.copytree(wan, folder, ignore=shutil.ignore_patterns("transformer"))
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "WanS2VPipeline", "transformer": ["diffusers", "WanModel_S2V"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_transformer(folder / "transformer")
        write_speech_encoder(folder / "wav2vec2-large-xlsr-53-english")
    return folder


def write_transformer(folder: Path) -> None:
    """Write random weights by which the video depends on speech and attention; only the engine has this model."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import cleanup_dist_env_and_memory, init_distributed_environment, initialize_model_parallel
    from vllm_omni.diffusion.models.wan2_2.wan2_2_s2v_transformer import create_s2v_transformer_from_config

    folder.mkdir()
    cleanup_dist_env_and_memory()  # an engine of an older release leaves a group behind
    with set_current_vllm_config(VllmConfig()):  # its layers ask for the size of their tensor parallel group
        init_distributed_environment(1, 0, f"file://{folder.with_name('rendezvous')}", 0, "gloo")
        initialize_model_parallel()
        weights = create_s2v_transformer_from_config(TRANSFORMER).state_dict()
        cleanup_dist_env_and_memory()
    for name, weight in weights.items():
        if name.endswith(".bias"):
            weight.zero_()
        elif name.endswith(".weight") and weight.ndim > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(TRANSFORMER))


def write_speech_encoder(folder: Path) -> None:
    """Write a Wav2Vec2 of 24 layers, because S2V has weights for 25 hidden states."""
    from transformers import (
        Wav2Vec2Config,
        Wav2Vec2CTCTokenizer,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForCTC,
        Wav2Vec2Processor,
    )

    config = Wav2Vec2Config(
        vocab_size=4,
        hidden_size=SPEECH_DIM,
        intermediate_size=32,
        num_hidden_layers=24,
        num_attention_heads=2,
        conv_dim=[8] * 7,
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE), tokenizer).save_pretrained(folder)
