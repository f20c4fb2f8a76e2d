"""A pytest plugin: every NumPy array lies against memory that nobody may touch.

    python -m pytest -p guard --guard end tests/test_algorithms.py

puts each array's last byte in front of a closed page, ``--guard start`` each first byte behind one, whatever
allocated it: inputs, results and scratch. One read or write outside and the process dies, with the line that
was running on stderr. Pages of freed arrays are unmapped, so what is used too late is caught as well.

NumPy is handed an allocator for it (NEP 49, https://numpy.org/neps/nep-0049.html).
"""

import ctypes
import mmap
import sys

import numpy as np
from numba import cfunc, types

import fastconv
from fastconv import buffers
from fastconv.buffers import aligned as with_slack
from fastconv.kernels.vectors import VECTOR_BYTES

PAGE = mmap.PAGESIZE
OPEN, CLOSED = mmap.PROT_READ | mmap.PROT_WRITE, 0
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

# In the table of NumPy's C functions (numpy/__multiarray_api.h).
SET_HANDLER = 304

# The system's calls, as compiled code calls them: an allocator in Python would run in the middle of errors.
libc = ctypes.CDLL(None)
system_mmap, system_protect, system_unmap, copy = libc.mmap, libc.mprotect, libc.munmap, libc.memcpy
for call, result, arguments in (
    (system_mmap, ctypes.c_ssize_t, "nniiin"),
    (system_protect, ctypes.c_int, "nni"),
    (system_unmap, ctypes.c_int, "nn"),
    (copy, ctypes.c_ssize_t, "nnn"),
):
    call.restype = result
    call.argtypes = [{"n": ctypes.c_ssize_t, "i": ctypes.c_int}[kind] for kind in arguments]


class _Handler(ctypes.Structure):
    """PyDataMem_Handler."""

    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        *((name, ctypes.c_void_p) for name in ("context", "malloc", "calloc", "realloc", "free")),
    ]


def allocator(at_end):
    """malloc, calloc, realloc and free of blocks between two closed pages.

    Pages: one that notes the block's size, a closed one, those of the block, a closed one. ``at_end`` says
    which of the two closed ones the block touches.
    """
    size_type = types.intp

    @cfunc(size_type(size_type, size_type))
    def malloc(_, size):
        inner = max(1, (size + PAGE - 1) // PAGE) * PAGE
        base = system_mmap(0, inner + 3 * PAGE, OPEN, PRIVATE, -1, 0)
        if base == -1:
            return 0
        noted = np.empty(1, np.intp)
        noted[0] = size
        copy(base, noted.ctypes.data, 8)
        first = base + 2 * PAGE
        if system_protect(base + PAGE, PAGE, CLOSED) != 0 or system_protect(first + inner, PAGE, CLOSED) != 0:
            return 0
        return first + inner - max(1, size) if at_end else first

    @cfunc(types.void(size_type, size_type, size_type))
    def free(_, block, __):
        # By the note: NumPy does not always know the size.
        if block != 0:
            base = block // PAGE * PAGE - 2 * PAGE
            noted = np.empty(1, np.intp)
            copy(noted.ctypes.data, base, 8)
            inner = max(1, (noted[0] + PAGE - 1) // PAGE) * PAGE
            system_unmap(base, inner + 3 * PAGE)

    allocate, release = (
        ctypes.CFUNCTYPE(ctypes.c_ssize_t, *[ctypes.c_ssize_t] * 2)(malloc.address),
        ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 3)(free.address),
    )

    @cfunc(size_type(size_type, size_type, size_type))
    def calloc(context, count, size):
        return allocate(context, count * size)  # fresh pages are zero

    @cfunc(size_type(size_type, size_type, size_type))
    def realloc(context, old, size):
        new = allocate(context, size)
        if new != 0 and old != 0:
            noted = np.empty(1, np.intp)
            copy(noted.ctypes.data, old // PAGE * PAGE - 2 * PAGE, 8)
            copy(new, old, min(size, noted[0]))
            release(context, old, 0)
        return new

    return malloc, calloc, realloc, free


def allocate_by(functions):
    """Let NumPy, in this thread, allocate by these from now on; hands back how it did before."""
    handler = _Handler(b"guard", 1, None, *(function.address for function in functions))
    name = b"mem_handler"
    kept.extend([functions, handler, name])
    python = ctypes.pythonapi
    python.PyCapsule_New.restype = ctypes.py_object
    python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return handled_by(python.PyCapsule_New(ctypes.addressof(handler), name, None))


def handled_by(capsule):
    """Set NumPy's allocator of this thread; hands back the one it had."""
    python = ctypes.pythonapi
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    try:
        from numpy._core._multiarray_umath import _ARRAY_API
    except ImportError:  # NumPy 1
        from numpy.core._multiarray_umath import _ARRAY_API
    table = ctypes.cast(python.PyCapsule_GetPointer(_ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[SET_HANDLER])
    return set_handler(capsule)


# Used by arrays that may outlive this module.
kept = []
ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))


def _aligned(elements, dtype, place=None):
    """`fastconv.buffers.aligned` with less than a vector of slack behind."""
    lanes = VECTOR_BYTES // dtype.itemsize
    if elements == 0:
        return np.empty(0, dtype)
    memory = np.empty(-(-elements // lanes) * lanes, dtype)
    if memory.ctypes.data % VECTOR_BYTES != 0:  # of a helper thread, whose arrays NumPy allocates as always
        return with_slack(elements, dtype)
    return memory[:elements]


def pytest_addoption(parser):
    parser.addoption(
        "--guard", choices=("start", "end"), required=True, help="which end of arrays touches a closed page"
    )


def pytest_configure(config):
    allocate_by(allocator(config.getoption("--guard") == "end"))
    fastconv.set_num_threads(1)  # a test that asks for more gets them; their arrays are not guarded
    for module in list(sys.modules.values()):
        if getattr(module, "aligned", None) is with_slack:
            module.aligned = _aligned
    buffers.LEAST_KEPT = sys.maxsize  # results are NumPy's own arrays, however large
