"""What a measurement ran on, for the heads of tables and the JSON files."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import fastconv
from fastconv import blas, config, tuning
from fastconv.kernels.vectors import VECTOR_BITS

_PACKAGES = ("numpy", "numba", "scipy", "torch", "onnxruntime", "openvino", "jax")


def versions() -> dict[str, Any]:
    """CPU, vector width, BLAS and its core type, what was tuned, and the versions of what is installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "cpu": config.cpu_name(),
        "vector_bits": VECTOR_BITS,
        "blas": blas.description(),
        "tuned": tuning.description(),
        "python": platform.python_version(),
        "versions": {"fastconv": fastconv.__version__, **found},
    }
