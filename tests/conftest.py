"""Settings shared by the whole suite: one Hypothesis profile, repeatable and without deadlines.

`FASTCONV_SEARCH=20 pytest` draws twenty times as many examples, new ones at each run.
"""

import pytest
from attempts import Attempts, limited_memory
from hypothesis import HealthCheck, settings
from strategies import SEARCH

settings.register_profile(
    "fastconv",
    deadline=None,  # the first example compiles
    derandomize=SEARCH == 1,
    database=None,
    max_examples=40 * SEARCH,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fastconv")


@pytest.fixture
def attempts(capfd):
    """Calls with arguments of any kind, in limited memory (`attempts.Attempts`)."""
    with limited_memory():
        yield Attempts(capfd)
