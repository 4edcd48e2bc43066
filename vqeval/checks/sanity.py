"""The sanity tests of a single clip, 1 to 7: what a measure of loops and freezes has to tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

from vqeval.checks import edits
from vqeval.checks.clip import Clip
from vqeval.checks.report import Edit, Line, Subject, lag_frames, value

#: Points that a score loses at least by its own edit, and at most by one that is about something else: what a part of a
#: clip shows may be blurrier, or stiller, than the whole.
OWN_LOSS, OTHER_LOSS = 12.0, 30.0
#: Least share of there-and-back, and most of what is none.
MIRRORED, NEITHER = 0.25, 0.02
#: Shares of frozen frames that a real clip, and a frozen one, may have.
REAL_FREEZE, FROZEN = 0.25, 0.95
#: An encoder keeps grain in some frames and drops it in others, which looks like change.
GRAINY_FROZEN = 0.85


def start_of_loop(clip: Clip) -> int:
    """Where the looped part begins: room for a cross-fade before it."""
    return min(8, len(clip) // 12)


def order(subject: Subject) -> Iterator[Line]:
    """1: real > slowed > looped > frozen, with the clip itself as the reference."""
    clip = subject.clip
    versions = [clip, edits.slowed(clip), edits.looped(clip, len(clip) / 4), edits.frozen(clip)]
    found = [subject.measure(version, paired=True).composite or 0.0 for version in versions]
    passed = all(better > worse for better, worse in pairwise(found))
    text = " > ".join(f"{number:.0f}" for number in found)
    yield Line(1, subject.name, "composite", "real > slowed > looped > frozen", text, passed)


#: Edits, and the dimensions whose scores they may lower.
OWN: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "looped": (lambda clip: edits.looped(clip, len(clip) / 4), ("loop",)),
    "there and back": (edits.there_and_back, ("mirror",)),
    "frozen": (edits.frozen, ("freeze",)),
    "frozen half": (lambda clip: edits.frozen(clip, 0.5), ("freeze",)),
    "slowed": (edits.slowed, ()),
    "backwards": (edits.backwards, ()),
    "flipped": (edits.flipped, ()),
    "shuffled": (edits.shuffled, ("drift",)),
    "gamma": (edits.gamma, ()),
    "flickering": (edits.flickering, ("flicker",)),
    "fading": (edits.fading, ("drift",)),
    "blurred": (edits.blurred, ("blur",)),
    "noisy": (lambda clip: edits.noisy(clip, 12), ("noise",)),
}


def own_dimension(subject: Subject) -> Iterator[Line]:
    """1: each edit moves its own dimension, and no other."""
    before = subject.real.dimensions
    for name, (edit, own) in OWN.items():
        after = subject.measure(edit(subject.clip)).dimensions
        lost = {
            key: (found.score or 0.0) - (after[key].score or 0.0)
            for key, found in before.items()
            if found.counted and found.score is not None and after[key].score is not None
        }
        others = {key: points for key, points in lost.items() if key not in own}
        worst = max(others, key=lambda key: others[key])
        moved = all(lost.get(key, 0.0) > max(OWN_LOSS, others[worst]) for key in own) or name == "shuffled"
        expected = f"loses {' and '.join(own)} only" if own else "loses nothing"
        text = ", ".join(
            [*(f"{key} {-lost.get(key, 0.0):+.0f}" for key in own), f"most else: {worst} {-others[worst]:+.0f}"]
        )
        yield Line(1, subject.name, name, expected, text, moved and others[worst] <= OTHER_LOSS)


def real(subject: Subject) -> Iterator[Line]:
    """2: a real clip is none of it."""
    yield _none(2, subject, "as it is", subject.clip)


def _none(number: int, subject: Subject, name: str, clip: Clip, **how: Any) -> Line:
    found = subject.measure(clip, **how)
    freeze, loop, mirror = (value(found, key) for key in ("freeze", "loop", "mirror"))
    expected = f"freeze at most {REAL_FREEZE:g}, loop and mirror 0"
    text = f"freeze {freeze:.2f}, loop {loop:.2f}, mirror {mirror:.2f}"
    return Line(number, subject.name, name, expected, text, freeze <= REAL_FREEZE and loop == mirror == 0)


def loops(subject: Subject, *, thorough: bool = False) -> Iterator[Line]:
    """3: loops of every kind are found, with their lag."""
    clip, start = subject.clip, start_of_loop(subject.clip)
    length = len(clip)
    periods = {"a third": round(length / 3), "a quarter": round(length / 4), "no whole number": length / 3.3}
    if thorough:
        periods |= {"a half": round(length / 2), "a sixth": round(length / 6)}
    degraded: dict[str, Edit] = {
        "as it is": lambda loop: loop,
        "noise": lambda loop: edits.noisy(loop, 5),
        "brighter and brighter": edits.brightness_drift,
        "2-pixel jitter": edits.jittered,
    }
    least = 0.55 * subject.clip.rate
    for period_name, period in periods.items():
        if period < least:
            continue
        plain = edits.looped(clip, period, start=start)
        kinds = {**{name: edit(plain) for name, edit in degraded.items()}}
        kinds["cross-fade of 4 frames"] = edits.looped(clip, period, start=start, fade=4)
        kinds["last half only"] = edits.partly(clip, edits.looped(clip, period, start=start), 0.5)
        if not thorough and period_name != "a third":
            kinds = {name: kinds[name] for name in ("as it is", "cross-fade of 4 frames")}
        if period > length / 4 + 1:
            kinds.pop("last half only", None)  # less than two periods are no loop
        for name, edited in kinds.items():
            yield _loop(subject, f"{period_name} of the clip, {name}", edited, period)
    third = periods["a third"]
    yield _loop(
        subject, "a third, compressed hard", edits.looped(clip, third, start=start), third, options={"crf": "32"}
    )


def _loop(subject: Subject, name: str, clip: Clip, period: float, **encoding: Any) -> Line:
    found = subject.measure(clip, **encoding)
    lag, share = lag_frames(found), value(found, "loop")
    # What can repeat: all frames behind the first period, of the looped part.
    possible = 1 - period / len(clip) if "half only" not in name else max(0.1, 0.5 - period / len(clip))
    # Shaking hides a part of a loop, and the more the smaller the picture.
    least = (0.25 if "jitter" in name else 0.6) * possible
    passed = lag is not None and abs(lag - period) <= 1 and share >= least
    text = f"loop {share:.2f}, lag {'none' if lag is None else f'{lag:.1f}'}"
    return Line(3, subject.name, name, f"lag {period:.1f} frames, loop {least:.2f} or more", text, passed)


def there_and_back(subject: Subject) -> Iterator[Line]:
    """4: there-and-back is found as such."""
    for name, edit in {
        "there and back": edits.there_and_back,
        "there and back, noise": lambda clip: edits.noisy(edits.there_and_back(clip)),
    }.items():
        found = subject.measure(edit(subject.clip))
        mirror, loop = value(found, "mirror"), value(found, "loop")
        text = f"mirror {mirror:.2f}, loop {loop:.2f}"
        passed = mirror >= MIRRORED and loop <= NEITHER
        yield Line(4, subject.name, name, f"mirror {MIRRORED:g} or more, loop 0", text, passed)


def freezes(subject: Subject) -> Iterator[Line]:
    """5: kinds of stillness are told apart."""
    real = value(subject.real, "freeze")
    kinds: dict[str, tuple[Edit, float, float]] = {
        "frozen": (edits.frozen, FROZEN, 1.0),
        "frozen, grain": (lambda clip: edits.noisy(edits.frozen(clip), 2.5), GRAINY_FROZEN, 1.0),
        "frozen, last half": (lambda clip: edits.frozen(clip, 0.5), 0.45, 0.55 + real),
        "a tenth moves": (edits.frozen_but_a_tenth, 0.0, REAL_FREEZE + real),
        "every frame twice": (edits.duplicated, 0.0, REAL_FREEZE),
    }
    for name, (edit, low, high) in kinds.items():
        found = value(subject.measure(edit(subject.clip)), "freeze")
        yield Line(
            5, subject.name, name, f"freeze {low:.2f} to {high:.2f}", f"freeze {found:.2f}", low <= found <= high
        )


def invariances(subject: Subject) -> Iterator[Line]:
    """6: what does not matter does not matter, for the clip and for a loop of it."""
    clip, period = subject.clip, round(len(subject.clip) / 3)
    same: dict[str, tuple[Edit, dict[str, Any]]] = {
        "backwards": (edits.backwards, {}),
        "flipped": (edits.flipped, {}),
        "gamma": (edits.gamma, {}),
        "cropped": (edits.cropped, {}),
        "half the size": (edits.halved, {}),
        **{f"{rate} a second": (partial(edits.at_rate, rate=rate), {}) for rate in (12, 16, 24, 30)},
        "MPEG-4 in AVI": (lambda clip: clip, {"ending": ".avi", "codec": "mpeg4", "options": {"q:v": "3"}}),
        "VP9 in WebM": (
            lambda clip: clip,
            {"ending": ".webm", "codec": "libvpx-vp9", "options": {"crf": "24", "b:v": "0", "cpu-used": "8"}},
        ),
    }
    loop = edits.looped(clip, period, start=start_of_loop(clip))
    for name, (edit, how) in same.items():
        yield _none(6, subject, name, edit(clip), **how)
        found = subject.measure(edit(loop), **how)
        lag, share = lag_frames(found), value(found, "loop")
        expected = period * found.video.rate / clip.rate
        passed = lag is not None and abs(lag - expected) <= 1 and share >= 0.25
        text = f"loop {share:.2f}, lag {'none' if lag is None else f'{lag:.1f}'}"
        yield Line(6, subject.name, f"{name}, looped", f"lag {expected:.1f} frames", text, passed)


def doses(subject: Subject) -> Iterator[Line]:
    """7: more of it is worse."""
    clip, shares = subject.clip, (0.0, 0.25, 0.5, 0.75, 1.0)
    period = max(round(len(clip) / 6), round(0.6 * clip.rate))
    for key, versions in {
        "freeze": [edits.frozen(clip, share) for share in shares],
        "loop": [edits.falling_back(clip, share, period) for share in shares],
    }.items():
        found = [subject.measure(version) for version in versions]
        values, totals = [value(one, key) for one in found], [one.composite or 0.0 for one in found]
        # What a clip shows in its last quarter may cost it a point or two in another dimension.
        passed = all(a < b for a, b in pairwise(values)) and all(a > b - 2 for a, b in pairwise(totals))
        passed = passed and totals[0] - totals[-1] > 30
        text = (
            " < ".join(f"{number:.2f}" for number in values) + "; " + " > ".join(f"{number:.0f}" for number in totals)
        )
        yield Line(7, subject.name, f"{key} 0, 25, 50, 75, 100 %", "value rises, composite falls", text, passed)
