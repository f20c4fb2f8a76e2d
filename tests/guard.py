"""A pytest plugin: every NumPy array lies against memory that nobody may touch.

    python -m pytest -p guard --guard end tests/test_algorithms.py

puts each array's last byte in front of a closed page, ``--guard start`` each first byte behind one, whatever
allocated it: inputs, results and scratch. One read or write outside and the process dies, with the line that
was running on stderr. Pages of freed arrays are unmapped, so what is used too late is caught as well.

NumPy is handed an allocator for it (NEP 49, https://numpy.org/neps/nep-0049.html).
"""

import atexit
import ctypes
import mmap
import sys

import numpy as np

import fastconv
from fastconv.algorithms.memory import aligned
from fastconv.kernels.vectors import VECTOR_BYTES

PAGE = mmap.PAGESIZE
_READ_AND_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

# In the table of NumPy's C functions (numpy/__multiarray_api.h).
_SET_HANDLER = 304

_MALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_CALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
_REALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Handler(ctypes.Structure):
    """PyDataMem_Handler."""

    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", _MALLOC),
        ("calloc", _CALLOC),
        ("realloc", _REALLOC),
        ("free", _FREE),
    ]


class Guard:
    """An allocator of blocks between two closed pages.

    Parameters
    ----------
    at_end : bool
        Whether a block's end touches the page behind it, or its start the page in front of it.
    """

    def __init__(self, at_end):
        self.at_end = at_end
        self.sizes = {}  # of the blocks that live, by address
        self.blocks = 0  # ever given out
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long]
        self._libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self._libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._handler = _Handler(
            b"guard",
            1,
            None,
            _MALLOC(self._malloc),
            _CALLOC(self._calloc),
            _REALLOC(self._realloc),
            _FREE(self._free),
        )

    def start(self):
        """Let NumPy, in this thread, allocate here from now on."""
        pythonapi = ctypes.pythonapi
        pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
        pythonapi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        pythonapi.PyCapsule_New.restype = ctypes.py_object
        pythonapi.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        try:
            from numpy._core._multiarray_umath import _ARRAY_API
        except ImportError:  # NumPy 1
            from numpy.core._multiarray_umath import _ARRAY_API
        table = ctypes.cast(pythonapi.PyCapsule_GetPointer(_ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
        set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[_SET_HANDLER])
        self._name = b"mem_handler"  # kept alive: a capsule does not copy it
        set_handler(pythonapi.PyCapsule_New(ctypes.addressof(self._handler), self._name, None))
        atexit.register(self._retire)

    def _retire(self):
        """Arrays outlive the interpreter, which nothing written in Python may: their pages are left alone."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._handler))
        self._handler.free = ctypes.cast(self._libc.getpid, _FREE)  # takes anything, does nothing

    def _span(self, size, page=PAGE):
        """Bytes of the whole pages that hold ``size``, a page, and the bytes with both closed pages."""
        inner = max(1, -(-size // page)) * page
        return inner, page, inner + 2 * page

    def _malloc(self, _, size):
        inner, page, whole = self._span(size)
        base = self._libc.mmap(None, whole, _READ_AND_WRITE, _PRIVATE, -1, 0)
        if base is None or base == ctypes.c_void_p(-1).value:
            return None
        first = base + page
        for closed in (base, first + inner):
            if self._libc.mprotect(closed, page, 0) != 0:
                return None
        block = first + inner - size if self.at_end else first
        self.sizes[block] = size
        self.blocks += 1
        return block

    def _calloc(self, context, count, size):
        return self._malloc(context, count * size)  # fresh pages are zero

    def _realloc(self, context, old, size):
        new = self._malloc(context, size)
        if new is not None and old:
            ctypes.memmove(new, old, min(size, self.sizes[old]))
            self._free(context, old, 0)
        return new

    def _free(self, _, block, __):
        # By our own record: NumPy does not always know the size.
        if block:
            size = self.sizes.pop(block)
            inner, page, whole = self._span(size)
            first = block + size - inner if self.at_end else block
            self._libc.munmap(first - page, whole)


def _aligned(elements, dtype):
    """`fastconv.algorithms.memory.aligned` with less than a vector of slack behind."""
    lanes = VECTOR_BYTES // dtype.itemsize
    memory = np.empty(-(-elements // lanes) * lanes, dtype)
    if memory.ctypes.data % VECTOR_BYTES != 0:  # of a helper thread, whose arrays NumPy allocates as always
        return aligned(elements, dtype)
    return memory[:elements]


_guard = None


def pytest_addoption(parser):
    parser.addoption(
        "--guard", choices=("start", "end"), required=True, help="which end of arrays touches a closed page"
    )


def pytest_configure(config):
    global _guard
    _guard = Guard(config.getoption("--guard") == "end")
    _guard.start()
    fastconv.set_num_threads(1)  # a test that asks for more gets them
    for module in list(sys.modules.values()):
        if getattr(module, "aligned", None) is aligned:
            module.aligned = _aligned


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"{_guard.blocks} arrays were guarded")
