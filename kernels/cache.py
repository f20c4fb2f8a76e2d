r"""Compiled kernels on disk: found again only if nothing they were made from has changed.

Numba's own cache looks at the file of the function alone, so an edited callee leaves its callers stale; a
damaged file in it ends in a traceback or in wrong machine code; two processes that save at the same moment
may exchange their files; and it writes beside the sources, where pip finds files that it does not own. Here
a file is named after all that its code follows from, its content is checked before it is used, and whatever
goes wrong with the disk costs a compilation, nothing else.

The files are in the user's cache folder, by the platform's convention (``~/.cache/fastconv`` on Linux,
``~/Library/Caches/fastconv`` on macOS, ``%LOCALAPPDATA%\fastconv\Cache`` on Windows), or in the one that
``FASTCONV_CACHE_DIR`` names. They are pickles, and reading a pickle may run any code: a folder or a file
that another user could have written is not read. The superuser's are, so that an image of a container can
bring them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps
from numba.misc.appdirs import user_cache_dir

_DIGEST_BYTES = hashlib.sha256().digest_size
# Kernels of so many versions of their sources, Python or Numba are kept: those used last.
KEPT_VERSIONS = 8
_VERSION = re.compile("[0-9a-f]{16}")


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


def base_folder() -> Path:
    """The folder that holds one of each version's."""
    return Path(os.environ.get("FASTCONV_CACHE_DIR") or user_cache_dir("fastconv", False)).absolute()


@cache
def folder() -> Path | None:
    """Where this version's compiled kernels are, made if need be; None where there can be no such folder."""
    path = base_folder() / stamp()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)
            _forget_old_versions(path.parent)
        if not _is_private(path.lstat()):
            return None
        with contextlib.suppress(OSError):  # a folder that can only be read
            os.utime(path)
    except OSError:
        return None
    return path


def _is_private(status: os.stat_result) -> bool:
    """Whether owner and mode say that no other user could have written this; Windows has neither."""
    return os.name == "nt" or (status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o022)


def _forget_old_versions(base: Path) -> None:
    versions = [path for path in base.iterdir() if _VERSION.fullmatch(path.name) and not path.is_symlink()]
    for path in sorted(versions, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT_VERSIONS:]:
        shutil.rmtree(path, ignore_errors=True)


class _Files:
    """The compiled versions of one kernel, a file each.

    Parameters
    ----------
    kernel : str
        The beginning of the files' names.
    """

    def __init__(self, kernel: str) -> None:
        self._kernel = kernel

    def _path(self, key: tuple[Any, ...]) -> Path | None:
        # Of types and the CPU's name and features: their text is the same in every process.
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        place = folder()
        return None if place is None else place / f"{self._kernel}.{name}.fastconv"

    def load(self, key: tuple[Any, ...]) -> Any:
        """What was saved under ``key``; None where it is missing or not what was written."""
        path = self._path(key)
        if path is None:
            return None
        try:
            with path.open("rb") as file:
                if not _is_private(os.fstat(file.fileno())):
                    return None
                content = file.read()
        except OSError:
            return None
        digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        saved_key, data = pickle.loads(payload)
        return data if saved_key == key else None

    def save(self, key: tuple[Any, ...], data: Any) -> None:
        """Write to a file of its own first, so that a reader never meets half of one."""
        path = self._path(key)
        if path is None:
            return
        payload = dumps((key, data))
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", delete=False) as file:
            unfinished = Path(file.name)
            try:
                file.write(hashlib.sha256(payload).digest() + payload)
                file.close()
                unfinished.replace(path)
            except OSError:
                unfinished.unlink(missing_ok=True)
                raise


class _Results(CompileResultCacheImpl):  # type: ignore[misc]
    """What Numba keeps of a compiled function; where, is said by `_Files`."""

    def __init__(self) -> None:
        self._locator = self

    def ensure_cache_path(self) -> None:
        """Numba asks for it before it saves; `folder` has done so."""


class KernelCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of a function, over `_Files`.

    Parameters
    ----------
    kernel : callable
        The Python function.
    """

    def __init__(self, kernel: Callable[..., Any]) -> None:
        # Not Numba's own: that looks for a folder beside the sources, and writes to it.
        self._py_func, self._name = kernel, repr(kernel)
        name = f"{kernel.__module__}.{kernel.__qualname__}".rpartition("kernels.")[2]
        self._impl, self._cache_file = _Results(), _Files(name)
        self.enable()

    @property
    def cache_path(self) -> str | None:
        """The folder, as Numba's statistics name it."""
        place = folder()
        return None if place is None else str(place)

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled version, if the disk takes it."""
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)
