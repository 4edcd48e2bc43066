"""Every kind of tiny checkpoint in the real engine, without LVSA: one engine for each kind."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from lvsa_vllm_omni.tiny.checkpoint import KINDS, write_checkpoint
from tests.support.families import FAMILIES, Family

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("vllm_omni") is None, reason="needs vLLM-Omni"),
    pytest.mark.skipif(torch.accelerator.is_available(), reason="the CPU platform stays away from an accelerator"),
]


#: Kinds for which an image is welcome, and not needed.
IMAGE_OR_NOT = ("wan-ti2v", "cosmos3")
#: CogVideoX is diffusers' alone: LVSA has no hook for it in the engine. Toy Wan is trained, and has tests of its own.
ENGINE_KINDS = [kind for kind in KINDS if kind not in ("cogvideox", "toy-wan")]
SHORT = 17
LATENT = 5  # latent frames of a short video
#: Mean difference of two videos that a person would call different; rounding makes less than a hundredth of it.
VISIBLE = 0.01


@dataclass
class Running:
    """A kind in its running engine, with the short video that it makes."""

    name: str
    kind: Family
    omni: Any
    short: np.ndarray

    def video(self, frames: int = SHORT, prompt: str = "a cat on a mat", **options: Any) -> np.ndarray:
        """Frames [F, H, W, 3] in 0..1."""
        return generate(self.omni, frames, prompt, **{"image": self.kind.image, **options})

    def differs(self, **options: Any) -> float:
        """How far a request's video is from the short one."""
        return float(np.abs(self.video(**options) - self.short).mean())


def picture(seed: int) -> Any:
    """An image of coloured squares."""
    from PIL import Image

    squares = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(squares).resize((64, 64), Image.Resampling.NEAREST)


def generate(omni: Any, frames: int, prompt: str, image: bool, *, seed: int = 42, picture_seed: int = 0) -> np.ndarray:
    """One request; with an image, the request carries it beside the prompt."""
    from vllm_omni.inputs.data import OmniDiffusionSamplingParams

    request: dict[str, Any] = {"prompt": prompt, "negative_prompt": "bad"}
    if image:
        request["multi_modal_data"] = {"image": picture(picture_seed)}
    parameters = OmniDiffusionSamplingParams(
        height=64, width=64, num_frames=frames, num_inference_steps=4, seed=seed, guidance_scale=4.0
    )
    images = omni.generate(request, parameters, use_tqdm=False)[0].images
    # Wan and Cosmos 3 give one array of videos in 0..1, HunyuanVideo a list of 8-bit images.
    video = np.asarray(images[0]) if len(images) == 1 else np.stack([np.asarray(image) for image in images])
    video = video.reshape(-1, *video.shape[-3:])
    return video / np.float32(255) if video.dtype == np.uint8 else video


@pytest.fixture(scope="module", params=ENGINE_KINDS)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, running: Callable[..., Any]
) -> Iterator[Running]:
    kind = FAMILIES[request.param]
    checkpoint = write_checkpoint(request.param, tmp_path_factory.mktemp("checkpoint") / request.param)
    with running(checkpoint, **kind.options) as omni:
        yield Running(request.param, kind, omni, generate(omni, SHORT, "a cat on a mat", kind.image))


def test_videos_of_two_lengths(model: Running) -> None:
    for frames, video in ((SHORT, model.short), (model.kind.long, model.video(model.kind.long))):
        assert video.shape == (frames, 64, 64, 3)
        assert 0.1 < video.std() < 0.3
        assert ((video <= 0) | (video >= 1)).mean() < 0.02


def test_seed_prompt_and_image_decide_the_video(model: Running) -> None:
    assert np.array_equal(model.video(), model.short)
    assert model.differs(seed=43) > VISIBLE
    assert model.differs(prompt="a dog in the snow") > VISIBLE
    if model.kind.image:
        assert model.differs(picture_seed=1) > VISIBLE
    if model.name in IMAGE_OR_NOT:
        assert model.differs(image=not model.kind.image) > VISIBLE


def test_the_video_depends_on_which_keys_are_attended(model: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong sparse pattern loses keys: even one latent frame of five must show, and rounding must not."""
    from lvsa_vllm_omni.cpu.attention import CpuSdpaImpl

    attend = CpuSdpaImpl.forward
    patches = (64 // model.kind.latent_pixels) ** 2
    tokens = LATENT * patches
    heads: set[tuple[int, int]] = set()

    def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> float:
        def forward(self: Any, query: Any, key: Any, value: Any, metadata: Any = None) -> Any:
            if key.shape[1] >= tokens and is_video(query, key):
                heads.add((query.shape[2], key.shape[2]))
                key, value = change(key), change(value)
            return attend(self, query, key, value, metadata)

        with monkeypatch.context() as patch:
            patch.setattr(CpuSdpaImpl, "forward", forward)
            return model.differs()

    def is_video(query: Any, key: Any) -> bool:
        if model.kind.text == "keys first":  # the text attends to itself alone, in a call of its own
            return bool(query.shape[1] == tokens)
        return bool(query.shape[1] == key.shape[1])

    def without_a_frame(x: torch.Tensor) -> torch.Tensor:
        start = x.shape[1] - tokens if model.kind.text == "keys first" else 0
        start += 2 * patches
        return torch.cat([x[:, :start], x[:, start + patches :]], dim=1)

    assert changed(without_a_frame) > VISIBLE
    assert changed(lambda x: x * (1 + 1e-6)) < VISIBLE / 100
    assert heads == {(4, 2) if model.name == "cosmos3" else (4, 4)}


@pytest.mark.parametrize("model", ["wan-a14b"], indirect=True, scope="module")
def test_wan_a14b_runs_both_its_transformers(model: Running) -> None:
    from vllm_omni.diffusion.models.wan2_2.wan2_2_transformer import WanTransformer3DModel

    gc.collect()
    transformers = [thing for thing in gc.get_objects() if issubclass(type(thing), WanTransformer3DModel)]
    seen: list[int] = []
    handles = [thing.register_forward_hook(lambda module, *_: seen.append(id(module))) for thing in transformers]
    model.video()
    for handle in handles:
        handle.remove()
    assert len(set(seen)) == 2
    assert seen == sorted(seen, key=seen.index)  # one hands over to the other, once
