"""Convolution and transposed convolution, forward and backward: arguments in, a plan called, arrays out.

The functions with one spatial dimension take arrays (N, C, W) and weights (K, C/G, S), those with three
(N, C, D, H, W) and (K, C/G, T, R, S); all else is as in two dimensions, whose docstrings say it in full.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, islice
from math import prod
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastconv import advice
from fastconv.annotations import (
    AlgorithmName,
    ConvBackward,
    ConvTransposeBackward,
    Extents,
    Gradient,
    Layout1d,
    Layout2d,
    Layout3d,
    Padding,
    Shape,
    declared,
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
from fastconv.geometry import Steps, layout_is_channels_last
from fastconv.kernels import bias as kernels
from fastconv.plan import ConvPlan, conv_plan, conv_transpose_plan

GRADIENTS: tuple[Gradient, ...] = ("input", "weight", "bias")
# What errors call the arrays that are promoted together.
OPERANDS, ALL_OPERANDS = GRADIENTS, ("grad_output", "input", "weight")
# So many names are looked at: an iterator may have no end.
MOST_NEEDS = 100
_SUBSETS = {names: frozenset(names) for n in range(4) for names in combinations(GRADIENTS, n)}


if TYPE_CHECKING:
    from typing_extensions import TypeVar  # known to type checkers, not needed to run

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


def _forward(
    ndim: int,
    input: object,
    weight: object,
    bias: object,
    steps: Steps,
    layout: object,
    algorithm: str,
    out: object,
) -> Array:
    x, w = operand("input", input), operand("weight", weight)
    channels_last = layout_is_channels_last(layout, ndim)
    b = None
    if bias is None:
        x, w = promoted(OPERANDS, x, w)
    else:
        x, w, b = promoted(OPERANDS, x, w, bias_array(bias))
    plan = conv_plan(
        ndim,
        x.shape,
        w.shape,
        steps,
        x.dtype,
        channels_last,
        algorithm,
        ("input", "weight"),
        bias=b,
    )
    batched = x.ndim == ndim + 2
    target = _batched_out(out, batched, plan.output_size, plan.dtype)
    result = plan.run_forward(_batched(x, ndim), w, b, target)
    return _handed_back(result, batched, out)  # type: ignore[arg-type]


def _backward(
    ndim: int,
    grad_output: object,
    input: object,
    weight: object,
    steps: Steps,
    layout: object,
    algorithm: str,
    needs: Iterable[str],
) -> ConvGrads:
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


def _backward_input(
    ndim: int,
    grad_output: object,
    weight: object,
    input_size: object,
    steps: Steps,
    layout: object,
    algorithm: str,
    out: object,
) -> Array:
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
    return _handed_back(result, batched, out)  # type: ignore[arg-type]


def _backward_weight(
    ndim: int,
    grad_output: object,
    input: object,
    weight_size: object,
    steps: Steps,
    layout: object,
    algorithm: str,
    out: object,
) -> Array:
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


def _transpose_plan(
    ndim: int,
    x: Array,
    w: Array,
    steps: Steps,
    output_padding: object,
    channels_last: bool,
    algorithm: str,
    bias: Array | None = None,
    grad_output: Array | None = None,
) -> ConvPlan:
    return conv_transpose_plan(
        ndim,
        x.shape,
        w.shape,
        steps,
        extents("output_padding", output_padding, ndim, 0),
        x.dtype,
        channels_last,
        algorithm,
        bias,
        grad_output,
    )


def _transpose_forward(
    ndim: int,
    input: object,
    weight: object,
    bias: object,
    steps: Steps,
    output_padding: object,
    layout: object,
    algorithm: str,
    out: object,
) -> Array:
    x, w = operand("input", input), operand("weight", weight)
    channels_last = layout_is_channels_last(layout, ndim)
    b = None
    if bias is None:
        x, w = promoted(OPERANDS, x, w)
    else:
        x, w, b = promoted(OPERANDS, x, w, bias_array(bias))
    plan = _transpose_plan(ndim, x, w, steps, output_padding, channels_last, algorithm, bias=b)
    batched = x.ndim == ndim + 2
    target = _batched_out(out, batched, plan.input_size, plan.dtype)
    result = plan.run_backward_input(_batched(x, ndim), w, target, b)
    return _handed_back(result, batched, out)  # type: ignore[arg-type]


def _transpose_backward(
    ndim: int,
    grad_output: object,
    input: object,
    weight: object,
    steps: Steps,
    output_padding: object,
    layout: object,
    algorithm: str,
    needs: Iterable[str],
) -> ConvGrads:
    needed = _needed(needs)
    dy = operand("grad_output", grad_output)
    x, w = operand("input", input), operand("weight", weight)
    channels_last = layout_is_channels_last(layout, ndim)
    dy, x, w = promoted(ALL_OPERANDS, dy, x, w)
    plan = _transpose_plan(ndim, x, w, steps, output_padding, channels_last, algorithm, grad_output=dy)
    batched = x.ndim == ndim + 2
    # The transposed convolution's output is the plan's input.
    dy = _batched(dy, ndim)
    dx = plan.run_forward(dy, w, None, None) if "input" in needed else None
    return ConvGrads(
        input=None if dx is None else _handed_back(dx, batched, None),
        weight=plan.run_backward_weight(_batched(x, ndim), dy, None) if "weight" in needed else None,
        bias=_bias_gradient(dy, channels_last) if "bias" in needed else None,
    )


def conv2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    layout: Layout2d = "NCHW",
    algorithm: AlgorithmName = "auto",
    out: Array | None = None,
) -> Array:
    """Cross-correlate ``input`` with ``weight``, as every deep-learning library does.

    ``output[n, k, oh, ow] = bias[k] + sum over c, r, s of
    weight[k, c, r, s] * input[n, c, oh*stride + r*dilation - padding, ow*stride + s*dilation - padding]``

    Parameters
    ----------
    input : array (N, C, H, W) or (C, H, W)
        float16, float32 or float64, any strides. Arrays of different dtypes are promoted by NumPy's rules,
        integers and booleans too where one of them is of floats: bytes with float32 are computed in float32.
    weight : array (K, C/G, R, S)
    bias : array (K,), optional
    stride : int or tuple of int
        In cells, one number or one for each spatial dimension.
    padding : int, tuple of int, tuple of pairs (before, after), or "valid", "same", "full"
        Zeros around the input, in cells; (top, bottom, left, right) are two pairs. "same" gives
        ``ceil(H / stride)`` rows, the odd extra cell at the end; "full" gives every position where kernel and
        input touch. Names may be in capitals.
    dilation : int or tuple of int
        Distance between the taps of the kernel, in cells.
    groups : int
        G: channels and filters are split into so many independent convolutions.
    layout : {"NCHW", "NHWC"}
        "NHWC" takes input (N, H, W, C), weight (K, R, S, C/G) and gives (N, OH, OW, K).
    algorithm : str
        "auto", or the name of one, such as "im2col".
    out : array, optional
        Where to put the result: of its shape and dtype, writeable; any strides. A call that is interrupted
        or runs out of memory may leave a part of the result in it; one with a wrong argument leaves it alone.

    Returns
    -------
    array (N, K, OH, OW), or (K, OH, OW) for an unbatched input
        ``OH = floor((H + before + after - dilation*(R - 1) - 1) / stride) + 1``, likewise OW; either may
        be 0. Cells of padding alone hold the bias.
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
    """
    return _forward(2, input, weight, bias, (stride, padding, dilation, groups), layout, algorithm, out)


@declared[ConvBackward[Layout2d]]()
def conv2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    layout: Layout2d = "NCHW",
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
    return _backward(
        2, grad_output, input, weight, (stride, padding, dilation, groups), layout, algorithm, needs
    )


def conv2d_backward_input(
    grad_output: ArrayLike,
    weight: ArrayLike,
    input_size: Shape,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    layout: Layout2d = "NCHW",
    algorithm: AlgorithmName = "auto",
    out: Array | None = None,
) -> Array:
    """The gradient of `conv2d` with respect to its input.

    At stride 1 this is the full convolution of ``grad_output`` with the filters rotated by 180 degrees
    and transposed from (K, C, R, S) to (C, K, R, S).

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
    return _backward_input(
        2, grad_output, weight, input_size, (stride, padding, dilation, groups), layout, algorithm, out
    )


