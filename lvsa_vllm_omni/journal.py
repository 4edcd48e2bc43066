"""What LVSA did: the log lines that users and scripts read, and counters of the same events."""

from __future__ import annotations

from collections import Counter

from vllm.logger import init_logger

from lvsa_core import FrameGrid, Pattern, show
from lvsa_core.kernels import Selection

# vLLM configures the logger "vllm"; INFO lines of loggers outside it are lost.
logger = init_logger("vllm.lvsa")


class LvsaFallbackError(RuntimeError):
    """A request could not run sparse and LVSA_STRICT=1 is set."""


#: Events since the process started, by name: "request:sparse", "request:dense", "fallback:<reason>".
counts: Counter[str] = Counter()


def enabled(families: str, settings: str) -> None:
    """The one summary line of start-up."""
    logger.info("[LVSA] enabled for %s: %s", families, settings)


def hooked(
    transformer: str, blocks: int, family: str, preset: str, reference: int, kernel: Selection, dense: str
) -> None:
    """A transformer has been built and its attention layers are LVSA's."""
    logger.info(
        "[LVSA] hooked %s: blocks=%d family=%s preset=%s reference=%d dense=%s kernel=%s",
        *(transformer, blocks, family, preset, reference, dense, kernel),
    )


def retuned(k: int, frequencies: int, length: int, scale: float) -> None:
    """RIFLEx is on."""
    logger.info(
        "[LVSA] RIFLEx: temporal frequency %d of %d has a period of %g latent frames in requests beyond %d",
        *(k, frequencies, length * scale, length),
    )


def placed(placement: str, verdict: str, reason: str) -> None:
    """On several devices: how they share the work, and what LVSA does there."""
    logger.info("[LVSA] placement %s: %s, %s", placement, verdict, reason)


def refused(reason: str) -> None:
    """Start-up is about to stop."""
    logger.error("[LVSA] refused: %s", reason)


def not_used(model: str, switch: str, reason: str) -> None:
    """A model has been loaded in which nothing is LVSA's.

    Args:
        model: its pipeline. switch: the setting that would change it. reason: why it is so. Either may be empty.
    """
    if switch:
        logger.warning("[LVSA] is on, but not for %s, which runs dense throughout: set %s=1", model, switch)
        return
    logger.warning(
        "[LVSA] is on, but %s holds no transformer that it supports: it runs dense throughout%s",
        *(model, f" ({reason})" if reason else ""),
    )


def unclaimed() -> None:
    """A layer that chose ``LVSA`` by name is in no transformer that LVSA knows."""
    if not counts["unclaimed"]:
        logger.warning("[LVSA] was chosen by name for attention layers that are no supported video's: they run dense")
    counts["unclaimed"] += 1


def engaged(
    blocks: int, grid: FrameGrid, pattern: Pattern, family: str, kernel: str, rotate_after: float = 0.0
) -> None:
    """A request runs sparse: once a request, or a batch of them that runs in lock-step."""
    counts["request:sparse"] += 1
    logger.info(
        "[LVSA] installed on %d blocks num_patches=%d total_lat_frames=%d backend=%s family=%s",
        *(blocks, grid.patches, grid.frames, kernel, family),
    )
    logger.info("[LVSA] %s", show.summary(pattern, rotate_after))


def grouped(sentence: str) -> None:
    """Attention works in groups of heads, as memory is short: once a request, and again if it runs out."""
    logger.info("[LVSA] %s", sentence)


def dense(grid: FrameGrid | None, reason: str) -> None:
    """A request, or a batch of them, runs the engine's own attention, as it should: once. None: its grid is unknown."""
    counts["request:dense"] += 1
    size = "" if grid is None else f"total_lat_frames={grid.frames} num_patches={grid.patches} "
    logger.info("[LVSA] %sdense: %s", size, reason)


def fallback(origin: str, reason: str, seq_len: int, *, strict: bool, warn: bool, **details: object) -> None:
    """A surprise in a running request: a line if ``warn``, or an error.

    Raises:
        LvsaFallbackError: if ``strict``.
    """
    counts[f"fallback:{reason}"] += 1
    more = "".join(f" {key}={value}" for key, value in details.items())
    line = f"[LVSA-FALLBACK] origin={origin} reason={reason} seq_len={seq_len}{more}"
    if strict:
        raise LvsaFallbackError(f"{line}; LVSA_STRICT=1 makes this an error, unset it to run dense instead")
    if warn:
        logger.warning("%s", line)


def not_kept(folder: str, problem: BaseException) -> None:
    """Latents that should be kept cannot be written."""
    logger.warning_once("[LVSA] LVSA_KEEP_LATENTS=%s cannot be written: %s", folder, str(problem))


def reset() -> None:
    """Counters at zero."""
    counts.clear()
