"""How passes are cut into jobs: by shape alone, so that results do not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

# A pass is cut into up to this many jobs, as long as each has this many multiply-adds: handing a job to
# another thread costs some 30 us, in which a core does a few million.
JOBS = 8
JOB_MULTIPLICATIONS = 2**21
# All partial sums of a backward-weight pass together.
PARTS_BYTES = 8 * 2**20

Range = tuple[int, int]


def ceil_div(a: int, b: int) -> int:
    """The quotient rounded up."""
    return -(-a // b)


def blocks(stop: int, step: int, start: int = 0) -> Iterator[Range]:
    """Consecutive ranges (start, stop) of at most ``step``."""
    return ((first, min(first + step, stop)) for first in range(start, stop, step))
