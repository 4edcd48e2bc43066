"""What the pool of ranks says about ranks that fail, hang or die."""

from collections.abc import Callable
from pathlib import Path

from tests.support.ranks import Ranks
from tests.support.worker import Case


def test_a_rank_that_fails_says_why(ranks: Ranks, tmp_path: Path) -> None:
    results = ranks.run(Case(str(tmp_path / "nothing"), ranks=2))
    assert [result.rank for result in results] == [0, 1]
    assert all("Traceback" in result.error and "nothing" in result.error for result in results)


def test_a_rank_out_of_time_says_where_it_is(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    hurried = Ranks(tmp_path, timeout=3.0)
    (result,) = hurried.run(Case(str(checkpoint("wan")), request={"num_frames": 1601, "height": 96, "width": 96}))
    assert "did not answer in time" in result.error
    assert "most recent call first" in result.error


def test_a_rank_that_dies_says_how(ranks: Ranks) -> None:
    (result,) = ranks.run(Case("nothing", engine=Killer()))  # type: ignore[arg-type]
    assert "ended with exit code" in result.error


class Killer:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        import os

        return os._exit, (3,)
