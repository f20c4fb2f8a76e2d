"""Waiting for another thread awake and without the GIL.

A flag is an array of one int64, which one thread raises and another looks at. Threads that have the GIL
raise it as any array's element: the other asks for the GIL before it acts, and sees all that came before.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastconv.kernels.jit import jit
from fastconv.kernels.vectors import pointer

# What tells a core that it runs in a loop that waits, by the name of its architecture.
_RESTS: dict[str, tuple[str, list[int]]] = {
    "x86_64": ("llvm.x86.sse2.pause", []),
    "aarch64": ("llvm.aarch64.hint", [1]),
}


@intrinsic
def read_flag(typingctx, flag):
    """Whether a flag is up; what was written before it was raised is seen after."""

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        place = pointer(context, builder, sig.args[0], arguments[0], ir.Constant(ir.IntType(64), 0))
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(flag), codegen


@intrinsic
def write_flag(typingctx, flag, value):
    """Raise a flag or take it down, after everything that was written before."""

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        place = pointer(context, builder, sig.args[0], arguments[0], ir.Constant(ir.IntType(64), 0))
        builder.store_atomic(arguments[1], place, "release", 8)
        return context.get_dummy_value()

    return types.void(flag, types.int64), codegen


@intrinsic
def rest(typingctx):
    """Some ten to fifty nanoseconds that leave the core to its other thread."""

    def codegen(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        name, values = _RESTS.get(llvm.get_process_triple().partition("-")[0], ("", []))
        if name:
            integer = ir.IntType(32)
            signature = ir.FunctionType(ir.VoidType(), [integer] * len(values))
            function = builder.module.declare_intrinsic(name, (), signature)
            builder.call(function, [ir.Constant(integer, value) for value in values])
        return context.get_dummy_value()

    return types.void(), codegen


@jit
def look_out(flag, looks):
    """Look at a flag until it is up, at most so many times; returns whether it is."""
    for _ in range(looks):
        if read_flag(flag) != 0:
            return True
        rest()
    return read_flag(flag) != 0


@jit
def answer_and_look_out(done, wanted, looks, pause):
    """Raise a flag, and look out for another without having had the GIL in between.

    Parameters
    ----------
    done : 1-D int64 array
        The flag to raise: whoever waits for it needs the GIL then.
    wanted : 1-D int64 array
        The flag to look out for.
    looks : int
        At most so many.
    pause : int
        So many looks later it returns where it saw the flag: whoever raised it still needs the GIL.

    Returns
    -------
    bool
        Whether ``wanted`` is up.
    """
    write_flag(done, 1)
    for _ in range(looks):
        if read_flag(wanted) != 0:
            for _ in range(pause):
                rest()
            return True
        rest()
    return False
