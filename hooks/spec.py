"""What the plugin needs to know about a model family, as data and one small function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lvsa_core import FrameGrid


class HookError(RuntimeError):
    """A hook does not fit the installed engine; the message lists what was expected and what was found."""


class LayoutMismatch(ValueError):
    """A request's tensors are not what the family's function expects; the call goes dense."""


class ImpossibleRequest(ValueError):
    """No video of the size or length that a request asks for can be made; the message says which can."""


@dataclass(frozen=True)
class FamilySpec:
    """One model family.

    Args:
        name: the family as it stands in settings and log lines.
        transformer: upstream class of the video transformer, ``package.module:Class``; subclasses are covered.
        forward_parameters: parameters of its ``forward`` that ``grid`` and the step read.
        attention: names of the upstream classes whose engine attention layer is the video's self-attention.
        attention_layer: their attribute that holds the engine's ``Attention``.
        grid: ``(transformer, forward arguments by name) -> FrameGrid`` of the unsharded video; raises
            :class:`LayoutMismatch` if the arguments are not a video's, :class:`ImpossibleRequest` if the model cannot
            make that video.
        step_parameter: the argument that is a new object in every denoising step, used where the pipeline does not
            publish its step.
    """

    name: str
    transformer: str
    forward_parameters: tuple[str, ...]
    attention: tuple[str, ...]
    grid: Callable[[Any, Mapping[str, Any]], FrameGrid]
    attention_layer: str = "attn"
    step_parameter: str = "timestep"

    @property
    def setting(self) -> str:
        """The variable that switches this family on."""
        return f"LVSA_{self.name.upper()}_HOOK"

    @property
    def transformer_class(self) -> str:
        """Name of the upstream class without its module."""
        return self.transformer.partition(":")[2]
