"""The model of many GPUs: its bytes against who holds what by the definition, and what it prints."""

import json
import statistics
import sys
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="the model on paper reads the length of diffusers' table of positions")
pytest.importorskip("pydantic", reason="the model on paper reads presets")
import scaling
from scaling_model import (
    Bytes,
    Case,
    Cluster,
    all_to_all,
    attention_seconds,
    gathered_rows,
    halo,
    longest,
    measure,
    memory,
    placements,
    title,
    weights,
)

from lvsa_core import FrameGrid, Pattern, Placement
from lvsa_core.sharded.exchange import exchange
from lvsa_vllm_omni.presets import load_preset
from lvsa_vllm_omni.shape import Shape

WAN = load_preset("wan2.1-14b").shape
assert WAN is not None
SMALL = Shape(heads=8, kv_heads=4, head_size=16, hidden=128, blocks=2, ffn=256, patch=2, vae_spatial_factor=8)
PATTERN = Pattern(12, window=1, keyframe_interval=4, offset=1)

#: Ulysses alone, also over machines' borders; the exchange alone; both.
PLACEMENTS = [Placement(ulysses=u, ring=r) for u, r in ((4, 1), (1, 6), (2, 4), (4, 2), (4, 3), (2, 3))]


def case(placement: Placement, machine: int = 4, shape: Shape = SMALL) -> Case:
    return Case(shape, FrameGrid(12, 6), 5, placement, Cluster(machine=machine))


