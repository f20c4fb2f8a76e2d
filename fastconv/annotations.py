"""What the annotations of public functions say: names that editors complete, sizes, results by arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    Protocol,
    SupportsIndex,
    TypeAlias,
    TypeVar,
    get_args,
    overload,
)

from numpy.typing import ArrayLike

from fastconv.arguments import Array

if TYPE_CHECKING:
    from fastconv.conv import ConvGrads

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
_OfInput: TypeAlias = tuple[Literal["input"]]
_OfWeight: TypeAlias = tuple[Literal["weight"]]
_OfParameters: TypeAlias = tuple[Literal["weight"], Literal["bias"]]
_OfAll: TypeAlias = tuple[Literal["input"], Literal["weight"], Literal["bias"]]

_Kind = TypeVar("_Kind")
_Layout = TypeVar("_Layout", contravariant=True)


class declared(Generic[_Kind]):
    """Decorator: type checkers take the function for one of ``_Kind``, whose overloads need no copy of it."""

    def __call__(self, function: Callable[..., Any]) -> _Kind:
        """The function itself."""
        return function  # type: ignore[return-value]


class ConvBackward(Protocol[_Layout]):
    """`conv2d_backward`: gradients that are asked for are arrays."""

    @overload
    def __call__(
        self, grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., dilation: Extents = ..., groups: int = ...,
        *, layout: _Layout = ..., algorithm: AlgorithmName = ..., needs: _OfAll = ...,
    ) -> ConvGrads[Array, Array, Array]: ...  # fmt: skip

    @overload
    def __call__(
        self, grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., dilation: Extents = ..., groups: int = ...,
        *, layout: _Layout = ..., algorithm: AlgorithmName = ..., needs: _OfInput,
    ) -> ConvGrads[Array, None, None]: ...  # fmt: skip

    @overload
    def __call__(
        self, grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., dilation: Extents = ..., groups: int = ...,
        *, layout: _Layout = ..., algorithm: AlgorithmName = ..., needs: _OfWeight,
    ) -> ConvGrads[None, Array, None]: ...  # fmt: skip

    @overload
    def __call__(
        self, grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., dilation: Extents = ..., groups: int = ...,
        *, layout: _Layout = ..., algorithm: AlgorithmName = ..., needs: _OfParameters,
    ) -> ConvGrads[None, Array, Array]: ...  # fmt: skip

    @overload
    def __call__(
        self, grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., dilation: Extents = ..., groups: int = ...,
        *, layout: _Layout = ..., algorithm: AlgorithmName = ..., needs: Iterable[Gradient],
    ) -> ConvGrads: ...  # fmt: skip


class ConvTransposeBackward(Protocol[_Layout]):
    """`conv_transpose2d_backward`: gradients that are asked for are arrays."""

    @overload
    def __call__(
        self, grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., output_padding: Extents = ..., groups: int = ..., dilation: Extents = ...,
        *, layout: _Layout = ..., algorithm: AlgorithmName = ..., needs: _OfAll = ...,
    ) -> ConvGrads[Array, Array, Array]: ...  # fmt: skip

    @overload
    def __call__(
        self, grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., output_padding: Extents = ..., groups: int = ..., dilation: Extents = ...,
        *, layout: _Layout = ..., algorithm: AlgorithmName = ..., needs: _OfInput,
    ) -> ConvGrads[Array, None, None]: ...  # fmt: skip

    @overload
    def __call__(
        self, grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., output_padding: Extents = ..., groups: int = ..., dilation: Extents = ...,
        *, layout: _Layout = ..., algorithm: AlgorithmName = ..., needs: _OfWeight,
    ) -> ConvGrads[None, Array, None]: ...  # fmt: skip

    @overload
    def __call__(
        self, grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., output_padding: Extents = ..., groups: int = ..., dilation: Extents = ...,
        *, layout: _Layout = ..., algorithm: AlgorithmName = ..., needs: _OfParameters,
    ) -> ConvGrads[None, Array, Array]: ...  # fmt: skip

    @overload
    def __call__(
        self, grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., output_padding: Extents = ..., groups: int = ..., dilation: Extents = ...,
        *, layout: _Layout = ..., algorithm: AlgorithmName = ..., needs: Iterable[Gradient],
    ) -> ConvGrads: ...  # fmt: skip


class MaxPool(Protocol[_Layout]):
    """`max_pool2d`: with the indices, or without."""

    @overload
    def __call__(
        self, input: ArrayLike, kernel_size: Extents, stride: Extents | None = ..., padding: Padding = ...,
        dilation: Extents = ..., ceil_mode: bool = ..., return_indices: Literal[False] = ...,
        *, layout: _Layout = ..., out: Array | None = ...,
    ) -> Array: ...  # fmt: skip

    @overload
    def __call__(
        self, input: ArrayLike, kernel_size: Extents, stride: Extents | None = ..., padding: Padding = ...,
        dilation: Extents = ..., ceil_mode: bool = ...,
        *, return_indices: Literal[True], layout: _Layout = ..., out: Array | None = ...,
    ) -> tuple[Array, Array]: ...  # fmt: skip

    @overload
    def __call__(
        self, input: ArrayLike, kernel_size: Extents, stride: Extents | None, padding: Padding,
        dilation: Extents, ceil_mode: bool, return_indices: Literal[True],
        *, layout: _Layout = ..., out: Array | None = ...,
    ) -> tuple[Array, Array]: ...  # fmt: skip

    @overload
    def __call__(
        self, input: ArrayLike, kernel_size: Extents, stride: Extents | None = ..., padding: Padding = ...,
        dilation: Extents = ..., ceil_mode: bool = ..., return_indices: bool = ...,
        *, layout: _Layout = ..., out: Array | None = ...,
    ) -> Array | tuple[Array, Array]: ...  # fmt: skip


class AdaptiveMaxPool(Protocol[_Layout]):
    """`adaptive_max_pool2d`: with the indices, or without."""

    @overload
    def __call__(
        self, input: ArrayLike, output_size: Outputs, return_indices: Literal[False] = ...,
        *, layout: _Layout = ...,
    ) -> Array: ...  # fmt: skip

    @overload
    def __call__(
        self, input: ArrayLike, output_size: Outputs, return_indices: Literal[True],
        *, layout: _Layout = ...,
    ) -> tuple[Array, Array]: ...  # fmt: skip

    @overload
    def __call__(
        self, input: ArrayLike, output_size: Outputs, return_indices: bool = ...,
        *, layout: _Layout = ...,
    ) -> Array | tuple[Array, Array]: ...  # fmt: skip
