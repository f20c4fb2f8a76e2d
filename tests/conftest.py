"""Settings shared by the whole suite: one Hypothesis profile, repeatable and without deadlines.

`FASTCONV_SEARCH=20 pytest` draws twenty times as many examples, new ones at each run.
"""

import gc

import pytest
from attempts import Attempts, limited_memory
from hypothesis import HealthCheck, settings
from strategies import SEARCH

from fastconv import helpers

settings.register_profile(
    "fastconv",
    deadline=None,  # the first example compiles
    derandomize=SEARCH == 1,
    database=None,
    max_examples=40 * SEARCH,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fastconv")


@pytest.fixture(autouse=True, scope="module")
def _objects_of_earlier_modules_stay():
    """Numba's compiler keeps millions of objects; to look through them takes a collection two seconds."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _cores_that_others_use():
    """Helpers take part in calls, whatever else the machine does: the tests are about what they compute."""
    before, helpers.LEAST_SHARE = helpers.LEAST_SHARE, 0.0
    yield
    helpers.LEAST_SHARE = before


@pytest.fixture
def attempts(capfd):
    """Calls with arguments of any kind, in limited memory (`attempts.Attempts`)."""
    with limited_memory():
        yield Attempts(capfd)
