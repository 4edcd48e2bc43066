"""What LVSA needs to know about a family of diffusers' video transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from lvsa_core.diffusers.dispatch import Tokens
from lvsa_core.diffusers.divide import SequencePlan
from lvsa_core.diffusers.processors import dispatched
from lvsa_core.facts import shipped, training_length
from lvsa_core.grid import FrameGrid

Arguments = Mapping[str, Any]


class VideoTokens(NamedTuple):
    """What a transformer's call makes of a video.

    Args:
        grid: its frames and patches.
        tokens: gives the tokens before and after it, and raises ValueError if they are not those of a video; asked in
            LVSA's calls alone, as it may wait for the device (HunyuanVideo counts its text).
    """

    grid: FrameGrid
    tokens: Callable[[], Tokens]


@dataclass(frozen=True)
class Family:
    """One model family.

    Args:
        name: as in the plugin's settings.
        transformers: names of diffusers' transformer classes; subclasses are covered.
        video: ``(transformer, arguments of its forward) -> VideoTokens``; raises ValueError if they are not a video's.
        attention: ``transformer -> its video self-attention layers``.
        processors: names of the processor classes that these may have.
        sequence: where ranks divide it.
        sparse: ``processor -> the one for a sparse call``.
        timestep: parameter of ``forward`` that has another value in every denoising step.
        own_tables: whether the transformer's module ``rope`` makes the embedding's tables; RIFLEx is for those.
        latents: ``arguments -> a tensor`` of the video's latents.
    """

    name: str
    transformers: tuple[str, ...]
    video: Callable[[Any, Arguments], VideoTokens]
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
