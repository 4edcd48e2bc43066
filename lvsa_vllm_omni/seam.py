"""Where LVSA meets the engine: transformers, their layers and rotary embeddings, VAEs, the server, the CPU's worker."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from lvsa_core import riflex
from lvsa_vllm_omni import compat
from lvsa_vllm_omni.compat import BACKEND_NAME, INSTALL_TESTED
from lvsa_vllm_omni.hooks import FamilySpec, HookError, Rope
from lvsa_vllm_omni.model_class import read_arguments, resolve
from lvsa_vllm_omni.scope import Scope

#: Our attribute on what we have changed.
MARK = "__lvsa__"
#: Our attribute on a transformer: its scope.
SCOPE = "__lvsa_scope__"


def install(spec: FamilySpec, adopt: Callable[[Any], Scope]) -> Callable[[], None]:
    """Let every transformer of a family run under a scope, in this process and from now on.

    Target: ``__init__`` and ``__call__`` of the family's transformer class.
    Why: the engine has no hook between a pipeline and its transformer; there the video is still whole (sequence
        parallelism divides it inside), and its shape, the step and the layers are known.
    How: after ``__init__`` the layers are adopted; around ``__call__`` the running call is published. ``forward`` is
        not touched, so that offloading, caches and torch.compile, which replace it on the instance, work as before. A
        transformer that was being built when LVSA was installed is adopted at its first call.
    Remove when: vLLM-Omni passes grid and step of every family to the attention backend.

    Args:
        spec: the family.
        adopt: called with a new transformer, and once more at its first call; gives its scope.

    Returns:
        A function that takes the patch off again. A second call for a class changes nothing and returns the same one.

    Raises:
        MissingModel: if the installed engine has no such class. HookError: if it does not fit.
    """
    cls = resolve(spec)
    if MARK in vars(cls):
        return vars(cls)[MARK]
    names = ("__init__", "__call__")
    original_init, original_call = (getattr(cls, name) for name in names)
    own = {name: vars(cls)[name] for name in names if name in vars(cls)}

    @functools.wraps(original_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        if _nearest(type(self)) is cls:
            adopt(self)

    @functools.wraps(original_call)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _nearest(type(self)) is not cls:
            return original_call(self, *args, **kwargs)
        scope = scope_of(self)
        if scope is None or not scope.settled:  # a subclass may have built more layers after our __init__
            scope = adopt(self)
            scope.settled = True
        with scope.call(self, read_arguments(type(self), spec, args, kwargs)):
            return original_call(self, *args, **kwargs)

    def undo() -> None:
        if vars(cls).get(MARK) is not undo:
            return
        for name in names:
            if name in own:
                setattr(cls, name, own[name])
            else:
                delattr(cls, name)
        delattr(cls, MARK)

    cls.__init__, cls.__call__ = __init__, __call__
    setattr(cls, MARK, undo)
    return undo


def _nearest(transformer: type) -> type | None:
    """The class that is hooked, of a transformer's own and its bases: a family of a subclass goes before its base's."""
    return next((cls for cls in transformer.__mro__ if MARK in vars(cls)), None)


def retune_rope(rope: Rope, slowed: Callable[[], riflex.SlowedFrequency | None]) -> None:
    """RIFLEx: slow one temporal frequency in the calls of which ``slowed`` says so.

    Target: ``forward`` of one transformer's rotary embedding.
    Why: its tables are made inside the transformer, and ranks divide them where they come out.
    How: on the instance, before the engine puts its own wrapper around it; tables are never changed in place. They may
        hold more frames than the video: VACE's reference images stand before it.
    Remove when: the engine has an option for it.

    Args:
        slowed: tells of the running call; None: it keeps the model's own tables.
    """
    original = rope.module.forward

    @functools.wraps(original)
    def forward(hidden_states: torch.Tensor) -> Any:
        table, now = original(hidden_states), slowed()
        return now.applied(table, hidden_states.shape[2] // rope.patch, rope.width) if now else table

    rope.module.forward = forward


def replace_attention(layer: Any, lvsa: Callable[[Any], Any]) -> None:
    """Let LVSA compute the attention of one layer.

    Target: the attributes of an attention layer that hold what computes it.
    Why: the engine chooses one implementation for all layers of a role, and most layers of a role are not the video's.
    How: on the instance; the implementation that the engine chose stays inside of LVSA's, for dense calls.
    Remove when: the engine asks plugins for each layer.

    Args:
        lvsa: makes LVSA's implementation of the engine's, and returns one that is LVSA's already.
    """
    for name in compat.IMPLEMENTATIONS:
        if (implementation := getattr(layer, name, None)) is not None:
            setattr(layer, name, lvsa(implementation))


def replace_ring(layer: Any, lvsa: Any) -> None:
    """Let LVSA compute the attention of one layer in a ring.

    Target: ``ring_runner`` of an attention layer, and the backend that it names.
    Why: a ring does not ask the layer's implementation, and does not know the name ``LVSA``.
    How: on the instance; the engine's ring stays inside of LVSA's, for dense calls, with the engine's default backend.
    Remove when: the ring asks the layer's implementation.
    """
    runner = layer.ring_runner
    if str(getattr(runner, "attn_backend_pref", "")).upper() == BACKEND_NAME:
        backend, chosen = compat.default_backend(compat.head_size(layer))
        runner.attn_backend_pref, runner.attn_backend_explicit = backend.get_name(), chosen["backend_explicit"]
    layer.ring_runner = lvsa


def watch_decoder(vae: Any, around: Callable[[Any, torch.Tensor, bool], AbstractContextManager[None]]) -> None:
    """Stand around a VAE's decoder; again does nothing.

    Target: ``decode`` and, where there is one, ``decode_with_chunks`` of one VAE.
    Why: there a request's latents are complete, and there long videos run out of memory, which is when they are lost;
        the engine has no hook between denoising and decoding.
    How: on the instance; the engine's methods run unchanged inside.
    Remove when: the engine keeps a request's latents until its video is there.

    Args:
        around: gets the VAE, the latents [B, channels, T, h, w], and whether the VAE hands its frames on in chunks.
    """
    if MARK in vars(vae):
        return
    for name in ("decode", "decode_with_chunks"):
        if hasattr(vae, name):
            setattr(vae, name, _watched(vae, getattr(vae, name), around, chunks=name != "decode"))
    setattr(vae, MARK, True)


def _watched(vae: Any, original: Callable[..., Any], around: Callable[..., Any], *, chunks: bool) -> Callable[..., Any]:
    @functools.wraps(original)
    def decode(z: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with around(vae, z, chunks):
            return original(z, *args, **kwargs)

    return decode


def register_name(path: str) -> None:
    """Make ``LVSA`` a name that the engine's attention configuration accepts; again does nothing.

    Target: ``DiffusionAttentionBackendEnum``.
    Why: it is a closed list; its register function only replaces members.
    How: one more member, by the library that vLLM-Omni extends enums with itself.
    Remove when: out-of-tree names can be registered.

    Args:
        path: of the backend's class.
    """
    from aenum import extend_enum
    from vllm_omni.diffusion.attention.backends.registry import DiffusionAttentionBackendEnum

    if BACKEND_NAME not in DiffusionAttentionBackendEnum.__members__:
        extend_enum(DiffusionAttentionBackendEnum, BACKEND_NAME, path)


def replace_server(serving: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[], None]:
    """Let a server end.

    Target: ``serve_http`` in ``vllm_omni.entrypoints.openai.api_server``.
    Why: asked to end in the middle of a request, vLLM's launcher stops the engine, and then waits without limit for
        the connection of a request that nothing will answer any more; a server that has lost one of several workers
        answers every request with status 500. Older releases also wait for the end of what is computed, which may be
        an hour. What starts servers (Docker, Kubernetes, systemd) starts again what has ended, and nothing else.
    How: give uvicorn a limit for open connections, and the process one for what it still computes; look at the engine's
        own health, and ask the server to end when it is lost.
    Remove when: the launcher gives ``timeout_graceful_shutdown`` to uvicorn, and its watchdog calls ``check_health``.

    Args:
        serving: gets the engine's function that serves, and gives the one that stands for it.

    Returns:
        A function that takes the patch off again. In a process that serves nothing, nothing is patched.
    """
    module: Any = sys.modules.get("vllm_omni.entrypoints.openai.api_server")
    if module is None:
        return lambda: None
    original = module.serve_http
    if hasattr(original, MARK):
        return getattr(original, MARK)

    def undo() -> None:
        module.serve_http = original

    module.serve_http = functools.wraps(original)(serving(original))
    setattr(module.serve_http, MARK, undo)
    return undo


def replace_output_loop(loop: Callable[[Any], None]) -> None:
    """Let several workers send results without an accelerator; again does nothing.

    Target: ``_async_output_loop`` of ``WorkerProc``, on the CPU platform, in this process only.
    Why: it makes a stream on ``torch.accelerator.current_accelerator()``, which fails on the CPU; the thread dies and
        the first request waits for ever.
    How: the same loop without the stream. Neither the worker class nor the executor class can carry it: the executor
        names ``WorkerProc`` in the call that spawns the process.
    Remove when: vLLM-Omni takes the stream from its platform, or asks whether there is an accelerator.

    Raises:
        HookError: if the engine's loop has other parameters.
    """
    from vllm_omni.diffusion.worker.diffusion_worker import WorkerProc

    original = getattr(WorkerProc, "_async_output_loop", None)
    if original is None or hasattr(original, MARK):
        return  # older releases send results from the main loop, which needs no stream
    if list(inspect.signature(original).parameters) != ["self"]:
        raise HookError(
            f"the CPU platform replaces WorkerProc._async_output_loop(self), but the installed vLLM-Omni has "
            f"{inspect.signature(original)} there: {INSTALL_TESTED}"
        )
    WorkerProc._async_output_loop = functools.wraps(original)(loop)
    setattr(WorkerProc._async_output_loop, MARK, original)


def replace_float32_backend(backend: type) -> None:
    """Let float32 be computed on the CPU.

    Target: ``SDPABackend`` in ``vllm_omni.diffusion.attention.layer``, on the CPU platform, in this process only.
    Why: up to 0.28 a layer sends every call in float32 to a backend of that name, which no platform chooses, and whose
        dispatch by platform knows no branch for one from outside its tree.
    How: the name stands for the CPU platform's own SDPA in the module that builds the layers.
    Remove when: no supported release does so.
    """
    from vllm_omni.diffusion.attention import layer

    if hasattr(layer, "SDPABackend"):
        layer.SDPABackend = backend


def scope_of(transformer: Any) -> Scope | None:
    """The scope that a transformer was given, None if it was not adopted."""
    return vars(transformer).get(SCOPE)


def give_scope(transformer: Any, scope: Scope) -> None:
    """Remember a transformer's scope on it."""
    setattr(transformer, SCOPE, scope)
