"""Property-based tests of the core: no deadline on a busy machine, the same examples in every CI run."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "lvsa",
    max_examples=60,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("lvsa")
