"""One transformer under LVSA: what it is, how it is planned, and the forward that is running in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from lvsa_core import Decision, FrameGrid, Pattern, attend
from lvsa_core.kernels import Selection
from lvsa_core.sharded.attention import sharded_attend
from lvsa_vllm_omni import agreement, compat, diagnostics, journal, step
from lvsa_vllm_omni.hooks import FamilySpec, ImpossibleRequest, LayoutMismatch, StaysDense
from lvsa_vllm_omni.presets import Preset
from lvsa_vllm_omni.schedule import schedule
from lvsa_vllm_omni.settings import LvsaSettings, Mode


@dataclass(frozen=True)
class Forward:
    """A transformer call that runs sparse."""

    scope: Scope
    grid: FrameGrid
    around: tuple[int, int]  # tokens that the transformer puts before and after the video
    pattern: Pattern

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float, whole: bool = False) -> Tensor:
        """Sparse attention of one layer, dense if the tokens are not the grid's.

        Args:
            q: [B, S, H, D]. k, v: [B, S, Hkv, D]. scale: multiplies the scores.
            whole: whether the layer takes no part in sequence parallelism.

        Raises:
            LvsaFallbackError: instead of running dense, if LVSA_STRICT=1.
        """
        shard = compat.WHOLE if whole else self.scope.shard
        padding = 0 if whole else getattr(compat.forward_context(), "sp_padding_size", 0) or 0
        try:
            layout = self.scope.spec.layout(
                self.grid, self.around, q.shape[1], k.shape[1], padding, shard.rank, shard.ranks
            )
        except LayoutMismatch:
            return self._dense(q, k, v, "sequence-length", self._tokens(k, padding))
        kernel, rows = self.scope.settings.backend, q.shape[1]
        q, k, v = q[:, : layout.q_tokens], k[:, : layout.kv_tokens], v[:, : layout.kv_tokens]
        try:
            out = attend(q, k, v, self.pattern, layout, scale=scale, kernel=kernel)
        except torch.OutOfMemoryError:  # dense attention needs little less: let the engine handle it
            raise
        except (ValueError, RuntimeError) as error:
            out = self._dense(q, k, v, "refused", {"error": repr(str(error))})
        return out if rows == q.shape[1] else pad(out, (0, 0, 0, 0, 0, rows - q.shape[1]))

    def attend_ring(self, q: Tensor, k: Tensor, v: Tensor, text: tuple[Tensor, Tensor] | None, scale: float) -> Tensor:
        """Sparse attention of one layer where every rank has only its own keys, dense if the tokens are not the grid's.

        Whatever fails afterwards is an error: the other ranks are in the exchange.

        Args:
            q: [B, rows + text queries, H, D]. k, v: [B, rows, Hkv, D]. text: keys and values that every rank has.
            scale: multiplies the scores.

        Raises:
            LvsaFallbackError: instead of running dense, if LVSA_STRICT=1.
        """
        shard, text_tokens = self.scope.shard, 0 if text is None else text[0].shape[1]
        try:
            shards = self.scope.spec.shards(self.grid, self.around, q.shape[1], k.shape[1], text_tokens, shard.ranks)
        except LayoutMismatch:
            details = {**self._tokens(k, 0), "text": text_tokens, "ranks": shard.ranks}
            self.scope.fallback("ring", "sequence-length", q.shape[1], **details)
            metadata = compat.text_metadata(text, behind=self.scope.spec.text == "behind")
            return self.scope.dense_ring.run_attention(q, k, v, metadata, scale)
        kernel, group = self.scope.settings.backend, shard.group
        return sharded_attend(q, k, v, self.pattern, shards, group, text=text, scale=scale, kernel=kernel)

    def _tokens(self, k: Tensor, padding: int) -> dict[str, object]:
        """What tells why tokens are not the grid's."""
        return {"keys": k.shape[1], "frames": self.grid.frames, "patches": self.grid.patches, "padding": padding}

    def _dense(self, q: Tensor, k: Tensor, v: Tensor, reason: str, details: Mapping[str, object]) -> Tensor:
        """The engine's attention of these tensors. The operator sees no metadata: what has any never gets here."""
        self.scope.fallback("attention", reason, q.shape[1], **details)
        return self.scope.dense.forward(q, k, v, None)


