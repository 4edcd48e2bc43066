"""RIFLEx on a transformer's rotary tables."""

from __future__ import annotations

from typing import Any

from lvsa_core.diffusers.families import FAMILIES
from lvsa_core.diffusers.family import Family
from lvsa_core.diffusers.knobs import Knobs
from lvsa_core.diffusers.run import Run
from lvsa_core.riflex import frequencies, intrinsic_frequency, replace


def riflex_hooks(transformers: list[Any], family: Family, knobs: Knobs, reference: int, run: Run) -> list[Any]:
    """The hooks that change one temporal frequency of the rotary embedding; none if RIFLEx is off.

    Args:
        reference: latent frames that the model was trained for. run: knows the running call's grid.

    Raises:
        ValueError: if RIFLEx does not know the family, or a knob is out of range for it.
    """
    if knobs.riflex_s is None:
        return []
    if family.rope is None:
        known = " and ".join(other.name for other in FAMILIES if other.rope)
        raise ValueError(f"RIFLEx is for {known}, and this is {family.name}: leave riflex_s out")
    length = knobs.riflex_train_len or reference
    dim, theta = family.rope(transformers[0])
    k = intrinsic_frequency(dim, theta, length) if knobs.riflex_k is None else knobs.riflex_k
    changed = frequencies(dim, theta, length=length, scale=knobs.riflex_s, k=k)
    if knobs.riflex_s == 1:
        return []

    def retune(rope: Any, args: Any, table: Any) -> Any:
        """The tables of a video that is longer than RIFLEx's training length; whole, before ranks divide them.

        They may hold more frames than the video: VACE's reference images stand before it.
        """
        if run.grid is None or run.grid.frames <= length:
            return None
        rows = table[0].numel() // table[0].shape[-1]
        return replace(table, rows // run.grid.patches, k, float(changed[k]))

    return [transformer.rope.register_forward_hook(retune) for transformer in transformers]
