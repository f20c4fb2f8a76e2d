"""What the annotations of public functions say: names that editors complete, and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, SupportsIndex, TypeAlias, get_args

AlgorithmName: TypeAlias = Literal[
    "auto",
    "winograd",
    "decimated",
    "grouped_gemm",
    "depthwise",
    "indirect",
    "indirect/planes",
    "indirect/lines",
    "gemm",
    "gemm/pixels",
    "gemm/filters",
    "im2col",
]
ALGORITHMS: tuple[AlgorithmName, ...] = get_args(AlgorithmName)

Layout1d: TypeAlias = Literal["NCW", "NWC"]
Layout2d: TypeAlias = Literal["NCHW", "NHWC"]
Layout3d: TypeAlias = Literal["NCDHW", "NDHWC"]

# One number, or one for each spatial dimension.
Extents: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
# A whole array's shape, or what else is one number an axis.
Shape: TypeAlias = Sequence[SupportsIndex]
Padding: TypeAlias = Extents | Sequence[Shape] | Literal["valid", "same", "full", "VALID", "SAME", "FULL"]
# None keeps the input's extent.
Outputs: TypeAlias = SupportsIndex | Sequence[SupportsIndex | None] | None

Gradient: TypeAlias = Literal["input", "weight", "bias"]
