"""The one way in which kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import config, njit, types

from fastconv.kernels.cache import KernelCache

try:
    from fastconv.kernels.linking import InnerCompiler

    INNER: dict[str, Any] = {"pipeline_class": InnerCompiler}
except ImportError:  # a Numba whose inside is another: compilation takes longer, and gives the same
    INNER = {}


def part(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Code of the kernels that call it, compiled only there.

    A kernel is compiled with all that it calls, and what it calls is compiled by itself first: so large
    tiles would be compiled once for each function between them and the kernel.
    """
    return njit(kernel, inline="always", error_model="numpy")


def inner(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A function that kernels call, and Python never does: no entry from there, no machine code of its own.

    Compiled once for numbers of any value; Numba itself takes a literal in a call for a type of its own.
    """
    dispatcher: Any = by_value(kernel)
    if not config.DISABLE_JIT:
        template = dispatcher.get_call_template
        dispatcher.get_call_template = lambda args, named: template(tuple(map(types.unliteral, args)), named)
    return dispatcher


def by_value(kernel: Callable[..., Any]) -> Any:
    """As `inner`, but compiled for each value of the literals that it is called with."""
    options = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    dispatcher: Any = njit(kernel, **options, **INNER)
    return dispatcher


def jit(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call for a dtype, without the GIL, kept on disk where that is possible.

    Division follows NumPy (no exception to test for); no fastmath: NaN and infinity travel as in a
    plain loop and sums keep their order.
    """
    dispatcher = njit(kernel, nogil=True, error_model="numpy", no_cfunc_wrapper=True)
    if not config.DISABLE_JIT:
        dispatcher._cache = KernelCache(kernel)
    return dispatcher