def conv2d_backward_weight(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight_size: Shape,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    layout: Layout2d = "NCHW",
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
    >>> error, image = np.ones((1, 3, 24, 24)), np.ones((1, 1, 28, 28))
    >>> fastconv.conv2d_backward_weight(error, image, (3, 1, 5, 5)).shape
    (3, 1, 5, 5)
    """
    return _backward_weight(
        2, grad_output, input, weight_size, (stride, padding, dilation, groups), layout, algorithm, out
    )


def conv_transpose2d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Extents = 1,
    padding: Padding = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
    *,
    layout: Layout2d = "NCHW",
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
        Of that convolution: cells cut from the result. "same" gives ``H * stride`` rows.
    output_padding : int or tuple of int
        Rows and columns added at the end, less than the larger of stride and dilation.
    groups : int
    layout, algorithm, out
        As in `conv2d`.

    Returns
    -------
    array (N, K, OH, OW) or (K, OH, OW)
        ``OH = (H - 1)*stride - before - after + dilation*(R - 1) + output_padding + 1``.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong; the message names it.

    Examples
    --------
    >>> import numpy as np
    >>> import fastconv
    >>> fastconv.conv_transpose2d(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)), stride=2)[0, 0]
    array([[1., 1., 1., 1.],
           [1., 1., 1., 1.],
           [1., 1., 1., 1.],
           [1., 1., 1., 1.]])
    """
    return _transpose_forward(
        2, input, weight, bias, (stride, padding, dilation, groups), output_padding, layout, algorithm, out
    )


@declared[ConvTransposeBackward[Layout2d]]()
def conv_transpose2d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: Extents = 1,
    padding: Padding = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
    *,
    layout: Layout2d = "NCHW",
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
    >>> fastconv.conv_transpose2d_backward(np.ones((1, 1, 4, 4)), x, w, stride=2).weight[0, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    return _transpose_backward(
        2,
        grad_output,
        input,
        weight,
        (stride, padding, dilation, groups),
        output_padding,
        layout,
        algorithm,
        needs,
    )


def conv1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    layout: Layout1d = "NCW",
    algorithm: AlgorithmName = "auto",
    out: Array | None = None,
) -> Array:
    """`conv2d` in one dimension: input (N, C, W), weight (K, C/G, S)."""
    return _forward(1, input, weight, bias, (stride, padding, dilation, groups), layout, algorithm, out)


@declared[ConvBackward[Layout1d]]()
def conv1d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    layout: Layout1d = "NCW",
    algorithm: AlgorithmName = "auto",
    needs: Iterable[Gradient] = GRADIENTS,
) -> ConvGrads:
    """`conv2d_backward` in one dimension: input (N, C, W), weight (K, C/G, S)."""
    return _backward(
        1, grad_output, input, weight, (stride, padding, dilation, groups), layout, algorithm, needs
    )


