"""What only Cosmos 3 has: control tokens beside the video, several controls, guidance in some of the steps."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from lvsa_vllm_omni.tiny.checkpoint import write_checkpoint
from tests.support.attended import Attended
from tests.support.engine import start
from tests.support.families import FAMILIES, latent
from tests.support.log import Log

FAMILY = FAMILIES["cosmos3"]
PATCHES = (64 // FAMILY.latent_pixels) ** 2


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = write_checkpoint("cosmos3", tmp_path_factory.mktemp("checkpoint") / "cosmos3")
    with start(folder, {FAMILY.hook: "1"}, **FAMILY.options) as running:
        yield running


def controlled(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Give every call of the transformer that many controls, as the pipeline's transfer does."""
    from vllm_omni.diffusion.models.cosmos3.transformer_cosmos3 import Cosmos3VFMTransformer

    call = Cosmos3VFMTransformer.__call__

    def with_controls(self: Any, *args: Any, **kwargs: Any) -> Any:
        latents = args[0] if args else kwargs["hidden_states"]
        noise = torch.Generator(latents.device).manual_seed(5)
        control = torch.randn(latents.shape, generator=noise, dtype=torch.float32, device=latents.device)
        return call(self, *args, **{**kwargs, "control_latents": [control.to(latents.dtype)] * count})

    monkeypatch.setattr(Cosmos3VFMTransformer, "__call__", with_controls)


def test_a_control_is_seen_by_everything(
    engine: Any, attended: list[Attended], monkeypatch: pytest.MonkeyPatch
) -> None:
    controlled(monkeypatch, 1)
    engine.video(FAMILY.long, steps=2)
    tokens = latent(FAMILY.long) * PATCHES
    assert len(attended) == 2 * 2 * FAMILY.blocks
    for layout in (call.layout for call in attended):
        assert (layout.q_before, layout.q_after, layout.kv_after) == (tokens, 0, 0)
        assert layout.kv_before > tokens  # text, then the control
    assert {call.pattern.offset for call in attended} == {0, 1}


@pytest.mark.parametrize(("kind", "tokens"), [("action", 16), ("sound", 25)])
def test_other_tokens_behind_the_video_are_seen_by_everything(
    engine: Any, attended: list[Attended], monkeypatch: pytest.MonkeyPatch, kind: str, tokens: int
) -> None:
    """By the transformer's own packing; the tiny one has no modules for them, so it is given some."""
    from vllm_omni.diffusion.models.cosmos3.transformer_cosmos3 import Cosmos3VFMTransformer, DomainAwareLinear

    (transformer,) = engine.transformers
    width, weight = transformer.hidden_size, next(transformer.parameters())
    if kind == "action":
        size, name, shape = transformer.action_dim, "action", (1, tokens, transformer.action_dim)
        layers = [DomainAwareLinear(size, width, 1), DomainAwareLinear(width, size, 1)]
    else:
        size, name, shape = 8, "audio", (1, 8, tokens)
        layers = [torch.nn.Linear(size, width), torch.nn.Linear(width, size)]
        monkeypatch.setattr(transformer, "sound_dim", size)
    monkeypatch.setattr(transformer, f"{kind}_gen", True)
    added = [f"{name}_proj_in", f"{name}_proj_out", f"{name}_modality_embed"]
    for attribute, layer in zip(added, layers, strict=False):
        transformer.add_module(attribute, layer.to(weight))
    transformer.register_parameter(added[2], torch.nn.Parameter(torch.zeros(width).to(weight)))
    call = Cosmos3VFMTransformer.__call__

    def with_more(self: Any, *args: Any, **kwargs: Any) -> Any:
        latents = torch.randn(shape, device=weight.device).to(weight.dtype)
        return call(self, *args, **{**kwargs, f"{kind}_latents": latents})[0]  # the video

    monkeypatch.setattr(Cosmos3VFMTransformer, "__call__", with_more)
    try:
        engine.video(FAMILY.long, steps=2)
    finally:
        for attribute in added:
            delattr(transformer, attribute)
    assert len(attended) == 2 * 2 * FAMILY.blocks
    for layout in (call.layout for call in attended):
        assert (layout.q_before, layout.q_after, layout.kv_after) == (0, tokens, tokens)


def test_each_of_several_controls_is_seen_beside_the_video(
    engine: Any, attended: list[Attended], monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    """The engine calls a layer of its own for each, with that control and the video."""
    controlled(monkeypatch, 2)
    engine.video(FAMILY.long, steps=1)
    tokens = latent(FAMILY.long) * PATCHES
    assert len(attended) == 2 * 2 * FAMILY.blocks
    layouts = [call.layout for call in attended]
    assert {(layout.q_before, layout.kv_before > tokens, layout.q_after) for layout in layouts} == {(tokens, True, 0)}
    assert log.starting(f"[LVSA] installed on {FAMILY.blocks} blocks")
    assert not log.starting("[LVSA-FALLBACK]")


def test_guidance_in_some_of_the_steps(engine: Any, attended: list[Attended]) -> None:
    """A step of one branch is a step like any other."""
    for _ in range(2):
        attended.clear()
        engine.video(FAMILY.long, steps=6, extra_args={"guidance_interval": [900, 1000]})
        steps = [(offset, len(list(calls))) for offset, calls in groupby(attended, lambda call: call.pattern.offset)]
        assert [offset for offset, _ in steps] == [step % 2 for step in range(6)]
        assert {calls for _, calls in steps} == {FAMILY.blocks, 2 * FAMILY.blocks}


def test_an_impossible_size_is_refused_with_a_sentence(engine: Any) -> None:
    """Fewer pixels than one latent's. The last test: ``Omni`` ends after any failed request, as a server does not."""
    from vllm_omni.errors import OmniClientError

    with pytest.raises(OmniClientError, match="latent frames of 0x4 cannot be made: the model takes at least 1 of 1x1"):
        engine.video(FAMILY.long, size=(8, 64), steps=1)
