"""Memory for results and scratch: that of arrays that are gone, where there is some.

Memory that is new is found, cleared and mapped page by page by the system when it is first written, and the
C library gives memory of more than 128 KiB back whenever it is freed, until a program happens to have freed
something larger: one image of 64x28x28 with 3x3 taps takes 470 us in one program and 195 in another
(float32, one thread of an AVX-512 Zen 5). So blocks of memory outlive their arrays.

A block is an ordinary array that owns its bytes, and every array made of it is a view: by NumPy's rules all
views, and the views of views, have the block itself as their base. So as long as anybody holds one, the
block has more references than the one in the list below, and when there is only that one, nobody can see
its bytes any more and they serve the next array. Python says how many references there are only where it
counts them under one lock; on other interpreters every array has new memory.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from math import prod
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from fastconv.arguments import Array, Size
from fastconv.kernels.vectors import VECTOR_BYTES

# Bytes of a page, and how many of them a result begins before the place where its source begins in one.
PAGE, APART = 4096, 192
# Bytes that are worth keeping; the C library mostly keeps what is smaller.
LEAST_KEPT = 2**15
# Bytes of all blocks that are listed, whether arrays have them or not, and blocks of one size. Those that
# were given out longest ago leave first.
MOST_KEPT = 2**28
MOST_OF_A_SIZE = 16
# Seconds after which a block that no array has had is given back.
KEPT_SECONDS = 10.0


class Place(NamedTuple):
    """Where an array begins: in a page, ``APART`` before its source or up to a grain more."""

    source: Array | None = None
    grain: int = VECTOR_BYTES


class Block:
    """An array that owns memory, and when it was last given out."""

    __slots__ = ("address", "nbytes", "owner", "used")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.owner = np.empty(nbytes + PAGE, np.uint8)
        self.address: int = self.owner.__array_interface__["data"][0]
        self.used = monotonic()

    def references(self) -> int:
        """How many there are to the memory, as the interpreter counts them here."""
        return sys.getrefcount(self.owner)

    def array(self, shape: Size, dtype: np.dtype[Any], place: Place) -> Array:
        """A view that begins at a place in a page."""
        if place.source is None:
            first = -self.address % VECTOR_BYTES
        else:
            begin = place.source.__array_interface__["data"][0] - APART
            first = (begin // place.grain * place.grain - self.address) % PAGE
        return np.ndarray(shape, dtype, self.owner, first)


class Kept:
    """Blocks by their size, those that arrays have and those that are free.

    Any thread may be at work here at any moment, so a list is only changed by single calls of its methods,
    which no other thread comes between.
    """

    def __init__(self) -> None:
        self._by_size: dict[int, list[Block]] = {}
        self._timer: threading.Timer | None = None

    def array(self, shape: Size, dtype: np.dtype[Any], nbytes: int, place: Place) -> Array:
        """An array of so many bytes, in a block that no other array has, of up to a quarter more."""
        size = _rounded(nbytes)
        listed = self._by_size.get(size, [])
        for block in listed[::-1]:
            if block.references() == FREE:
                try:
                    listed.remove(block)
                except ValueError:  # another thread was faster
                    continue
                if block.references() != FREE:  # it was faster still: took the block and listed it again
                    listed.append(block)
                    continue
                if not block.owner.flags.writeable:  # its last holder has locked it
                    block.owner.flags.writeable = True
                block.used = monotonic()
                array = block.array(shape, dtype, place)
                listed.append(block)
                return array
        try:
            block = Block(size)
        except MemoryError:
            self._by_size.clear()
            block = Block(nbytes)
        array = block.array(shape, dtype, place)
        if FREE and block.nbytes <= MOST_KEPT:
            self._list(block)
        return array

    def _list(self, block: Block) -> None:
        listed = self._by_size.setdefault(block.nbytes, [])
        listed.append(block)
        if len(listed) > MOST_OF_A_SIZE:
            _remove(listed, listed[0])
        surplus = self.nbytes - MOST_KEPT
        for oldest in self.blocks() if surplus > 0 else ():
            if surplus <= 0:
                break
            self._forget(oldest)
            surplus -= oldest.nbytes
        if self._timer is None:
            self._start_timer()

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks that are listed."""
        return sum([block.nbytes for block in self.blocks()])

    def blocks(self) -> list[Block]:
        """All that are listed, that which was given out longest ago first."""
        listed = [block for one_size in tuple(self._by_size.values()) for block in tuple(one_size)]
        return sorted(listed, key=lambda block: block.used)

    def give_back(self, before: float) -> None:
        """Forget the blocks that are free and were last given out before a moment."""
        for block in self.blocks():
            if block.used < before and block.references() == FREE:
                self._forget(block)

    def _forget(self, block: Block) -> None:
        _remove(self._by_size.get(block.nbytes, []), block)

    def _start_timer(self) -> None:
        """Look after blocks in a while, and again as long as there are any."""
        self._timer = threading.Timer(KEPT_SECONDS, self._after_a_while)
        self._timer.daemon = True
        try:
            self._timer.start()
        except RuntimeError:  # no memory for a thread, or the interpreter is shutting down
            self._timer = None

    def _after_a_while(self) -> None:
        self.give_back(monotonic() - KEPT_SECONDS)
        self._timer = None
        if self.blocks():
            self._start_timer()


