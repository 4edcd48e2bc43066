"""What the tests of ``measure/apart.py`` do in processes of their own, which must be able to import it."""

import os
import time
from collections.abc import Callable, Sequence

from lvsa_vllm_omni.measure.apart import one_by_one


def follow(jobs: Sequence[str], answer: Callable[[str, dict[str, object]], None]) -> None:
    """Do what each job says."""

    def one(job: str) -> dict[str, object]:
        if job == "abort":
            os.abort()
        if job == "leave":
            os._exit(3)
        if job == "sleep":
            time.sleep(60)
        if job == "raise":
            raise OSError("a library is missing\nmore")
        return {"result": "right", "process": os.getpid()}

    one_by_one(one, jobs, answer)