def conv1d_backward_input(
    grad_output: ArrayLike,
    weight: ArrayLike,
    input_size: Shape,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    layout: Layout1d = "NCW",
    algorithm: AlgorithmName = "auto",
    out: Array | None = None,
) -> Array:
    """`conv2d_backward_input` in one dimension: input (N, C, W), weight (K, C/G, S)."""
    return _backward_input(
        1, grad_output, weight, input_size, (stride, padding, dilation, groups), layout, algorithm, out
    )


def conv1d_backward_weight(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight_size: Shape,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    layout: Layout1d = "NCW",
    algorithm: AlgorithmName = "auto",
    out: Array | None = None,
) -> Array:
    """`conv2d_backward_weight` in one dimension: input (N, C, W), weight (K, C/G, S)."""
    return _backward_weight(
        1, grad_output, input, weight_size, (stride, padding, dilation, groups), layout, algorithm, out
    )


def conv_transpose1d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Extents = 1,
    padding: Padding = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
    *,
    layout: Layout1d = "NCW",
    algorithm: AlgorithmName = "auto",
    out: Array | None = None,
) -> Array:
    """`conv_transpose2d` in one dimension: input (N, C, W), weight (C, K/G, S)."""
    return _transpose_forward(
        1, input, weight, bias, (stride, padding, dilation, groups), output_padding, layout, algorithm, out
    )


