"""The one way in which kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from numba import njit

P = ParamSpec("P")
R = TypeVar("R")


def jit(kernel: Callable[P, R]) -> Callable[P, R]:
    """Compile at the first call for a dtype, without the GIL, kept on disk where that is possible.

    Division follows NumPy (no exception to test for); no fastmath: NaN and infinity travel as in a
    plain loop and sums keep their order.
    """
    try:
        return njit(kernel, nogil=True, error_model="numpy", cache=True)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to write to (a read-only install without a home): compile in memory
        return njit(kernel, nogil=True, error_model="numpy")  # type: ignore[no-any-return]