_running: ContextVar[Forward | None] = ContextVar("lvsa_forward", default=None)


def running_forward() -> Forward:
    """The sparse transformer call that is running. Only for code that a sparse scope has let in."""
    forward = _running.get()
    assert forward is not None, "an LVSA attention layer ran outside its transformer's call"
    return forward


class Scope:
    """LVSA on one transformer.

    Attributes:
        sparse: whether the running call is sparse. A plain bool that compiled blocks guard on: one graph with the
            engine's dense attention, one with LVSA's opaque operator, whatever the step or the length.
        agreed: whether the other ranks are known to have the same settings.
        blocks: how many attention layers are LVSA's.
        settled: whether all layers of the transformer have been looked at, which its first call makes sure of.
        dense: the dense implementation of one of them, for surprises inside the operator.
        dense_ring: the engine's ring of one of them, None where there is none.
        shard: the part of the sequence that this process's attention holds.
    """

    def __init__(
        self,
        spec: FamilySpec,
        preset: Preset,
        settings: LvsaSettings,
        mode: Mode,
        kernel: Selection,
        shard: compat.Shard = compat.WHOLE,
    ) -> None:
        self.spec, self.preset, self.settings, self.mode, self.kernel = spec, preset, settings, mode, kernel
        self.shard = shard
        self.arguments = settings.plan_arguments(preset)
        self.sparse = False
        self.settled = self.agreed = False
        self.blocks = 0
        self.dense: Any = None
        self.dense_ring: Any = None

    @contextmanager
    def call(self, transformer: Any, arguments: Mapping[str, Any]) -> Iterator[None]:
        """Around one call of the transformer: work out grid, step and pattern, and let the layers run sparse or dense.

        Args:
            arguments: the arguments of the call that the family reads, by name.
        """
        if not self.agreed:
            agreement.check()
            self.agreed = True
        request = step.running_request()
        step.advance(request, arguments.get(self.spec.step_parameter))
        forward = self._plan(transformer, arguments, request)
        diagnostics.before_call(self.settings, request, forward.pattern if forward else None)
        before, self.sparse = self.sparse, forward is not None
        token = _running.set(forward)
        try:
            yield
        except BaseException:
            diagnostics.failed_call(request)
            raise
        finally:
            _running.reset(token)
            self.sparse = before
        diagnostics.after_call(self.settings, request)

    def _plan(self, transformer: Any, arguments: Mapping[str, Any], request: step.Request) -> Forward | None:
        """The sparse call, or None for a dense one; says which, once a request."""
        try:
            grid = self.spec.grid(transformer, arguments)
            pattern, decision = schedule(grid.frames, request.step, self.arguments, self.mode)
            around = self.spec.around(transformer, arguments)
        except StaysDense as reason:
            decision = Decision("dense", str(reason))
        except ImpossibleRequest as error:
            raise compat.client_error(str(error)) from error
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            self.fallback("grid", "layout", 0, error=repr(str(error)))
            return None
        new = self._once(request, (id(self), decision.verdict, grid))
        if decision.verdict == "sparse":
            if new:
                journal.engaged(self.blocks, grid, pattern, self.spec.name, self.kernel.name)
            return Forward(self, grid, around, pattern)
        if new:
            journal.dense(grid, decision.reason)
        return None

    @staticmethod
    def _once(request: step.Request, what: object) -> bool:
        """Whether this is the first time in the request."""
        new = what not in request.reported
        request.reported.add(what)
        return new

    def fallback(self, origin: str, reason: str, seq_len: int, **details: object) -> None:
        """Report a surprise, once a request, or raise it as LVSA_STRICT asks."""
        strict = self.settings.strict
        warn = self.settings.warn_fallback and self._once(step.running_request(), (origin, reason))
        journal.fallback(origin, reason, seq_len, strict=strict, warn=warn, family=self.spec.name, **details)
