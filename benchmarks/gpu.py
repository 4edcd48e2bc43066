"""Checks and times every attention kernel on one GPU, beside the dense kernels, in one command that always ends.

    python benchmarks/gpu.py --all

It works in parts, the most telling first. Each has a time limit, and 1 and 2 end within nine minutes together:

1. ``layers``: every kernel is compared with ``reference_attend``, on random data and with free memory filled with NaN,
   and its attention of one layer is timed in bfloat16 at the shapes of Wan 2.1 14B and 1.3B, beside dense
   FlashAttention-3, cuDNN and FlashAttention-2;
2. ``steps``: whole denoising steps of both (see ``gpu_step.py``);
3. ``tests``: ``tests/gpu``;
4. ``models``: the shapes of HunyuanVideo 1.5, Cosmos 3 and 720p, and what slower kernels take at T=21 and 121;
5. ``flashinfer``: FlashInfer's kernels and tests; it compiles for minutes.

Every kernel and every dense attention runs in a process of its own. What crashes or hangs there costs one result; the
next call passes over it. Results are written as they come. Call the same command again to go on: what has a result on
this card, with these versions and this commit, is not run again. At the end stands a table: for each kernel right,
wrong, failed (it raised), crashed (it ended its process, or made the device useless) or unavailable, and its times. The
exit status is 0 if all is there and right, 1 if something is not right, 2 if nothing could be run, 3 if all is right
that has run and something has not: call again.

Of every case it prints ``/dense``, a kernel's time over that of dense attention in the same process, the runs of both
interleaved, by FlashAttention-3 if it runs, else by the fastest; ``overhead``, the same over the density, 1 if only the
attended pairs of tokens (text included) cost time (the target is at most 1.10 beside FlashAttention-3 on Hopper from
T=41 on); ``/floor``, its time over the roofline, by the rates of matrix product and copy that this card has just shown;
peak memory beyond inputs and output, also as a share of its bound (one copy of Q, K and V, and the log-sum-exps); the
largest difference of a few rows from a float32 computation; where the time goes; what planning a step costs the host.

It needs PyTorch and this repository, for ``steps`` diffusers too; no network. ``benchmarks/carry.txt`` lists what to
bring to a machine without one, and how. What is missing is listed as unavailable with the reason, and the rest runs.

``--device cpu --tiny`` runs all of it on shrunk shapes, to see that it works; its times mean nothing.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import root  # noqa: F401
import torch
from gpu_step import CASES, SIDE, STEP_MODELS, Steps
from gpu_step import describe as describe_step
from gpu_step import lines as step_lines
from gpu_tests import COLLECT, tests
from layer import describe
from models import MODELS
from report import Results, names, numbers, parser_of, say, table
from sides import DENSE_SIDE, Job, Layers, Setting, machine

from lvsa_core.kernels import KERNELS
from lvsa_vllm_omni.measure.apart import Result, Work, apart
from lvsa_vllm_omni.measure.dense import DENSE
from lvsa_vllm_omni.measure.machine import ROOT

#: Limits of the parts, in their order, and of one job.
SECONDS = {"layers": 325.0, "steps": 205.0, "tests": 480.0, "models": 480.0, "flashinfer": 590.0}
JOB_SECONDS = {"layers": 120.0, "steps": 150.0, "tests": 60.0, "models": 120.0, "flashinfer": 580.0}
#: Models and latent frames of the first and fourth part; of the first kernel that is right, and of the slower ones.
LENGTHS = (81, 41, 121, 21)
WAN = [(name, t) for name in ("wan-14b", "wan-1.3b") for t in LENGTHS]
WAN_SLOWER = [case for case in WAN if case[1] in (81, 41)]
LARGE = ("hunyuan-video-1.5", "wan-14b-720p", "hunyuan-video-1.5-720p")
OTHERS = [*((name, t) for t in (41, 81, 121) for name in LARGE), ("cosmos3", 81), ("cosmos3", 121)]
OTHERS_SLOWER = [case for case in WAN if case not in WAN_SLOWER]
FLASHINFER = "flashinfer"
TARGET, TARGET_FRAMES = 1.10, 41
FAULTS = ("wrong", "failed", "crashed")


def parse_arguments(given: Sequence[str]) -> argparse.Namespace:
    """Command line; names are checked here."""
    families = list(dict.fromkeys(kernel.family for kernel in KERNELS.values()))
    parser = parser_of(__doc__, figure=False)
    parser.add_argument("--all", action="store_const", const=[*SECONDS], dest="parts", help="all parts")
    parser.add_argument("--parts", type=names(SECONDS), help=f"of {','.join(SECONDS)}; default: the first")
    parser.set_defaults(parts=[*SECONDS][:1])
    parser.add_argument("--models", type=names(MODELS), help=f"of {','.join(MODELS)}; default: each part's own")
    parser.add_argument("--frames", type=numbers(), help="latent frames; default: each part's own")
    parser.add_argument("--kernels", type=names([*families, *KERNELS]), help="families or names; default: each part's")
    parser.add_argument("--dense", type=names(DENSE), default=[*DENSE], help=f"of {','.join(DENSE)}; default: all")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="of each part; default: its own limit")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="shrunk shapes, two runs each")
    return parser.parse_args(given)


def outcome(result: Result) -> str:
    """In words."""
    return ": ".join(result[part] for part in ("result", "reason") if part in result)


class Session:
    """One run of the command: its parts by their names, and what is known so far."""

    def __init__(self, arguments: argparse.Namespace, setting: Setting, results: Results) -> None:
        self.arguments, self.setting, self.results = arguments, setting, results
        self.done: dict[str, dict[str, Any]] = {row["job"]: row for row in results.rows}
        self.tested: dict[str, str] = results.data.setdefault("tests", {})
        self.missing: list[str] = []  # jobs that had no time

    def part(self, name: str) -> None:
        """Run what has no result yet, within the part's time."""
        seconds = self.arguments.budget or SECONDS[name]
        self.limits = {"job_seconds": min(JOB_SECONDS[name], seconds), "until": time.monotonic() + seconds}
        say(f"== {name}, at most {seconds:.0f} s")
        getattr(self, name)()
        self.results.save()

    def layers(self) -> None:
        self.sides(WAN, WAN_SLOWER)

    def steps(self) -> None:
        cases = [case for case in self.cases(CASES) if case[0] in STEP_MODELS]
        for _, group in groupby(cases, key=lambda case: case[0]):
            for row in self.run(Steps(self.setting, self.crashed()), [Job(SIDE, *case) for case in group]):
                say(*(describe_step(row) if row["result"] == "right" else [f"{row['job']}: {outcome(row)}"]))

    def tests(self, of_flashinfer: bool = False) -> None:
        work = partial(tests, self.crashed())
        collected: Result = next((result for _, result in apart(work, [COLLECT], **self.limits)), {})
        known = [name for name in collected.get("tests", ()) if (FLASHINFER in name.lower()) == of_flashinfer]
        if not known:
            self.tested[COLLECT] = outcome(collected)
        left = [name for name in known if name not in self.tested]
        for name, result in apart(work, left, **self.limits):
            self.tested[name] = outcome(result)
            self.results.save()
        self.missing += [name for name in known if name not in self.tested]

    def models(self) -> None:
        self.sides(OTHERS, OTHERS_SLOWER)

    def flashinfer(self) -> None:
        self.sides(WAN_SLOWER, WAN_SLOWER, FLASHINFER)
        self.tests(of_flashinfer=True)

    def cases(self, known: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Models and latent frames of a part, or what is asked for in their place."""
        own = {name: [t for model, t in known if model == name] for name, _ in known}
        models = self.arguments.models or [*own]
        return [(name, t) for name in models for t in self.arguments.frames or own.get(name, LENGTHS)]

    def sides(self, first: Sequence[tuple[str, int]], slower: Sequence[tuple[str, int]], family: str = "") -> None:
        """The dense attentions, then the kernels; of FlashInfer only if ``family`` says so or it is asked for."""
        for name in self.arguments.dense:
            if (name == "FlashInfer") == (family == FLASHINFER):
                self.side(DENSE_SIDE + name, self.cases(first))
        for name, kernel in KERNELS.items():
            asked = self.arguments.kernels
            if {name, kernel.family} & {*asked} if asked else (kernel.family == FLASHINFER) == (family == FLASHINFER):
                self.side(name, self.cases(first if self.first() in (None, name) else slower))

    def side(self, name: str, cases: Sequence[tuple[str, int]]) -> None:
        """Check a side, and time it if it is right."""
        jobs = [Job(name), *(Job(name, *case) for case in cases)]
        if name not in self.done or self.done[name]["result"] == "right":
            for row in self.run(Layers(self.setting, self.results.data["machine"]["rates"], self.references()), jobs):
                say(*(describe(row) if "dense" in row else [f"{row['job']}: {outcome(row)}"]))
                if not row["model"] and row["result"] != "right":
                    break

    def run(self, work: Work, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        """Rows of the jobs that have none yet, written as they come."""
        for job, result in apart(work, [job for job in jobs if str(job) not in self.done], **self.limits):
            row = {"job": str(job), **job._asdict(), **result}
            self.done[row["job"]] = row
            self.results.rows.append(row)
            self.results.save()
            yield row
        self.missing += [str(job) for job in jobs if str(job) not in self.done]

    def first(self) -> str | None:
        """The kernel that ``auto`` takes: the first that is right."""
        return next((name for name in KERNELS if self.done.get(name, {}).get("result") == "right"), None)

    def crashed(self) -> tuple[str, ...]:
        """Kernels that have ended a process."""
        return tuple({row["side"] for row in self.results.rows if row["result"] == "crashed"} & {*KERNELS})

    def references(self) -> dict[tuple[str, int], str]:
        """FlashAttention-3 if it ran at a case, else the fastest."""
        found: dict[tuple[str, int], dict[str, float]] = {}
        for row in self.results.rows:
            if row["side"].startswith(DENSE_SIDE) and row["model"] and row["result"] == "right":
                found.setdefault((row["model"], row["latent_frames"]), {}).update(row["dense"])
        return {
            case: "FlashAttention-3" if "FlashAttention-3" in times else min(times, key=times.__getitem__)
            for case, times in found.items()
        }

    def status(self) -> int:
        """The command's exit status."""
        found = [row["result"] for row in self.results.rows] + [text.partition(":")[0] for text in self.tested.values()]
        if {*found} & {*FAULTS}:
            return 1
        return 2 if not {"right", "passed"} & {*found} else 3 if self.missing else 0


def lines(rows: Sequence[dict[str, Any]], tested: dict[str, str]) -> Iterator[str]:
    """Everything that is known: sides, their times by model, steps, tests."""
    if checks := {row["side"]: outcome(row) for row in rows if not row["model"]}:
        yield from table("kernel | result", checks.items())
    layers = [row for row in rows if row["model"] and row["side"] != SIDE]
    for model in dict.fromkeys(row["model"] for row in layers):
        here = {(row["side"], row["latent_frames"]): row for row in layers if row["model"] == model}
        lengths = sorted({length for _, length in here})
        cells = [
            [side, *(cell(here[side, length]) if (side, length) in here else "" for length in lengths)]
            for side in dict.fromkeys(side for side, _ in here)
        ]
        yield ""
        yield from table(" | ".join([f"{model}, ms (/ density / dense)", *(f"T={t}" for t in lengths)]), cells)
    if steps := [row for row in rows if row["side"] == SIDE and row["result"] == "right"]:
        yield from ("", *step_lines(steps))
    yield from ("", *(f"{row['job']}: {outcome(row)}" for row in rows if row["model"] and row["result"] != "right"))
    counts = Counter(text.partition(":")[0] for text in tested.values())
    yield f"tests/gpu: {', '.join(f'{count} {name}' for name, count in counts.items()) or 'not run'}"
    yield from (f"{name}: {text}" for name, text in tested.items() if text.startswith(FAULTS))


def cell(row: dict[str, Any]) -> str:
    """A time of a side, and of a kernel its overhead."""
    if row["result"] != "right":
        return row["result"]
    own = row["kernels"].get(row["side"])
    return f"{own['seconds'] * 1e3:.4g} ({own['overhead']:.3f})" if own else f"{min(row['dense'].values()) * 1e3:.4g}"


def verdict(rows: Sequence[dict[str, Any]], first: str | None, hopper: bool) -> dict[str, Any]:
    """The largest overhead of the kernel that ``auto`` takes, and whether it is within the target."""
    judged = [
        (row["kernels"][first]["overhead"], row["job"])
        for row in rows
        if row["side"] == first and row.get("reference") == "FlashAttention-3" and first in row["kernels"]
        and row["latent_frames"] >= TARGET_FRAMES and not row["dense_pattern"]
    ]  # fmt: skip
    target = f"{TARGET:.2f} x density x dense FlashAttention-3 on Hopper from T={TARGET_FRAMES} on"
    if not (hopper and judged):
        sentence = f"The target, {target}, is not judged: no such case ran here."
        return {"largest": None, "within": None, "sentence": sentence}
    largest, where = max(judged)
    within = largest <= TARGET
    sentence = f"Largest overhead: {largest:.3f} ({where}), {'within' if within else 'ABOVE'} the target, {target}."
    return {"largest": largest, "within": within, "sentence": sentence}


def started(arguments: argparse.Namespace) -> tuple[Setting, Results]:
    """The machine's facts, and the file that a run on it begins or goes on with.

    Raises:
        ValueError: if nothing can be run here, or the file is of another run.
    """
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch finds no CUDA device; try it out with --device cpu --tiny")
    if arguments.device == "cpu" and not arguments.tiny:
        raise ValueError("a processor is too slow for these shapes: add --tiny")
    setting = Setting(arguments.device.replace("cuda", "cuda:0"), arguments.tiny)
    limit = time.monotonic() + 120
    found = next((result for _, result in apart(partial(machine, setting, arguments.commit), [None], 120, limit)), {})
    if found.get("result") != "right":
        raise ValueError(f"the device does not work: {outcome(found) or 'it does not answer'}")
    facts = found["machine"]
    name = re.sub(r"[^a-z0-9]+", "-", f"{facts['device'] or 'cpu'} {facts['commit']}".lower())
    return setting, Results(arguments.json or ROOT / "outputs" / f"gpu-{name}.json", facts, resume=True)


def main(*given: str) -> int:
    arguments = parse_arguments([*given, *sys.argv[1:]])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the table comes all the same
    try:
        setting, results = started(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    session = Session(arguments, setting, results)
    for part in arguments.parts:
        try:
            session.part(part)
        finally:
            say(*lines(results.rows, session.tested))
    hopper = (results.data["machine"]["capability"] or [0])[0] == 9
    results.save(auto=session.first(), verdict=verdict(results.rows, session.first(), hopper))
    say(results.data["verdict"]["sentence"])
    if session.missing:
        print(f"Not run for lack of time, call again: {len(session.missing)}, the first is {session.missing[0]}")
    print(f"{results.seconds:.0f} s; the results are in {results.file}")
    return session.status()


if __name__ == "__main__":
    sys.exit(main())
