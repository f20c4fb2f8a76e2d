"""What fastconv runs on: the CPU, its vectors, BLAS, threads and the compilation cache."""

from __future__ import annotations

import os
import platform

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np
import scipy

from fastconv import blas
from fastconv.kernels import cache
from fastconv.kernels.vectors import VECTOR_BITS
from fastconv.threads import get_num_threads


def cpu_name() -> str:
    """The processor as the operating system calls it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu() -> str:
    """The processor, and what kernels are compiled for on it: the first may stand for several."""
    return f"{cpu_name()} ({numba.config.CPU_NAME or llvm.get_host_cpu_name()})"


def cache_path() -> str | None:
    """Where compiled kernels are kept; None where this process can't keep any."""
    place = cache.folder()
    return str(place) if place is not None and os.access(place, os.W_OK) else None


def _cache_in_words() -> str:
    """The cache's folder, or why kernels are compiled anew in every process."""
    path = cache_path()
    if path is not None:
        return path
    why = "can't be written" if cache.folder() is None else "can be read, not written"
    return f"{cache.base_folder()} {why}, or not by this user alone; FASTCONV_CACHE_DIR names another folder"


def show_config() -> str:
    """Print and return what fastconv runs on.

    Returns
    -------
    str
        The printed lines: versions, CPU and vector width, BLAS and its core type, threads and what
        carries them, the folder of compiled kernels, and the layers that were tuned.

    Examples
    --------
    >>> import fastconv
    >>> text = fastconv.show_config()  # doctest: +ELLIPSIS
    fastconv ...
    """
    from fastconv import __version__, tuning

    rows = [
        ("fastconv", __version__),
        ("Python", f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        ("NumPy, SciPy", f"{np.__version__}, {scipy.__version__}"),
        ("Numba, llvmlite", f"{numba.__version__}, {llvmlite.__version__}"),
        ("CPU", f"{cpu()}, {os.cpu_count()} cores"),
        ("vectors", f"{VECTOR_BITS} bits"),
        ("BLAS", blas.description()),
        ("BLAS when idle", blas.idle_threads.description()),
        ("threads", f"{get_num_threads()}, Python threads that run kernels without the GIL"),
        ("kernel cache", _cache_in_words()),
        ("tuned", tuning.description()),
    ]
    text = "\n".join(f"{label:<16} {value}" for label, value in rows)
    print(text)
    return text
