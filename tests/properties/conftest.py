from __future__ import annotations

from hypothesis import HealthCheck, settings

# The same examples in every run: a red test is red for whoever runs it next. No deadline, since CI machines stall.
settings.register_profile(
    "retryq",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("retryq")