@declared[ConvTransposeBackward[Layout1d]]()
def conv_transpose1d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: Extents = 1,
    padding: Padding = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
    *,
    layout: Layout1d = "NCW",
    algorithm: AlgorithmName = "auto",
    needs: Iterable[Gradient] = GRADIENTS,
) -> ConvGrads:
    """`conv_transpose2d_backward` in one dimension: input (N, C, W), weight (C, K/G, S)."""
    return _transpose_backward(
        1,
        grad_output,
        input,
        weight,
        (stride, padding, dilation, groups),
        output_padding,
        layout,
        algorithm,
        needs,
    )


def conv3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    layout: Layout3d = "NCDHW",
    algorithm: AlgorithmName = "auto",
    out: Array | None = None,
) -> Array:
    """`conv2d` in three dimensions: input (N, C, D, H, W), weight (K, C/G, T, R, S)."""
    return _forward(3, input, weight, bias, (stride, padding, dilation, groups), layout, algorithm, out)


@declared[ConvBackward[Layout3d]]()
def conv3d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    layout: Layout3d = "NCDHW",
    algorithm: AlgorithmName = "auto",
    needs: Iterable[Gradient] = GRADIENTS,
) -> ConvGrads:
    """`conv2d_backward` in three dimensions: input (N, C, D, H, W), weight (K, C/G, T, R, S)."""
    return _backward(
        3, grad_output, input, weight, (stride, padding, dilation, groups), layout, algorithm, needs
    )


def conv3d_backward_input(
    grad_output: ArrayLike,
    weight: ArrayLike,
    input_size: Shape,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    layout: Layout3d = "NCDHW",
    algorithm: AlgorithmName = "auto",
    out: Array | None = None,
) -> Array:
    """`conv2d_backward_input` in three dimensions: input (N, C, D, H, W), weight (K, C/G, T, R, S)."""
    return _backward_input(
        3, grad_output, weight, input_size, (stride, padding, dilation, groups), layout, algorithm, out
    )


def conv3d_backward_weight(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight_size: Shape,
    stride: Extents = 1,
    padding: Padding = 0,
    dilation: Extents = 1,
    groups: int = 1,
    *,
    layout: Layout3d = "NCDHW",
    algorithm: AlgorithmName = "auto",
    out: Array | None = None,
) -> Array:
    """`conv2d_backward_weight` in three dimensions: input (N, C, D, H, W), weight (K, C/G, T, R, S)."""
    return _backward_weight(
        3, grad_output, input, weight_size, (stride, padding, dilation, groups), layout, algorithm, out
    )


def conv_transpose3d(
    input: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Extents = 1,
    padding: Padding = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
    *,
    layout: Layout3d = "NCDHW",
    algorithm: AlgorithmName = "auto",
    out: Array | None = None,
) -> Array:
    """`conv_transpose2d` in three dimensions: input (N, C, D, H, W), weight (C, K/G, T, R, S)."""
    return _transpose_forward(
        3, input, weight, bias, (stride, padding, dilation, groups), output_padding, layout, algorithm, out
    )


@declared[ConvTransposeBackward[Layout3d]]()
def conv_transpose3d_backward(
    grad_output: ArrayLike,
    input: ArrayLike,
    weight: ArrayLike,
    stride: Extents = 1,
    padding: Padding = 0,
    output_padding: Extents = 0,
    groups: int = 1,
    dilation: Extents = 1,
    *,
    layout: Layout3d = "NCDHW",
    algorithm: AlgorithmName = "auto",
    needs: Iterable[Gradient] = GRADIENTS,
) -> ConvGrads:
    """`conv_transpose2d_backward` in three dimensions: input (N, C, D, H, W), weight (C, K/G, T, R, S)."""
    return _transpose_backward(
        3,
        grad_output,
        input,
        weight,
        (stride, padding, dilation, groups),
        output_padding,
        layout,
        algorithm,
        needs,
    )
