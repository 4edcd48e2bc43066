"""What LVSA needs to know about a family of diffusers' video transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lvsa_core.diffusers.dispatch import Tokens
from lvsa_core.diffusers.divide import SequencePlan
from lvsa_core.diffusers.processors import dispatched
from lvsa_core.facts import shipped, training_length
from lvsa_core.grid import FrameGrid

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """One model family.

    Args:
        name: as in the plugin's settings.
        transformers: names of diffusers' transformer classes; subclasses are covered.
        grid: ``(transformer, arguments of its forward) -> FrameGrid``; raises ValueError if they are not a video's.
        tokens: ``(transformer, arguments, grid) -> Tokens``; raises as ``grid``. Apart from it, as it may wait for the
            device (HunyuanVideo counts its text), which dense calls need not.
        attention: ``transformer -> its video self-attention layers``.
        processors: names of the processor classes that these may have.
        sequence: where ranks divide it.
        sparse: ``processor -> the one for a sparse call``.
        timestep: parameter of ``forward`` that is a new object in every denoising step.
        own_tables: whether the transformer's module ``rope`` makes the embedding's tables; RIFLEx is for those.
        latents: ``arguments -> a tensor`` of the video's latents.
    """

    name: str
    transformers: tuple[str, ...]
    grid: Callable[[Any, Arguments], FrameGrid]
    tokens: Callable[[Any, Arguments, FrameGrid], Tokens]
    attention: Callable[[Any], Iterable[Any]]
    processors: tuple[str, ...]
    sequence: SequencePlan
    sparse: Callable[[Any], Any] = dispatched
    timestep: str = "timestep"
    own_tables: bool = False
    latents: Callable[[Arguments], Tensor] = lambda arguments: arguments["hidden_states"]

    @property
    def temporal_factor(self) -> int:
        """Frames of video to a latent one; where the pipeline tells, that goes first."""
        factors = (facts["vae_temporal_factor"] for facts in shipped().values() if facts["family"] == self.name)
        return int(next(factors))

    def reference(self, transformer: Any) -> int:
        """Frames of tokens that the model was trained for."""
        return training_length([base.__name__ for base in type(transformer).__mro__], transformer.config)