def _rounded(nbytes: int) -> int:
    """Bytes of a block for so many: four to eight sizes between a power of two and the next."""
    step = 1 << max(0, (nbytes - 1).bit_length() - 3)
    return -(-nbytes // step) * step


def _remove(blocks: list[Block], block: Block) -> None:
    with suppress(ValueError):  # another thread was faster
        blocks.remove(block)


# References to the memory of a block that no array has; 0 where they can't be told.
FREE = Block(1).references() if getattr(sys, "_is_gil_enabled", lambda: True)() else 0
KEPT = Kept()
WITH_A_VECTOR = Place()


def _after_fork() -> None:
    """A child has its parent's blocks, and not the thread that looks after them."""
    KEPT._timer = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def aligned(elements: int, dtype: np.dtype[Any], place: Place = WITH_A_VECTOR) -> Array:
    """Memory that begins with a vector: a load that splits a cache line takes twice as long."""
    nbytes = elements * dtype.itemsize
    if nbytes >= LEAST_KEPT:
        return KEPT.array((elements,), dtype, nbytes, place)
    return Block(nbytes).array((elements,), dtype, place) if nbytes else np.empty(0, dtype)


def new_result(shape: Size, dtype: np.dtype[Any], source: Array | None = None, alike: bool = False) -> Array:
    """A new array for a result, which begins with a vector if it is large.

    NumPy's own large arrays begin 16 bytes into a page, so that every store of a vector splits a cache line:
    depthwise forward over 8x28x28x256 takes 582 us with such a result and 465 with an aligned one, from an
    aligned image, and 564 and 524 from one that is not (float32, in C, AVX-512 Xeon).

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    source : array, optional
        What the result is read from. A load waits for the stores before it whose address is the same in its
        last twelve bits, so the result begins a little before its source does, counted within a page: 840
        and 519 us, the same layer in an EPYC 9004.
    alike : bool
        Whether the result begins in a vector where its source does: for passes that read and write the same
        channels, whose vectors begin where both do (`fastconv.engine.depthwise_lines`).
    """
    nbytes = prod(shape) * dtype.itemsize
    if nbytes < LEAST_KEPT:
        return np.empty(shape, dtype)
    place = Place(source, dtype.itemsize if alike else VECTOR_BYTES)
    return KEPT.array(shape, dtype, nbytes, place)


def zeros(shape: Size, dtype: np.dtype[Any]) -> Array:
    """A new array of zeros."""
    if prod(shape) * dtype.itemsize < LEAST_KEPT:
        return np.zeros(shape, dtype)
    array = new_result(shape, dtype)
    array[...] = 0
    return array


def contiguous(array: Array) -> Array:
    """The array itself where it is C-contiguous, else a copy that is."""
    if array.flags.c_contiguous or array.nbytes < LEAST_KEPT:
        return np.ascontiguousarray(array)
    copy = new_result(array.shape, array.dtype)
    copy[...] = array
    return copy
