"""Compiled kernels on disk: found again only if nothing they were made from has changed.

Numba's own cache looks at the file of the function alone, so an edited callee leaves its callers stale; a
damaged file in it ends in a traceback or in wrong machine code; and two processes that save at the same
moment may exchange their files. Here a file is named after all that its code follows from, its content is
checked before it is used, and whatever goes wrong with the disk costs a compilation, nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

_DIGEST_BYTES = hashlib.sha256().digest_size


@cache
def stamp() -> str:
    """A digest of what all kernels are made from: this folder's sources, the compiler and the interpreter."""
    digest = hashlib.sha256()
    for version in (sys.implementation.cache_tag, numba.__version__, llvmlite.__version__):
        digest.update(f"{version}\n".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        text = source.read_bytes()
        digest.update(f"{source.name} {len(text)}\n".encode())
        digest.update(text)
    return digest.hexdigest()[:16]


class _Files:
    """The compiled versions of one kernel, a file each.

    Parameters
    ----------
    folder : str
    kernel : str
        The beginning of the files' names.
    """

    def __init__(self, folder: str, kernel: str) -> None:
        self._folder, self._kernel = Path(folder), kernel

    def _path(self, key: tuple[Any, ...]) -> Path:
        # Of types and the CPU's name and features: their text is the same in every process.
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return self._folder / f"{self._kernel}.{stamp()}.{name}.fastconv"

    def load(self, key: tuple[Any, ...]) -> Any:
        """What was saved under ``key``; None where it is missing or not what was written."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        saved_key, data = pickle.loads(payload)
        return data if saved_key == key else None

    def save(self, key: tuple[Any, ...], data: Any) -> None:
        """Write to a file of its own first, so that a reader never meets half of one."""
        payload = dumps((key, data))
        path = self._path(key)
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=f"{path.name}.", delete=False) as file:
            unfinished = Path(file.name)
            try:
                file.write(hashlib.sha256(payload).digest() + payload)
                file.close()
                unfinished.replace(path)
            except OSError:
                unfinished.unlink(missing_ok=True)
                raise
        for other in self._folder.glob(f"{self._kernel}.*"):
            if not other.name.startswith(f"{self._kernel}.{stamp()}."):  # made from other sources
                other.unlink(missing_ok=True)


class KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of a function, over `_Files`.

    Parameters
    ----------
    kernel : callable
        The Python function.

    Raises
    ------
    RuntimeError
        If there is no folder to write to.
    """

    def __init__(self, kernel: Callable[..., Any]) -> None:
        super().__init__(kernel)
        name = f"{kernel.__module__}.{kernel.__qualname__}".rpartition("kernels.")[2]
        self._cache_file = _Files(self._cache_path, f"{name}.{sys.implementation.cache_tag}")

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled version, if the disk takes it."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)
