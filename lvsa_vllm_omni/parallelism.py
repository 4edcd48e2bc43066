"""The ways in which the engine uses several devices, and what LVSA does under each; for log, command line and docs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lvsa_core import Decision, Placement
from lvsa_vllm_omni.hooks import SPECS, FamilySpec


@dataclass(frozen=True)
class PlacementOption:
    """One kind of parallelism, or several combined, as a user chooses it.

    Args:
        title: what people call it. options: of ``vllm serve``, for two or four devices.
        placement: the degrees of parallelism that these options give.
        engine_limits: families that the engine itself cannot run so, each with the reason.
    """

    title: str
    options: str
    placement: Placement
    engine_limits: Mapping[str, str] = field(default_factory=dict)

    def decide(self, spec: FamilySpec) -> Decision | None:
        """What LVSA does with a family; None where the engine does not run it."""
        return None if spec.name in self.engine_limits else self.placement.decide(spec.text)


_CAUSAL = "its attention layers of the text are causal, which the engine's AllGather-KV refuses"
_NO_STAGES = "its pipeline has no stages: the engine lets every rank compute everything"

#: Measured on two and four ranks, each row with each family.
PLACEMENTS: tuple[PlacementOption, ...] = (
    PlacementOption("tensor parallel", "--tensor-parallel-size 2", Placement(tp=2)),
    PlacementOption("CFG parallel", "--cfg-parallel-size 2", Placement(cfg=2)),
    PlacementOption(
        "pipeline parallel",
        "--pipeline-parallel-size 2 --vae-patch-parallel-size 2",
        Placement(pp=2),
        {"hunyuan": _NO_STAGES, "cosmos3": _NO_STAGES},
    ),
    PlacementOption("HSDP", "--use-hsdp --hsdp-shard-size 2", Placement(hsdp=2)),
    PlacementOption("Ulysses", "--ulysses-degree 2", Placement(ulysses=2)),
    PlacementOption(
        "Ulysses, any number of heads", "--ulysses-degree 2 --ulysses-mode advanced_uaa", Placement(ulysses=2)
    ),
    PlacementOption("Ring", "--ring-degree 2", Placement(ring=2)),
    PlacementOption("AllGather-KV", "--allgather-degree 2", Placement(allgather_kv=2), {"cosmos3": _CAUSAL}),
    PlacementOption("Ulysses x Ring", "--ulysses-degree 2 --ring-degree 2", Placement(ulysses=2, ring=2)),
    PlacementOption(
        "Ulysses x Ring, any number of heads",
        "--ulysses-degree 2 --ring-degree 2 --ulysses-mode advanced_uaa",
        Placement(ulysses=2, ring=2),
    ),
    PlacementOption("Ulysses x CFG", "--ulysses-degree 2 --cfg-parallel-size 2", Placement(ulysses=2, cfg=2)),
    PlacementOption("Ring x CFG", "--ring-degree 2 --cfg-parallel-size 2", Placement(ring=2, cfg=2)),
    PlacementOption("tensor x CFG", "--tensor-parallel-size 2 --cfg-parallel-size 2", Placement(tp=2, cfg=2)),
    PlacementOption("tensor x Ulysses", "--tensor-parallel-size 2 --ulysses-degree 2", Placement(tp=2, ulysses=2)),
    PlacementOption("tensor x Ring", "--tensor-parallel-size 2 --ring-degree 2", Placement(tp=2, ring=2)),
    PlacementOption(
        "tensor x AllGather-KV",
        "--tensor-parallel-size 2 --allgather-degree 2",
        Placement(tp=2, allgather_kv=2),
        {"cosmos3": _CAUSAL},
    ),
    PlacementOption(
        "AllGather-KV x CFG",
        "--allgather-degree 2 --cfg-parallel-size 2",
        Placement(allgather_kv=2, cfg=2),
        {"cosmos3": _CAUSAL},
    ),
    *(
        PlacementOption(
            f"pipeline x {title}",
            f"--pipeline-parallel-size 2 --vae-patch-parallel-size 2 {options} 2",
            Placement(pp=2, **{degree: 2}),
            {"hunyuan": _NO_STAGES, "cosmos3": _NO_STAGES},
        )
        for title, options, degree in (
            ("tensor", "--tensor-parallel-size", "tp"),
            ("CFG", "--cfg-parallel-size", "cfg"),
            ("Ulysses", "--ulysses-degree", "ulysses"),
            ("Ring", "--ring-degree", "ring"),
            ("AllGather-KV", "--allgather-degree", "allgather_kv"),
        )
    ),
    *(
        PlacementOption(
            f"HSDP x {title}", f"--use-hsdp --hsdp-shard-size 2 {option} 2", Placement(hsdp=2, **{degree: 2}), limits
        )
        for title, option, degree, limits in (
            ("CFG", "--cfg-parallel-size", "cfg", {}),
            ("Ulysses", "--ulysses-degree", "ulysses", {}),
            ("Ring", "--ring-degree", "ring", {}),
            ("AllGather-KV", "--allgather-degree", "allgather_kv", {"cosmos3": _CAUSAL}),
        )
    ),
    PlacementOption(
        "HSDP x Ulysses x Ring",
        "--use-hsdp --hsdp-shard-size 4 --ulysses-degree 2 --ring-degree 2",
        Placement(hsdp=4, ulysses=2, ring=2),
    ),
    PlacementOption("replicas, data parallel", "--stage-id 0 --omni-dp-size-local 2", Placement()),
)


#: Seconds after which the engine gives up a request on several workers, or its output, unless the user sets others.
USUAL_TIME_LIMIT = 600.0


def time_limit() -> str:
    """What to do about the engine's time-outs of a request on several workers; empty if the user has raised both.

    The executor shuts the workers down when one of them has not answered in time. The engine reads the variables
    itself, in each worker's process and in its own.
    """
    from vllm_omni.diffusion import diffusion_engine
    from vllm_omni.diffusion.executor import multiproc_executor

    limits = {
        "VLLM_OMNI_DLO_DP_WAVE_TIMEOUT": getattr(multiproc_executor, "_DLO_DP_WAVE_TIMEOUT_S", math.inf),
        "VLLM_OMNI_ASYNC_OUTPUT_TIMEOUT": getattr(diffusion_engine, "_async_output_timeout", lambda: math.inf)(),
    }
    short = {name: seconds for name, seconds in limits.items() if seconds <= USUAL_TIME_LIMIT}
    if not short:
        return ""
    return (
        f"vLLM-Omni gives up a request after {min(short.values()):g} s on several workers, and may shut them all down: "
        f"for long videos set {' and '.join(short)} to more seconds than one takes, and start again"
    )


def titles(placement: Placement) -> str:
    """A placement in the words of the table, such as ``Ulysses 2 x CFG parallel 2``; empty on one device."""
    names = {
        "tp": "tensor parallel", "cfg": "CFG parallel", "pp": "pipeline parallel", "hsdp": "HSDP", "ulysses": "Ulysses",
        "ring": "Ring", "allgather_kv": "AllGather-KV",
    }  # fmt: skip
    return " x ".join(f"{name} {degree}" for key, name in names.items() if (degree := getattr(placement, key)) > 1)


def refusals(*, lse: bool) -> Iterator[str]:
    """What cannot run with a kernel: family, placement and reason.

    Args:
        lse: whether the kernel returns a log-sum-exp.
    """
    for name, spec in SPECS.items():
        decision = Placement(ring=2).decide(spec.text, lse=lse)
        if decision.verdict == "refused":
            yield f"{name} under Ring: refused, {decision.reason}"


def table() -> Iterator[Sequence[str]]:
    """A header, and a row for each option: title, options, the decision for each family, and the reasons."""
    yield ("placement", "options", *SPECS, "how")
    for option in PLACEMENTS:
        decisions = {name: option.decide(spec) for name, spec in SPECS.items()}
        verdicts = [decision.verdict if decision else "not in the engine" for decision in decisions.values()]
        reasons = [decision.reason for decision in decisions.values() if decision]
        limits = [f"{name}: {reason}" for name, reason in option.engine_limits.items()]
        how = max(reasons, key=len)
        yield (option.title, option.options, *verdicts, "; ".join([how, *dict.fromkeys(limits)]))
