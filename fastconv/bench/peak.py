"""The ceilings of the machine: multiply-adds a second in registers, bytes a second from memory.

Measured in the same run as whatever is compared with them: machines are shared and clocks move.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, float64, int64, njit
from numba.core import cgutils
from numba.extending import intrinsic

from fastconv.kernels.vectors import VECTOR_BITS

# Independent chains: enough to cover the latency of two FMA units (4 or 5 cycles each on x86), few
# enough for 16 vector registers.
CHAINS = 12
# One measurement, in rounds of CHAINS vector operations: some 10 ms.
ROUNDS = 2_000_000
# The array that is read and written for the bandwidth, in bytes: more than any private cache.
STREAM_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Ceilings:
    """What the machine could do at the most, just now."""

    gflops: float  # 1e9 floating-point operations a second, a multiply-add counting as two
    gbytes: float  # 1e9 bytes a second, read and written


def _chains(element: Any, lanes: int) -> Any:
    """An intrinsic ``f(rounds, x)`` that does ``rounds * CHAINS`` vector multiply-adds."""
    scalar = ir.FloatType() if element == float32 else ir.DoubleType()
    vector = ir.VectorType(scalar, lanes)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rounds, x = arguments
        one_lane = builder.insert_element(
            ir.Constant(vector, ir.Undefined), x, ir.Constant(ir.IntType(32), 0)
        )
        mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        splat = builder.shuffle_vector(one_lane, ir.Constant(vector, ir.Undefined), mask)
        name = f"llvm.fma.v{lanes}f{element.bitwidth}"
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
        # LLVM turns these stack slots into registers.
        sums = [cgutils.alloca_once_value(builder, splat) for _ in range(CHAINS)]
        with cgutils.for_range(builder, rounds):
            for slot in sums:
                builder.store(builder.call(fma, [builder.load(slot), splat, splat]), slot)
        total = builder.load(sums[0])
        for slot in sums[1:]:
            total = builder.fadd(total, builder.load(slot))
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    @intrinsic  # type: ignore[untyped-decorator]
    def chains(typingctx: Any, rounds: Any, x: Any) -> Any:
        return element(int64, element), codegen

    return chains


@cache
def _fma_kernel(dtype: str) -> tuple[Callable[[int, Any], Any], int]:
    """The compiled loop for a dtype, and the operations of one round."""
    element = float32 if dtype == "float32" else float64
    lanes = max(1, VECTOR_BITS // (element.bitwidth))
    chains = _chains(element, lanes)

    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def kernel(rounds, x):  # type: ignore[no-untyped-def]
        return chains(rounds, x)

    kernel(1, np.dtype(dtype).type(0.5))
    return kernel, 2 * CHAINS * lanes


@cache
def _copy_kernel() -> Callable[[Any, Any], None]:
    @njit(nogil=True)  # type: ignore[untyped-decorator]
    def kernel(source, target):  # type: ignore[no-untyped-def]
        for i in range(source.size):
            target[i] = source[i]

    kernel(np.zeros(1), np.zeros(1))
    return kernel


def _seconds(threads: int, work: Callable[[int], object], repeats: int) -> float:
    """The shortest time in which ``threads`` threads all do ``work``: a ceiling is a best case."""
    with ThreadPoolExecutor(threads) as pool:
        best = float("inf")
        for _ in range(repeats):
            start = perf_counter()
            list(pool.map(work, range(threads)))
            best = min(best, perf_counter() - start)
    return best


def fma_gflops(dtype: str, threads: int, repeats: int = 5) -> float:
    """1e9 floating-point operations a second in registers, all threads together."""
    kernel, operations = _fma_kernel("float32" if dtype == "float16" else dtype)
    x = np.dtype("float32" if dtype == "float16" else dtype).type(0.5)
    seconds = _seconds(threads, lambda _: kernel(ROUNDS, x), repeats)
    return threads * ROUNDS * operations / seconds / 1e9


def memory_gbytes(threads: int, repeats: int = 3) -> float:
    """1e9 bytes a second of a copy from memory to memory, read and written, all threads together."""
    cells = STREAM_BYTES // 8 // threads
    arrays = [(np.ones(cells), np.zeros(cells)) for _ in range(threads)]
    copy = _copy_kernel()
    seconds = _seconds(threads, lambda i: copy(*arrays[i]), repeats)
    return 2 * 8 * cells * threads / seconds / 1e9


def ceilings(dtype: str, threads: int) -> Ceilings:
    """Both ceilings, measured now (about a second)."""
    return Ceilings(fma_gflops(dtype, threads), memory_gbytes(threads))
