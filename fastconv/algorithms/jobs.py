"""How passes are cut into jobs: by shape alone, so that results do not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Iterator

from fastconv.threads import checkpoint, get_num_threads

# A pass is cut into up to this many jobs before it is known how many threads there are, as long as each has
# this many multiply-adds: handing a job to another thread costs some 30 us, in which a core does a few
# million.
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


def owned_jobs(work: int) -> int:
    """As `wanted_jobs` where jobs own their cells: more than `JOBS` where there are more threads."""
    most = max(JOBS, get_num_threads())
    return max(1, min(most, work // JOB_MULTIPLICATIONS), work // MOST_MULTIPLICATIONS)


def jobs_now(work: int) -> int:
    """How many jobs a pass of ``work`` multiply-adds is cut into where each owns its cells: one a thread.

    More than `JOBS`, therefore, where there are more threads: what is summed, and how, stays the same.
    Each is a call of a kernel, at whose ends a thread may have to wait for the GIL: 256x28 -> 64 with
    1x1 taps, one image, at 115 GF/s in six jobs and at 127 in one, by one thread; layers of 1 to 6 ms
    by two threads 6 % faster in two than in eight, 7x7 planes with 3x3 taps, whose filters stay with
    the thread that transformed them, 14 % (float32, AVX-512 Xeon).
    """
    return max(1, min(get_num_threads(), work // JOB_MULTIPLICATIONS), work // MOST_MULTIPLICATIONS)


def even_parts(most: int) -> int:
    """So many parts of a sum or fewer, a power of two: threads, which mostly are one as well, share them.

    512x28 -> 128 with 1x1 taps is summed in 4 parts instead of 6, one of which was shorter: 3.26 ms and 3.0
    (float32, batch 8, two threads).
    """
    return 2 ** (max(1, most).bit_length() - 1)


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


def shares(stop: int, count: int) -> list[Range]:
    """As many ranges of nearly equal length, or ``stop`` if they are fewer."""
    count = min(stop, count)
    return [(stop * i // count, stop * (i + 1) // count) for i in range(count)]
