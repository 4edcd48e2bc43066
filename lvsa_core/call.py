"""The transformer call that is running, and the one operator by which torch.compile meets LVSA's attention.

The engine and diffusers share both. What differs between them is how a layer finds the layout of its tokens, and what
it does where it cannot be sparse: each has calls and :class:`SparseLayer` of its own. ``attend`` in a traced function
has no running call: it gives the operator its call in numbers.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class SparseLayer(Protocol):
    """What asks the operator for attention: a layer of a model, or ``attend`` in a graph."""

    def sparse(
        self, call: Any, q: Tensor, k: Tensor, v: Tensor, text: tuple[Tensor, Tensor] | None, scale: float | None
    ) -> Tensor:
        """Attention [B, S, H, D]; the layer's own dense attention where the tokens are not the call's.

        Args:
            call: the running one, or what the operator was given instead. q: [B, S, H, D]. k, v: [B, Sk, Hkv, D].
            scale: multiplies the scores; None: 1/sqrt(D).
            text: keys and values [B, n, Hkv, D] that every rank has, where ranks divide the others; None: there are
                none.
        """


class Numbers(NamedTuple):
    """A call that the operator is given, for an operator takes no objects; a graph keeps it.

    Args:
        integers, fractions: what describes it. kernel: by which it is computed.
    """

    integers: Sequence[int]
    fractions: Sequence[float]
    kernel: str


#: The sparse call that is running. Read inside the operator, where torch.compile does not look.
running: ContextVar[Any] = ContextVar("lvsa_call", default=None)

_layers: weakref.WeakValueDictionary[int, SparseLayer] = weakref.WeakValueDictionary()
_count = itertools.count()


def register(layer: SparseLayer) -> Tensor:
    """Give a layer a number, by which the operator knows it for as long as it lives; in a tensor on the CPU.

    Operators take no objects, and torch.compile would make a graph for each value of a plain number.
    """
    number = next(_count)
    _layers[number] = layer
    with torch.inference_mode(False), torch.device("cpu"):
        return torch.tensor(number)


#: A CUDA graph would replay the step and the pattern of its capture, and cannot hold a first call, which tests the
#: kernel and copies tables to the device: torch.compile makes none of what has this tag.
_tags: dict[str, Any] = {"tags": (tag,)} if (tag := getattr(torch.Tag, "cudagraph_unsafe", None)) is not None else {}


# Inductor keeps compiled code by this name, and calls it with the keywords of then: other arguments need another name.
@torch.library.custom_op("lvsa::attend", mutates_args=(), **_tags)
def lvsa_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    text_k: Tensor | None,
    text_v: Tensor | None,
    scale: float | None,
    layer: Tensor,
    integers: Sequence[int] | None = None,
    fractions: Sequence[float] | None = None,
    by: str = "",  # not ``kernel``: Inductor passes a keyword of that name itself
) -> Tensor:
    """Attention of a layer in the running call, opaque to torch.compile: step and geometry are read inside.

    Args:
        q, k, v, scale: see :meth:`SparseLayer.sparse`. text_k, text_v: its ``text``. layer: of :func:`register`.
        integers, fractions, by: the :class:`Numbers` of the call, where it is not the running one.

    Returns:
        [B, S, H, D], contiguous.
    """
    call = running.get() if integers is None else Numbers(integers, fractions or (), by)
    assert call is not None, "an LVSA attention layer ran outside its transformer's call"
    text = None if text_k is None or text_v is None else (text_k, text_v)
    adopted = _layers.get(int(layer))
    assert adopted is not None, "an LVSA attention layer was copied without being adopted anew"
    plain = not (torch.is_grad_enabled() or torch.is_autocast_enabled(q.device.type))  # the engine's case, and quicker
    if plain or integers is not None:  # ``attend`` does as without torch.compile
        return adopted.sparse(call, q, k, v, text, scale).contiguous()
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        return adopted.sparse(call, q, k, v, text, scale).contiguous()


@lvsa_attend.register_fake
def _(q: Tensor, *_: object, **__: object) -> Tensor:
    return q.new_empty(q.shape)