def held(case: Case, gpu: int, heads: int) -> tuple[set[int], set[int], set[int], set[int]]:
    """Tokens of a GPU before and after the all-to-all, and of so many heads all, and its own after it."""
    u, each = case.placement.ulysses, case.grid.tokens // case.gpus
    group, place = divmod(gpu, u)
    before = set(range(gpu * each, (gpu + 1) * each))
    after = set(range(group * u * each, (group + 1) * u * each))
    return before, after, set(range(heads)), set(range(place * heads // u, (place + 1) * heads // u))


def brute_force(case: Case, pattern: Pattern) -> list[Bytes]:
    """Every token and head of a tensor that a GPU needs and another one has, by the definition."""
    found = [Bytes([0, 0], [0, 0]) for _ in range(case.gpus)]
    row = case.shape.head_size * 2

    def move(source: int, target: int, tokens: set[int], heads: set[int], tensors: int) -> None:
        link = int(source // case.cluster.machine != target // case.cluster.machine)
        found[source].sent[link] += len(tokens) * len(heads) * row * tensors
        found[target].received[link] += len(tokens) * len(heads) * row * tensors

    for source in range(case.gpus):
        for target in range(case.gpus):
            if source == target:
                continue
            for heads in (case.shape.heads, case.shape.kv_heads):  # Q and the output; K and V
                before, after, every, mine = held(case, source, heads)
                their_before, their_after, _, theirs = held(case, target, heads)
                if heads == case.shape.heads:
                    move(source, target, before & their_after, every & theirs, 1)
                    move(source, target, after & their_before, mine & every, 1)
                else:
                    move(source, target, before & their_after, every & theirs, 2)
            attended = {
                key for key in after - their_after
                if any(pattern.allows(query // case.grid.patches, key // case.grid.patches) for query in their_after)
            }  # fmt: skip
            move(source, target, attended, mine & theirs, 2)
    return found


@pytest.mark.parametrize("machine", [2, 4, 8])
@pytest.mark.parametrize("placement", PLACEMENTS, ids=title)
def test_bytes(placement: Placement, machine: int) -> None:
    shape = SMALL if placement.ulysses == 4 else Shape(**{**vars(SMALL), "kv_heads": 8})
    one = case(placement, machine, shape)
    moved = halo(one, PATTERN)
    for total, shuffled in zip(moved, all_to_all(one), strict=True):
        total.add(shuffled)
    assert moved == brute_force(one, PATTERN)


def test_which_placements_the_heads_allow() -> None:
    assert [title(placement) for placement in placements(WAN, 16)] == ["1 x 16", "2 x 8", "4 x 4", "8 x 2"]
    assert Placement(ulysses=40) in placements(WAN, 40)
    assert Placement(ulysses=64) not in placements(WAN, 64)
    assert placements(SMALL, 8)[-1] == Placement(ulysses=4, ring=2), "key heads must divide too"


def test_attention_is_shared() -> None:
    """FLOP of all GPUs are those of the attended pairs; a group's local part is at most all of its attention."""
    pairs = sum(PATTERN.attended_count(frame) for frame in range(12)) * 6**2
    for placement in PLACEMENTS:
        one = case(placement)
        computed = attention_seconds(one, PATTERN)
        assert sum(whole for whole, _ in computed) * placement.ulysses == pytest.approx(4 * pairs * 8 * 16 / 650e12)
        assert all(0 <= local <= whole for whole, local in computed)


def test_time_of_the_busier_link_and_direction() -> None:
    rates = Cluster(nvlink=100, network=10)
    assert Bytes([100, 0], [300, 0]).seconds(rates) == 3
    assert Bytes([100, 50], [300, 0]).seconds(rates) == 5


def test_no_network_is_faster_than_computing() -> None:
    """With endless bandwidth nothing waits, and with little everything does."""
    fast, slow = (Cluster(nvlink=rate, network=rate) for rate in (1e30, 1e3))
    first, second = (
        measure(Case(WAN, FrameGrid(82, 16), 21, Placement(ulysses=2, ring=4), rates)) for rates in (fast, slow)
    )
    assert first["waiting"] == pytest.approx(0, abs=1e-12) and first["computing"] == second["computing"]
    assert second["waiting"] > 0.9 * second["seconds"]


def test_everyone_waits_for_the_busiest_sender() -> None:
    """Of the exchange alone, where GPUs that receive little still have most of their attention before them."""
    one = Case(WAN, FrameGrid(81, 3600), 21, Placement(ring=9), Cluster(machine=1))
    (pattern, *_), result = one.patterns(), measure(one)
    moved, computed = halo(one, pattern), attention_seconds(one, pattern)
    slowest = max(gpu.seconds(one.cluster) for gpu in moved)
    own = max(max(gpu.seconds(one.cluster), b) + a - b for gpu, (a, b) in zip(moved, computed, strict=True))
    every = max(max(slowest, b) + a - b for a, b in computed)
    assert every > own and result["waiting"] == pytest.approx(
        statistics.mean(waiting(one, pattern) for pattern in one.patterns())
    )


def waiting(case: Case, pattern: Pattern) -> float:
    """Seconds beyond the attention itself, if nobody goes on before all transfers have ended."""
    slowest = max(gpu.seconds(case.cluster) for gpu in halo(case, pattern))
    computed = attention_seconds(case, pattern)
    return max(max(slowest, local) + whole - local for whole, local in computed) - max(whole for whole, _ in computed)


def test_memory() -> None:
    """K and V as projected and as gathered, and what fits."""
    ulysses, alone = case(Placement(ulysses=4)), case(Placement(ring=4))
    token = 4 * 16 * 2
    assert memory(ulysses, 72)["keys"] == 2 * token * 18 * 3
    rows = gathered_rows(exchange(PATTERN, alone.shards), 1)
    frames = {k for q in (3, 4, 5) for k in PATTERN.attended(q)}
    assert rows == len(frames) * 6 and memory(alone, rows)["keys"] == 2 * token * (18 + rows)
    assert 27e9 < weights(WAN) < 29e9

    def of(frames: int) -> Case:
        return Case(SMALL, FrameGrid(frames, 8), 21, Placement(ulysses=4), Cluster())

    most = longest(of, 50e6)
    used = [weights(SMALL) + memory(of(frames), frames * 8)["held"] for frames in (most, most + most // 128 + 2)]
    assert used[0] <= 50e6 < used[1]
    assert longest(of, 1000) == 0


def test_prints_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(tmp_path / "scaling.json"), "--figure", str(tmp_path / "scaling.png")]
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--gpus", "8,40", "--minutes", "0.3,1", *files])
    scaling.main()
    results = json.loads((tmp_path / "scaling.json").read_text())
    assert "nothing is measured" in results["machine"]["kind"]
    assert [(row["gpus"], row["frames"]) for row in results["rows"]] == [(8, 73), (8, 241), (40, 73), (40, 241)]
    assert "hybrid" not in results["rows"][0]["ways"] and results["rows"][2]["ways"]["hybrid"]["placement"] == "8 x 5"
    for row in results["rows"]:
        assert row["ways"]["best"]["seconds"] == min(way["seconds"] for way in row["ways"].values())
    printed = capsys.readouterr().out
    assert "| 1 min | 241 | 40 |" in printed and "*" not in printed.partition("Milliseconds")[2]
    assert "| 40 | 4.3 (19.5) | 4.3 (25.3) | 4.3 (19.5) |" in printed
    assert {row["most_frames"] for row in results["rows"]} == {1024}
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_model_cannot_make(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Beyond Wan's table of positions rows are marked; HunyuanVideo has none."""
    for preset, marked in (("wan2.1-14b", True), ("hunyuan-video-1.5", False)):
        monkeypatch.setattr(sys, "argv", ["scaling.py", "--preset", preset, "--gpus", "8", "--minutes", "1,4.5"])
        scaling.main()
        printed = capsys.readouterr().out
        assert "| 1 min |" in printed and ("| 4.5 min* |" if marked else "| 4.5 min |") in printed
        assert ("* beyond the model's table of positions: 1024 latent frames" in printed) == marked
