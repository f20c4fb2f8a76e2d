"""Memory for results and scratch: what earlier calls have left, where there is some.

Large memory that is new is found, cleared and mapped page by page by the system when it is first written.
A first layer of VGG (8x3x224x224 -> 64, 3x3 taps, float32) takes 31 ms with a new result and 17 ms with one
that was there; 4x64x56x56 -> 256 with 1x1 taps in float64 between 7 and 80 ms, and always 7; 4x512x7x7 -> 512
with 3x3 taps in float64 20 ms, and 15 with kept scratch (AVX-512 Xeon, a virtual machine). So the memory of a
few large arrays outlives them.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np

from fastconv.arguments import Array, Size
from fastconv.kernels.vectors import VECTOR_BYTES

# Elements of a result that is worth the two microseconds it takes to begin with a vector.
LARGE_RESULT = 2**14
# Bytes of a page, and how many of them a result begins before the place where its source begins in one.
PAGE, APART = 4096, 192
# Bytes that are worth keeping; the C library keeps what is smaller.
LEAST_KEPT = 2**20
# Bytes and arrays that are kept in all; the oldest leave first.
MOST_KEPT = 2**27
MOST_ARRAYS = 16


class Place(NamedTuple):
    """Where an array begins: in a page, ``APART`` before its source or up to a grain more."""

    source: Array | None = None
    grain: int = VECTOR_BYTES


class Kept:
    """Memory of arrays that are gone.

    Arrays die in any thread and at any moment, even while this is at work, so nothing here takes a lock:
    every step is one call of a list's method.
    """

    def __init__(self) -> None:
        self.memories: list[Memory] = []

    def take(self, nbytes: int) -> Memory:
        """Memory of so many bytes or up to a quarter more."""
        for memory in tuple(self.memories):
            if nbytes <= memory.nbytes <= nbytes + nbytes // 4:
                try:
                    self.memories.remove(memory)
                except ValueError:  # another thread was faster
                    continue
                return memory
        try:
            return Memory(nbytes)
        except MemoryError:
            self.memories.clear()
            return Memory(nbytes)

    def give(self, memory: Memory) -> None:
        """Keep it for the next array."""
        self.memories.append(memory)
        while len(self.memories) > MOST_ARRAYS or self.nbytes > MOST_KEPT:
            try:
                self.memories.pop(0)
            except IndexError:
                return

    @property
    def nbytes(self) -> int:
        """What is kept now."""
        return sum(memory.nbytes for memory in tuple(self.memories))


class Memory:
    """Bytes, and room to begin anywhere in a page."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.array = np.empty(nbytes + PAGE, np.uint8)

    def first(self, place: Place) -> int:
        """The byte where an array begins; with a vector if it has no source."""
        address = self.array.ctypes.data
        if place.source is None:
            return -address % VECTOR_BYTES
        begin = (place.source.ctypes.data - APART) // place.grain * place.grain
        return (begin - address) % PAGE


class Loan:
    """The base of arrays in kept memory: the last of them takes it along, and so the memory comes back."""

    def __init__(self, memory: Memory, nbytes: int, place: Place) -> None:
        self.memory, self.kept = memory, KEPT
        self.__array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (memory.array.ctypes.data + memory.first(place), False),
            "version": 3,
        }

    def __del__(self) -> None:
        self.kept.give(self.memory)


KEPT = Kept()
WITH_A_VECTOR = Place()


def aligned(elements: int, dtype: np.dtype[Any], place: Place = WITH_A_VECTOR) -> Array:
    """Memory that begins with a vector: a load that splits a cache line takes twice as long."""
    nbytes = elements * dtype.itemsize
    if nbytes == 0:
        return np.empty(0, dtype)
    if nbytes < LEAST_KEPT:
        memory = Memory(nbytes)
        first = memory.first(place)
        return memory.array[first : first + nbytes].view(dtype)
    return np.asarray(Loan(KEPT.take(nbytes), nbytes, place)).view(dtype)


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
        channels, whose vectors begin where both do (`fastconv.algorithms.strips`).
    """
    elements = prod(shape)
    if elements < LARGE_RESULT:
        return np.empty(shape, dtype)
    place = Place(source, dtype.itemsize if alike else VECTOR_BYTES)
    return aligned(elements, dtype, place).reshape(shape)
