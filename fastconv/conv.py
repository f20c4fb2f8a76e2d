"""Convolution and transposed convolution, forward and backward: arguments in, a plan called, arrays out.

Each function is written once, for images; those for signals (N, C, W) and volumes (N, C, D, H, W) are made of
it at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, islice
from math import prod
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike

from fastconv import advice
from fastconv.annotations import (
    AlgorithmName,
    Extents,
    Gradient,
    Layout1d,
    Layout2d,
    Layout3d,
    Padding,
    Shape,
)
from fastconv.arguments import (
    Array,
    Size,
    bias_array,
    extents,
    must_be,
    must_be_said,
    operand,
    output_array,
    promoted,
    size,
)
from fastconv.dimensions import CHANNELS_FIRST, Dimensions, Layout
from fastconv.geometry import layout_is_channels_last
from fastconv.kernels import bias as kernels
from fastconv.plan import conv_plan, conv_transpose_plan

GRADIENTS: tuple[Gradient, ...] = ("input", "weight", "bias")
# What errors call the arrays that are promoted together.
OPERANDS, ALL_OPERANDS = GRADIENTS, ("grad_output", "input", "weight")
# So many names are looked at: an iterator may have no end.
MOST_NEEDS = 100
# The tuples of names by which type checkers know which gradients are arrays.
_OfInput: TypeAlias = tuple[Literal["input"]]
_OfWeight: TypeAlias = tuple[Literal["weight"]]
_OfParameters: TypeAlias = tuple[Literal["weight"], Literal["bias"]]
_OfAll: TypeAlias = tuple[Literal["input"], Literal["weight"], Literal["bias"]]
_SUBSETS = {names: frozenset(names) for n in range(4) for names in combinations(GRADIENTS, n)}


if TYPE_CHECKING:
    from typing_extensions import TypeVar  # known to type checkers, not needed to run

    from fastconv.dimensions import __class__  # noqa: F401

    _Input = TypeVar("_Input", covariant=True, default=Array | None)
    _Weight = TypeVar("_Weight", covariant=True, default=Array | None)
    _Bias = TypeVar("_Bias", covariant=True, default=Array | None)

    class ConvGrads(NamedTuple, Generic[_Input, _Weight, _Bias]):
        """The gradients of a convolution; None where one was not asked for."""

        input: _Input
        weight: _Weight
        bias: _Bias

else:  # a generic named tuple takes Python 3.11

    class ConvGrads(NamedTuple):
        """The gradients of a convolution; None where one was not asked for."""

        input: Array | None
        weight: Array | None
        bias: Array | None


# The steps that all of the functions share. `batched` and `unbatched` add and take away the batch of one
# that unbatched arrays have inside.


def _batched(array: Array, ndim: int) -> Array:
    return array if array.ndim == ndim + 2 else array[np.newaxis]


def _batched_out(out: object, like_batched: bool, shape: Size, dtype: np.dtype[Any]) -> Array | None:
    """A checked ``out``, with a batch of one where the call is unbatched."""
    array = output_array(out, shape if like_batched else shape[1:], dtype)
    return array if array is None or like_batched else array[np.newaxis]


def _handed_back(result: Array, batched: bool, out: Array | None) -> Array:
    if out is not None:
        return out
    return result if batched else result[0]


def _needed(needs: Iterable[str]) -> frozenset[str]:
    if type(needs) is tuple and all([type(name) is str for name in needs]) and needs in _SUBSETS:
        return _SUBSETS[needs]
    expected = f"some of {', '.join(map(repr, GRADIENTS))}"
    if isinstance(needs, str):
        must_be(TypeError, "needs", f"a tuple with {expected}", needs)
    try:
        names = tuple(islice(needs, MOST_NEEDS))
    except Exception:  # whatever an object's own iteration raises: it holds no names
        must_be(TypeError, "needs", f"a tuple with {expected}", needs)
    for name in names:
        if not (isinstance(name, str) and name in GRADIENTS):
            came = advice.shown(names) + advice.nearest(name, GRADIENTS)
            must_be_said(ValueError, "needs", expected, came)
    return frozenset(names)


def _bias_gradient(grad_output: Array, channels_last: bool) -> Array:
    """``db[k]``: the sum of the output's gradient over batch and pixels.

    Summed in float64: NumPy's own float32 sums along outer axes are running sums, which lose three of
    seven digits over a million cells.
    """
    if grad_output.flags.carray and not channels_last and grad_output.dtype != np.float16:
        sums = np.empty(grad_output.shape[1], grad_output.dtype)
        shape = (*grad_output.shape[:2], prod(grad_output.shape[2:]))
        kernels.sum_channels(grad_output.reshape(shape), sums)
        return sums
    axes = tuple(range(grad_output.ndim - 1)) if channels_last else (0, *range(2, grad_output.ndim))
    with np.errstate(all="ignore"):  # infinities and NaN travel without a warning
        return np.asarray(grad_output.sum(axis=axes, dtype=np.float64).astype(grad_output.dtype))


class Convolution(Dimensions[Layout]):
    """The functions for images; those for each number of dimensions are made of them below."""

    @staticmethod
    def conv_nd(
        input: ArrayLike,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        stride: Extents = 1,
        padding: Padding = 0,
        dilation: Extents = 1,
        groups: int = 1,
        *,
        layout: Layout = CHANNELS_FIRST,
        algorithm: AlgorithmName = "auto",
        out: Array | None = None,
    ) -> Array:
        """Cross-correlate ``input`` with ``weight``, as every deep-learning library does.

        ``output[n, k, oh, ow] = bias[k] + sum over c, r, s of weight[k, c, r, s] *
        input[n, c, ih, iw]``, where ``iw = ow*stride + s*dilation - padding``, and so along every axis.

        Parameters
        ----------
        input : array (N, C, H, W) or (C, H, W)
            float16, float32 or float64, any strides. Arrays of different dtypes are promoted by NumPy's
            rules, integers and booleans too where one of them is of floats: bytes with float32 are computed
            in float32.
        weight : array (K, C/G, R, S)
        bias : array (K,), optional
        stride : int or tuple of int
            In cells, one number or one for each spatial dimension.
        padding : int, tuple of int, tuple of pairs (before, after), or "valid", "same", "full"
            Zeros around the input, in cells; pairs may be flat, (top, bottom, left, right).
            "same" gives ``OW = ceil(W / stride)``, the odd extra cell at the end; "full" gives every position
            where kernel and input touch. Names may be in capitals.
        dilation : int or tuple of int
            Distance between the taps of the kernel, in cells.
        groups : int
            G: channels and filters are split into so many independent convolutions.
        layout : {"NCHW", "NHWC"}
            "NHWC" takes input (N, H, W, C), weight (K, R, S, C/G) and gives (N, OH, OW, K).
        algorithm : str
            "auto", or the name of one, such as "im2col".
        out : array, optional
            Where to put the result: of its shape and dtype, writeable; any strides. A call that is
            interrupted or runs out of memory may leave a part of the result in it; one with a wrong argument
            leaves it alone.

        Returns
        -------
        array (N, K, OH, OW), or (K, OH, OW) for an unbatched input
            ``OW = floor((W + before + after - dilation*(S - 1) - 1) / stride) + 1``, and so along every axis;
            it may be 0. Cells of padding alone hold the bias.
            float16 is computed in float32 and handed back as float16.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it, what it was and what was expected.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv

        >>> image = np.arange(16.0).reshape(1, 1, 4, 4)
        >>> edge = np.array([[[[-1.0, 1.0]]]])  # the difference of horizontal neighbours
        >>> fastconv.conv2d(image, edge)[0, 0]
        array([[1., 1., 1.],
               [1., 1., 1.],
               [1., 1., 1.],
               [1., 1., 1.]])

        >>> signal = np.array([[[1.0, 2.0, 4.0, 8.0]]])
        >>> fastconv.conv1d(signal, np.array([[[-1.0, 1.0]]]))  # the differences of neighbours
        array([[[1., 2., 4.]]])

        >>> volume = np.arange(8.0).reshape(1, 1, 2, 2, 2)
        >>> fastconv.conv3d(volume, np.ones((1, 1, 2, 1, 1)))[0, 0]  # the sums over the depth
        array([[[ 4.,  6.],
                [ 8., 10.]]])
        """
        ndim, steps = __class__.ndim, (stride, padding, dilation, groups)
        x, w = operand("input", input), operand("weight", weight)
        channels_last = layout_is_channels_last(layout, ndim)
        b = None
        if bias is None:
            x, w = promoted(OPERANDS, x, w)
        else:
            x, w, b = promoted(OPERANDS, x, w, bias_array(bias))
        plan = conv_plan(
            ndim, x.shape, w.shape, steps, x.dtype, channels_last, algorithm, ("input", "weight"), bias=b
        )
        batched = x.ndim == ndim + 2
        target = _batched_out(out, batched, plan.output_size, plan.dtype)
        result = plan.run_forward(_batched(x, ndim), w, b, target)
        return _handed_back(result, batched, out)

    @overload
    @staticmethod
    def conv_nd_backward(
        grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., dilation: Extents = ..., groups: int = ...,
        *, layout: Layout = ..., algorithm: AlgorithmName = ..., needs: _OfAll = ...,
    ) -> ConvGrads[Array, Array, Array]: ...  # fmt: skip

    @overload
    @staticmethod
    def conv_nd_backward(
        grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., dilation: Extents = ..., groups: int = ...,
        *, layout: Layout = ..., algorithm: AlgorithmName = ..., needs: _OfInput,
    ) -> ConvGrads[Array, None, None]: ...  # fmt: skip

    @overload
    @staticmethod
    def conv_nd_backward(
        grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., dilation: Extents = ..., groups: int = ...,
        *, layout: Layout = ..., algorithm: AlgorithmName = ..., needs: _OfWeight,
    ) -> ConvGrads[None, Array, None]: ...  # fmt: skip

    @overload
    @staticmethod
    def conv_nd_backward(
        grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., dilation: Extents = ..., groups: int = ...,
        *, layout: Layout = ..., algorithm: AlgorithmName = ..., needs: _OfParameters,
    ) -> ConvGrads[None, Array, Array]: ...  # fmt: skip

    @overload
    @staticmethod
    def conv_nd_backward(
        grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., dilation: Extents = ..., groups: int = ...,
        *, layout: Layout = ..., algorithm: AlgorithmName = ..., needs: Iterable[Gradient],
    ) -> ConvGrads: ...  # fmt: skip

    @staticmethod
    def conv_nd_backward(
        grad_output: ArrayLike,
        input: ArrayLike,
        weight: ArrayLike,
        stride: Extents = 1,
        padding: Padding = 0,
        dilation: Extents = 1,
        groups: int = 1,
        *,
        layout: Layout = CHANNELS_FIRST,
        algorithm: AlgorithmName = "auto",
        needs: Iterable[Gradient] = GRADIENTS,
    ) -> ConvGrads:
        """The gradients of `conv2d` with respect to its input, weight and bias.

        Parameters
        ----------
        grad_output : array (N, K, OH, OW) or (K, OH, OW)
            The gradient of a loss with respect to the output.
        input, weight, stride, padding, dilation, groups, layout, algorithm
            As they were given to `conv2d`.
        needs : tuple of str
            Which gradients to compute: some of "input", "weight" and "bias".

        Returns
        -------
        ConvGrads
            A named tuple (input, weight, bias), each of its array's shape; None where not needed.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv
        >>> x, w = np.ones((10, 3, 12, 12)), np.ones((6, 3, 5, 5))
        >>> error = np.ones((10, 6, 8, 8))  # of the output
        >>> gradients = fastconv.conv2d_backward(error, x, w)
        >>> gradients.input.shape, gradients.weight.shape, gradients.bias.shape
        ((10, 3, 12, 12), (6, 3, 5, 5), (6,))
        """
        ndim, steps = __class__.ndim, (stride, padding, dilation, groups)
        needed = _needed(needs)
        dy = operand("grad_output", grad_output)
        x, w = operand("input", input), operand("weight", weight)
        channels_last = layout_is_channels_last(layout, ndim)
        dy, x, w = promoted(ALL_OPERANDS, dy, x, w)
        plan = conv_plan(
            ndim,
            x.shape,
            w.shape,
            steps,
            x.dtype,
            channels_last,
            algorithm,
            ("input", "weight"),
            grad_output=dy,
        )
        batched = x.ndim == ndim + 2
        dy = _batched(dy, ndim)
        dx = plan.run_backward_input(dy, w, None) if "input" in needed else None
        return ConvGrads(
            input=None if dx is None else _handed_back(dx, batched, None),
            weight=plan.run_backward_weight(dy, _batched(x, ndim), None) if "weight" in needed else None,
            bias=_bias_gradient(dy, channels_last) if "bias" in needed else None,
        )

    @staticmethod
    def conv_nd_backward_input(
        grad_output: ArrayLike,
        weight: ArrayLike,
        input_size: Shape,
        stride: Extents = 1,
        padding: Padding = 0,
        dilation: Extents = 1,
        groups: int = 1,
        *,
        layout: Layout = CHANNELS_FIRST,
        algorithm: AlgorithmName = "auto",
        out: Array | None = None,
    ) -> Array:
        """The gradient of `conv2d` with respect to its input.

        At stride 1 this is the full convolution of ``grad_output`` with the filters reversed along every axis
        of space (images: rotated by 180 degrees) and transposed from (K, C, R, S) to (C, K, R, S).

        Parameters
        ----------
        grad_output : array (N, K, OH, OW) or (K, OH, OW)
        weight : array (K, C/G, R, S)
        input_size : tuple of int
            The whole shape of the input, batch included if it has one: several input sizes can give one
            output size where the stride is over 1.
        stride, padding, dilation, groups, layout, algorithm, out
            As in `conv2d`.

        Returns
        -------
        array of shape ``input_size``

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv
        >>> error, filters = np.ones((10, 6, 8, 8)), np.ones((6, 3, 5, 5))
        >>> fastconv.conv2d_backward_input(error, filters, (10, 3, 12, 12)).shape
        (10, 3, 12, 12)
        """
        ndim, steps = __class__.ndim, (stride, padding, dilation, groups)
        dy, w = operand("grad_output", grad_output), operand("weight", weight)
        channels_last = layout_is_channels_last(layout, ndim)
        shape = size("input_size", input_size, (ndim + 2, ndim + 1))
        dy, w = promoted(("grad_output", "weight"), dy, w)
        plan = conv_plan(
            ndim,
            shape,
            w.shape,
            steps,
            dy.dtype,
            channels_last,
            algorithm,
            ("input_size", "weight"),
            grad_output=dy,
        )
        batched = len(shape) == ndim + 2
        target = _batched_out(out, batched, plan.input_size, plan.dtype)
        result = plan.run_backward_input(_batched(dy, ndim), w, target)
        return _handed_back(result, batched, out)

    @staticmethod
    def conv_nd_backward_weight(
        grad_output: ArrayLike,
        input: ArrayLike,
        weight_size: Shape,
        stride: Extents = 1,
        padding: Padding = 0,
        dilation: Extents = 1,
        groups: int = 1,
        *,
        layout: Layout = CHANNELS_FIRST,
        algorithm: AlgorithmName = "auto",
        out: Array | None = None,
    ) -> Array:
        """The gradient of `conv2d` with respect to its weight, summed over the batch.

        Parameters
        ----------
        grad_output : array (N, K, OH, OW) or (K, OH, OW)
        input : array (N, C, H, W) or (C, H, W)
        weight_size : tuple of int
            The whole shape of the weight.
        stride, padding, dilation, groups, layout, algorithm, out
            As in `conv2d`.

        Returns
        -------
        array of shape ``weight_size``

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv
        >>> error, x = np.ones((1, 3, 24, 24)), np.ones((1, 1, 28, 28))
        >>> fastconv.conv2d_backward_weight(error, x, (3, 1, 5, 5)).shape
        (3, 1, 5, 5)
        """
        ndim, steps = __class__.ndim, (stride, padding, dilation, groups)
        dy, x = operand("grad_output", grad_output), operand("input", input)
        channels_last = layout_is_channels_last(layout, ndim)
        shape = size("weight_size", weight_size, (ndim + 2,))
        dy, x = promoted(("grad_output", "input"), dy, x)
        plan = conv_plan(
            ndim,
            x.shape,
            shape,
            steps,
            x.dtype,
            channels_last,
            algorithm,
            ("input", "weight_size"),
            grad_output=dy,
        )
        target = output_array(out, plan.weight_size, plan.dtype)
        return plan.run_backward_weight(_batched(dy, ndim), _batched(x, ndim), target)

    @staticmethod
    def conv_transpose_nd(
        input: ArrayLike,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        stride: Extents = 1,
        padding: Padding = 0,
        output_padding: Extents = 0,
        groups: int = 1,
        dilation: Extents = 1,
        *,
        layout: Layout = CHANNELS_FIRST,
        algorithm: AlgorithmName = "auto",
        out: Array | None = None,
    ) -> Array:
        """Transposed convolution: the adjoint of `conv2d`, as an operation of its own.

        Parameters
        ----------
        input : array (N, C, H, W) or (C, H, W)
        weight : array (C, K/G, R, S)
            The input's channels first, as in PyTorch; (C, R, S, K/G) with ``layout="NHWC"``.
        bias : array (K,), optional
        stride, dilation : int or tuple of int
            Of the convolution whose adjoint this is, in cells.
        padding : int, tuple of int, tuple of pairs (before, after), or "valid", "same", "full"
            Of that convolution: cells cut from the result. "same" gives ``OW = W * stride``.
        output_padding : int or tuple of int
            Cells added at the end of each axis, less than the larger of stride and dilation.
        groups : int
        layout, algorithm, out
            As in `conv2d`.

        Returns
        -------
        array (N, K, OH, OW) or (K, OH, OW)
            ``OW = (W - 1)*stride - before - after + dilation*(S - 1) + output_padding + 1``, and so along
            every axis.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv
        >>> fastconv.conv_transpose2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 3, 3)), stride=2).shape
        (1, 1, 5, 5)
        """
        ndim, steps = __class__.ndim, (stride, padding, dilation, groups)
        x, w = operand("input", input), operand("weight", weight)
        channels_last = layout_is_channels_last(layout, ndim)
        b = None
        if bias is None:
            x, w = promoted(OPERANDS, x, w)
        else:
            x, w, b = promoted(OPERANDS, x, w, bias_array(bias))
        extra = extents("output_padding", output_padding, ndim, 0)
        plan = conv_transpose_plan(
            ndim, x.shape, w.shape, steps, extra, x.dtype, channels_last, algorithm, bias=b
        )
        batched = x.ndim == ndim + 2
        target = _batched_out(out, batched, plan.input_size, plan.dtype)
        result = plan.run_backward_input(_batched(x, ndim), w, target, b)
        return _handed_back(result, batched, out)

    @overload
    @staticmethod
    def conv_transpose_nd_backward(
        grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., output_padding: Extents = ..., groups: int = ..., dilation: Extents = ...,
        *, layout: Layout = ..., algorithm: AlgorithmName = ..., needs: _OfAll = ...,
    ) -> ConvGrads[Array, Array, Array]: ...  # fmt: skip

    @overload
    @staticmethod
    def conv_transpose_nd_backward(
        grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., output_padding: Extents = ..., groups: int = ..., dilation: Extents = ...,
        *, layout: Layout = ..., algorithm: AlgorithmName = ..., needs: _OfInput,
    ) -> ConvGrads[Array, None, None]: ...  # fmt: skip

    @overload
    @staticmethod
    def conv_transpose_nd_backward(
        grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., output_padding: Extents = ..., groups: int = ..., dilation: Extents = ...,
        *, layout: Layout = ..., algorithm: AlgorithmName = ..., needs: _OfWeight,
    ) -> ConvGrads[None, Array, None]: ...  # fmt: skip

    @overload
    @staticmethod
    def conv_transpose_nd_backward(
        grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., output_padding: Extents = ..., groups: int = ..., dilation: Extents = ...,
        *, layout: Layout = ..., algorithm: AlgorithmName = ..., needs: _OfParameters,
    ) -> ConvGrads[None, Array, Array]: ...  # fmt: skip

    @overload
    @staticmethod
    def conv_transpose_nd_backward(
        grad_output: ArrayLike, input: ArrayLike, weight: ArrayLike, stride: Extents = ...,
        padding: Padding = ..., output_padding: Extents = ..., groups: int = ..., dilation: Extents = ...,
        *, layout: Layout = ..., algorithm: AlgorithmName = ..., needs: Iterable[Gradient],
    ) -> ConvGrads: ...  # fmt: skip

    @staticmethod
    def conv_transpose_nd_backward(
        grad_output: ArrayLike,
        input: ArrayLike,
        weight: ArrayLike,
        stride: Extents = 1,
        padding: Padding = 0,
        output_padding: Extents = 0,
        groups: int = 1,
        dilation: Extents = 1,
        *,
        layout: Layout = CHANNELS_FIRST,
        algorithm: AlgorithmName = "auto",
        needs: Iterable[Gradient] = GRADIENTS,
    ) -> ConvGrads:
        """The gradients of `conv_transpose2d` with respect to its input, weight and bias.

        Parameters
        ----------
        grad_output : array (N, K, OH, OW) or (K, OH, OW)
        input, weight, stride, padding, output_padding, groups, dilation, layout, algorithm
            As they were given to `conv_transpose2d`.
        needs : tuple of str
            Which gradients to compute: some of "input", "weight" and "bias".

        Returns
        -------
        ConvGrads
            A named tuple (input, weight, bias); None where not needed.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv
        >>> x, w = np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2))
        >>> gradients = fastconv.conv_transpose2d_backward(np.ones((1, 1, 4, 4)), x, w, stride=2)
        >>> gradients.input.shape, gradients.weight.shape, gradients.bias.shape
        ((1, 1, 2, 2), (1, 1, 2, 2), (1,))
        """
        ndim, steps = __class__.ndim, (stride, padding, dilation, groups)
        needed = _needed(needs)
        dy = operand("grad_output", grad_output)
        x, w = operand("input", input), operand("weight", weight)
        channels_last = layout_is_channels_last(layout, ndim)
        dy, x, w = promoted(ALL_OPERANDS, dy, x, w)
        extra = extents("output_padding", output_padding, ndim, 0)
        plan = conv_transpose_plan(
            ndim, x.shape, w.shape, steps, extra, x.dtype, channels_last, algorithm, grad_output=dy
        )
        batched = x.ndim == ndim + 2
        # The transposed convolution's output is the plan's input.
        dy = _batched(dy, ndim)
        dx = plan.run_forward(dy, w, None, None) if "input" in needed else None
        return ConvGrads(
            input=None if dx is None else _handed_back(dx, batched, None),
            weight=plan.run_backward_weight(_batched(x, ndim), dy, None) if "weight" in needed else None,
            bias=_bias_gradient(dy, channels_last) if "bias" in needed else None,
        )


class _1d(Convolution[Layout1d], ndim=1): ...


class _2d(Convolution[Layout2d], ndim=2): ...


class _3d(Convolution[Layout3d], ndim=3): ...


conv1d = _1d.conv_nd
conv2d = _2d.conv_nd
conv3d = _3d.conv_nd
conv1d_backward = _1d.conv_nd_backward
conv2d_backward = _2d.conv_nd_backward
conv3d_backward = _3d.conv_nd_backward
conv1d_backward_input = _1d.conv_nd_backward_input
conv2d_backward_input = _2d.conv_nd_backward_input
conv3d_backward_input = _3d.conv_nd_backward_input
conv1d_backward_weight = _1d.conv_nd_backward_weight
conv2d_backward_weight = _2d.conv_nd_backward_weight
conv3d_backward_weight = _3d.conv_nd_backward_weight
conv_transpose1d = _1d.conv_transpose_nd
conv_transpose2d = _2d.conv_transpose_nd
conv_transpose3d = _3d.conv_transpose_nd
conv_transpose1d_backward = _1d.conv_transpose_nd_backward
conv_transpose2d_backward = _2d.conv_transpose_nd_backward
conv_transpose3d_backward = _3d.conv_transpose_nd_backward
