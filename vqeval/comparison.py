"""Two sets of videos of the same prompts and seeds, pair by pair: is there a difference, and how sure is it?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from vqeval import scores
from vqeval.batch import Entry, Outcome, evaluate_all, record_beside, videos_in
from vqeval.errors import InputError
from vqeval.evaluation import Settings
from vqeval.result import Result, installed_version
from vqeval.video import Progress, digest

#: Fewer prompts than this give no interval: there is too little to draw from.
LEAST_PROMPTS = 5
#: Draws of the bootstrap, and its seed, so that the same pairs give the same interval.
DRAWS, SEED = 10_000, 0
#: Normal deviates of a two-sided test at 5 % that finds a true difference in four of five cases.
_DEVIATES = 1.96 + 0.84

Key = tuple[str, int]


class Row(BaseModel):
    """One quantity compared.

    Args:
        quantity: "score" or, for what has no score, "value".
        a, b: the means. difference: of the pairs, B minus A. low, high: its 95 % interval, None with ``reason``.
        pairs: with a number on both sides. needed: pairs with which such a difference is seen four times out of five.
        verdict: in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    quantity: str
    pairs: int
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    reason: str | None
    needed: int | None
    verdict: str


class Pair(BaseModel):
    """Two videos of one prompt and seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    seed: int
    a: Result
    b: Result


class Comparison(BaseModel):
    """Two folders compared; ``left_out`` says for each video without a partner or a result why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vqeval: str
    a: str
    b: str
    rows: list[Row]
    pairs: list[Pair]
    left_out: dict[str, str]


def compare(
    a: str | Path,
    b: str | Path,
    *,
    settings: Settings | None = None,
    progress: Callable[[Entry], Progress | None] = lambda entry: None,
) -> Comparison:
    """Compare the videos of two folders that the JSON beside them says are of the same prompt and seed.

    A result that ``--evaluate`` wrote into the JSON is used as it is, if it is of this video and of these settings.

    Raises:
        InputError: a folder is missing, has two videos of one prompt and seed, or no pair is left.
    """
    settings = settings or Settings()
    left_out: dict[str, str] = {}
    sides = [_videos(Path(folder), left_out) for folder in (a, b)]
    for side, other in (sides, sides[::-1]):
        left_out.update({str(side[key]): "has no partner" for key in side.keys() - other.keys()})
    keys = [key for key in sides[0] if key in sides[1]]
    if not keys:
        raise InputError(f"{a} and {b}: no two videos have the same prompt and seed in the JSON beside them")
    results = [_results([side[key] for key in keys], settings, progress, left_out) for side in sides]
    pairs = []
    for key in keys:
        first, second = (found.get(side[key]) for found, side in zip(results, sides, strict=True))
        if first and second:
            pairs.append(Pair(prompt=key[0], seed=key[1], a=first, b=second))
    if not pairs:
        raise InputError(f"{a} and {b}: no pair could be judged; {next(iter(left_out.values()))}")
    return Comparison(
        vqeval=installed_version(), a=str(a), b=str(b), rows=rows_of(pairs), pairs=pairs, left_out=left_out
    )


