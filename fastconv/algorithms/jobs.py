"""How passes are cut into jobs: by shape alone, so that results do not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

from fastconv.threads import checkpoint, get_num_threads

# A pass is cut into up to this many jobs, as long as each has this many multiply-adds: handing a job to
# another thread costs some 30 us, in which a core does a few million.
JOBS = 8
JOB_MULTIPLICATIONS = 2**21
# A job, or a piece of one after which it may be stopped, has at most this many: a tenth of a second of a core
# (100 GF/s), so that an interrupt returns within a second.
MOST_MULTIPLICATIONS = 2**33
# All partial sums of a backward-weight pass together.
PARTS_BYTES = 2 * 2**20

Range = tuple[int, int]


def wanted_jobs(work: int) -> int:
    """How many jobs a pass of ``work`` multiply-adds is best cut into."""
    return max(1, min(JOBS, work // JOB_MULTIPLICATIONS), work // MOST_MULTIPLICATIONS)


def jobs_now(wanted: int, work: int) -> int:
    """How many jobs those that own cells of their own are cut into, of so many wanted.

    A single thread has no use for several, each of which is a call of a kernel: 256x28 -> 64 with 1x1 taps,
    one image, at 115 GF/s in six and at 127 in one (float32, AVX-512 Xeon).
    """
    return wanted if get_num_threads() > 1 else max(1, work // MOST_MULTIPLICATIONS)


def pieces(job: Range, work: int) -> Iterator[Range]:
    """The range of a job of ``work`` multiply-adds, in pieces after which it may be stopped."""
    first, stop = job
    step = max(1, ceil_div(stop - first, max(1, ceil_div(work, MOST_MULTIPLICATIONS))))
    for piece in blocks(stop, step, first):
        checkpoint()
        yield piece


def ceil_div(a: int, b: int) -> int:
    """The quotient rounded up."""
    return -(-a // b)


def blocks(stop: int, step: int, start: int = 0) -> Iterator[Range]:
    """Consecutive ranges (start, stop) of at most ``step``."""
    return ((first, min(first + step, stop)) for first in range(start, stop, step))
