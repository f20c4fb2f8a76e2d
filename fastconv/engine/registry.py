"""The algorithms that there are: the one place where a new one is added."""

from __future__ import annotations

from fastconv.engine.algorithm import Algorithm
from fastconv.engine.depthwise import Depthwise
from fastconv.engine.gemm import Gemm
from fastconv.engine.gemm_pixels import GemmPixels
from fastconv.engine.grouped_gemm import GroupedGemm
from fastconv.engine.im2col import Im2col
from fastconv.engine.indirect_lines import IndirectLines
from fastconv.engine.indirect_planes import IndirectPlanes
from fastconv.engine.winograd import Winograd

# All but `Decimated`, which has one of these convolve what it has picked.
UNDECIMATED: tuple[type[Algorithm], ...] = (
    Winograd,
    GroupedGemm,
    Depthwise,
    IndirectPlanes,
    IndirectLines,
    GemmPixels,
    Gemm,
    Im2col,
)
