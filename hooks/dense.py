"""Video models of the engine that no family describes, and why: they run on the engine's own attention."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class DenseModel:
    """One model that stays dense.

    Args:
        title: for people. transformer: class of its transformer, where it is the only one.
        reason: why, as a sentence without its full stop.
        family: the family whose table it stands in, where users would look for it there.
        cpu: what of it has run on the engine on a CPU, empty if nothing yet.
    """

    title: str
    transformer: str
    reason: str
    family: str = ""
    cpu: str = ""


DENSE = (
    DenseModel(
        "Wan 2.2 S2V",
        "WanS2VTransformer3DModel",
        "a reference frame and motion tokens stand behind the video in its sequence, and it makes long videos clip by "
        "clip",
        family="wan",
        cpu="a tiny one",
    ),
    DenseModel(
        "MiniMax-H3",
        "MiniMaxH3DiTModel",
        "each attention call carries lengths of its own (valid_kv_length, cu_seqlens, packed padding) that say which "
        "keys count, and LVSA leaves such a call to the engine; in a step-mode batch the sequence is several requests",
    ),
    DenseModel(
        "Magi-2",
        "Magi2PreviewTransformer",
        "its attention is a kernel of its own, for packed sequences with learned sinks and a soft cap, which the "
        "engine's attention layer hands every call to",
    ),
    DenseModel(
        "LTX-2",
        "LTX2VideoTransformer3DModel",
        "one class is the self-attention of video and of sound, the attention between them and that to the text; a "
        "family chooses its layers by class",
    ),
    DenseModel(
        "Helios",
        "HeliosTransformer3DModel",
        "it makes the video in chunks, each behind a compressed history: no sequence holds the whole video",
    ),
    DenseModel(
        "LongCat-Video-Avatar",
        "LongCatVideoAvatarTransformer3DModel",
        "it splits its self-attention into several calls, for condition frames and for noisy ones",
    ),
    DenseModel(
        "SANA-Video",
        "SanaVideoTransformer3DModel",
        "its self-attention is linear: its time grows with the length alone already",
    ),
    DenseModel(
        "LingBot-Video",
        "LingBotVideoTransformer3DModel",
        "it calls its kernel past the engine's attention layer where sequences are parallel or packed",
    ),
    DenseModel(
        "causal world models (LingBot-World, DreamZero, SANA-WM)",
        "",
        "they make the video chunk by chunk from a cache of keys, each frame from earlier ones alone",
    ),
)


def dense_reason(classes: Collection[str]) -> str:
    """Why a model with modules of these classes stays dense, empty where it is not known to."""
    return next((model.reason for model in DENSE if model.transformer in classes), "")