def _videos(folder: Path, left_out: dict[str, str]) -> dict[Key, Path]:
    """The videos of a folder by prompt and seed."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    found: dict[Key, Path] = {}
    for path in videos_in(folder):
        settings = (record_beside(path) or {}).get("settings")
        key = _key(settings if isinstance(settings, dict) else {})
        if key is None:
            left_out[str(path)] = "the JSON beside it names no prompt and seed"
            continue
        if key in found:
            raise InputError(f"{folder}: {found[key].name} and {path.name} have the same prompt and seed; remove one")
        found[key] = path
    return found


def _key(settings: Mapping[str, Any]) -> Key | None:
    try:
        return str(settings["prompt"]), int(settings["seed"])
    except (KeyError, TypeError, ValueError):
        return None


def _results(
    paths: Sequence[Path], settings: Settings, progress: Callable[[Entry], Progress | None], left_out: dict[str, str]
) -> dict[Path, Result]:
    found: dict[Path, Result] = {}
    for path in paths:
        if stored := _stored(path, settings):
            found[path] = stored
            continue
        outcome: Outcome = next(evaluate_all([Entry(path)], settings, progress))
        if outcome.result is None:
            left_out[str(path)] = outcome.error or "no result"
        else:
            found[path] = outcome.result
    return found


def _stored(path: Path, settings: Settings) -> Result | None:
    """The result in the JSON beside a video, if it is of this file, this version and what is asked for now."""
    try:
        stored = Result.model_validate((record_beside(path) or {}).get("vqeval"))
    except ValidationError:
        return None
    if (stored.vqeval, stored.asked) != (installed_version(), settings.learned.asked()):
        return None
    if stored.video.sha256 != digest(path):
        return None
    composite, reason, used = scores.composite(stored.dimensions, settings.weights, settings.profile)
    video = stored.video.model_copy(update={"path": str(path)})
    changes = {"video": video, "composite": composite, "composite_reason": reason, "composite_of": used}
    return stored.model_copy(update=changes)


def quantities(result: Result) -> dict[str, tuple[str, float]]:
    """What of a result is compared, by name: the composite, and of each dimension the score, else the value."""
    found: dict[str, tuple[str, float]] = {}
    if result.composite is not None:
        found["composite"] = ("score", result.composite)
    for name, dimension in result.dimensions.items():
        if dimension.score is not None:
            found[name] = ("score", dimension.score)
        elif dimension.value is not None:
            found[name] = ("value", dimension.value)
    return found


def rows_of(pairs: Sequence[Pair]) -> list[Row]:
    """A row for each quantity that some pair has on both sides."""
    sides = [(pair.prompt, quantities(pair.a), quantities(pair.b)) for pair in pairs]
    names = list(dict.fromkeys(name for _, a, b in sides for name in a if name in b))
    found = []
    for name in names:
        there = [(prompt, a[name], b[name]) for prompt, a, b in sides if name in a and name in b]
        there = [pair for pair in there if pair[1][0] == pair[2][0] == there[0][1][0]]
        prompts = [prompt for prompt, _, _ in there]
        first, second = (np.array([pair[side][1] for pair in there]) for side in (1, 2))
        found.append(row(name, there[0][1][0], prompts, first, second))
    return found


def row(name: str, quantity: str, prompts: Sequence[str], a: NDArray[np.float64], b: NDArray[np.float64]) -> Row:
    """Compare one quantity; seeds of one prompt are drawn together, as they are not independent."""
    differences = b - a
    groups = [
        differences[[i for i, other in enumerate(prompts) if other == prompt]] for prompt in dict.fromkeys(prompts)
    ]
    difference = float(differences.mean())
    low = high = reason = needed = None
    if len(groups) < LEAST_PROMPTS:
        reason = f"an interval needs at least {LEAST_PROMPTS} prompts, there are {len(groups)}"
        verdict = "too few prompts to tell"
    else:
        low, high = interval(groups)
        verdict = "no difference shown" if low <= 0 <= high else "B is higher" if difference > 0 else "A is higher"
        needed = pairs_needed(groups)
    return Row(
        name=name, quantity=quantity, pairs=len(differences), a=float(a.mean()), b=float(b.mean()),
        difference=difference, low=low, high=high, reason=reason, needed=needed, verdict=verdict,
    )  # fmt: skip


def interval(groups: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """95 % interval of the mean difference, by drawing whole groups with replacement (percentile bootstrap)."""
    sums, sizes = np.array([group.sum() for group in groups]), np.array([len(group) for group in groups])
    drawn = np.random.default_rng(SEED).integers(0, len(groups), (DRAWS, len(groups)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def pairs_needed(groups: Sequence[NDArray[np.float64]]) -> int | None:
    """Pairs needed to see a difference of the size found, with as many seeds a prompt as here, or None."""
    means = np.array([group.mean() for group in groups])
    size, spread = abs(float(means.mean())), float(means.std(ddof=1))
    if size < 1e-12:
        return None
    seeds = sum(len(group) for group in groups) / len(groups)
    return math.ceil(max(LEAST_PROMPTS, (_DEVIATES * spread / size) ** 2) * seeds)
