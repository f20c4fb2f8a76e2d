"""How passes are cut into jobs: by shape alone, so that results do not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, Generic, TypeVar

from fastconv.threads import checkpoint, get_num_threads

# A pass is cut into up to this many jobs before it is known how many threads there are, as long as each has
# this many multiply-adds: handing a job to another thread costs some 30 us, in which a core does a few
# million.
JOBS = 8
JOB_MULTIPLICATIONS = 2**21
# A job, or a piece of one after which it may be stopped, has at most this many: a tenth of a second of a core
# (100 GF/s), so that an interrupt returns within a second.
MOST_MULTIPLICATIONS = 2**33
# A matrix of fewer columns leaves registers of BLAS empty, and a call for each takes longer than the work:
# images of fewer output cells are multiplied several at once. From a few hundred cells on the copies that
# bring images together cost more (0.7 to 0.9), up to 49 nothing or less (0.9 to 6 times as fast).
FEW_PIXELS = 64
# All partial sums of a backward-weight pass together.
PARTS_BYTES = 2 * 2**20

# The tables of a pass that a plan keeps, in bytes; larger ones are made whenever the pass is called, which is
# little beside the work that they are tables for.
KEPT_BYTES = 7 * 2**10
# Of a row of a table, of one channel and tap, about.
TABLE_BYTES = 24

Range = tuple[int, int]
Kind = TypeVar("Kind")
Made = TypeVar("Made", bound=tuple[Any, ...])


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


def share(stop: int, count: int, i: int) -> Range:
    """One of ``count`` ranges of nearly equal length."""
    return stop * i // count, stop * (i + 1) // count


class Grid:
    """All combinations of one range of each axis, the last axis' fastest, by their number.

    Parameters
    ----------
    *axes : tuple of two int
        Where an axis stops, and the length of its ranges; the last of them may be shorter.
    """

    __slots__ = ("axes", "counts", "single")

    def __init__(self, *axes: Range) -> None:
        self.axes = axes
        self.counts = [-(-stop // step) for stop, step in axes]
        # The one combination that small passes have.
        self.single = tuple([(0, stop) for stop, _ in axes]) if self.counts == [1] * len(axes) else None

    def __len__(self) -> int:
        return prod(self.counts)

    def __getitem__(self, i: int) -> tuple[Range, ...]:
        if self.single is not None:
            return self.single
        ranges = []
        for (stop, step), count in zip(self.axes[::-1], self.counts[::-1], strict=True):
            i, place = divmod(i, count)
            ranges.append((place * step, min((place + 1) * step, stop)))
        return tuple(ranges[::-1])


class Latest(Generic[Kind]):
    """What was made last, by what it follows from, the number of threads above all: mostly there is one."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: tuple[tuple[int, ...], Kind] | None = None

    def of(self, make: Callable[..., Kind], *numbers: int) -> Kind:
        """What is made of some numbers. Threads may ask at the same time."""
        kept = self.kept
        if kept is None or kept[0] != numbers:
            kept = self.kept = numbers, make(*numbers)
        return kept[1]


class Tables(Generic[Made]):
    """A property, a tuple of arrays and numbers: made when it is asked for, and kept where it is small.

    An owner that is one of several says in ``alike`` how many they are: these share the room of four.
    Threads that ask at the same time make the same twice.
    """

    def __init__(self, make: Callable[[Any], Made]) -> None:
        self.make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, kind: type) -> Made:
        made = self.make(owner)
        room = KEPT_BYTES * 4 // max(4, getattr(owner, "alike", 1))
        if sum({id(part): getattr(part, "nbytes", 0) for part in made}.values()) <= room:
            owner.__dict__[self.name] = made
        return made
