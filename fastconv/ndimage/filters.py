"""The public functions: SciPy's arguments in, one correlation, SciPy's result out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import ArrayLike, DTypeLike

from fastconv.arguments import Array
from fastconv.ndimage.arguments import understood
from fastconv.ndimage.correlation import correlated
from fastconv.ndimage.outputs import stored

# A call of SciPy takes some 0.4 ns a product, and 1.2 ns a cell; one of ours 40 to 60 us and a tenth of that.
CELL_IN_PRODUCTS = 3
FEWEST_PRODUCTS = 150_000


def correlate(
    input: ArrayLike,
    weights: ArrayLike,
    output: Array | DTypeLike | None = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: int | Sequence[int] = 0,
    *,
    axes: int | Sequence[int] | None = None,
) -> Array:
    """Correlate an array with a kernel, as `scipy.ndimage.correlate` does.

    Every cell of the result is the sum of the products of the weights and the cells around it.

    Parameters
    ----------
    input : array_like
        An array of any number of axes.
    weights : array_like
        The kernel, of as many axes as ``input``, or as ``axes`` has.
    output : array or dtype, optional
        Where the result is put, an array of the shape of ``input``, which may be ``input`` itself; or the
        dtype of the result. By default a new array of the dtype of ``input``.
    mode : str
        What lies beyond the border: ``"reflect"`` (the default) or ``"grid-mirror"``, ``"mirror"``,
        ``"nearest"``, ``"constant"`` or ``"grid-constant"``, ``"wrap"`` or ``"grid-wrap"``.
    cval : float
        The number beyond the border where ``mode`` is ``"constant"``.
    origin : int or sequence of int
        How many cells the kernel is moved to the left, for all axes or for each one.
    axes : int or sequence of int, optional
        The axes that are filtered. By default all.

    Returns
    -------
    array
        Of the shape of ``input``; ``output`` itself where that is an array.

    Raises
    ------
    RuntimeError
        If the numbers of axes differ, the mode is none of these, or ``output`` has another shape.
    ValueError
        If ``origin`` puts a cell out of reach of the kernel, or ``axes`` holds one that isn't there.

    See Also
    --------
    convolve : The same with the kernel flipped.
    fastconv.conv2d : A batch of images, channels and many kernels at once.

    Notes
    -----
    A float32 image is summed in float32 where the result is of float32, and SciPy sums in float64. All else
    is computed as in float64. Where the result is of integers it is the same as SciPy's to the bit: the sum
    in float64 without its fraction. What isn't computed here is handed to SciPy: complex arrays, results
    of booleans, and images so small that SciPy is faster.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import ndimage
    >>> image = np.arange(16.0).reshape(4, 4)
    >>> cross = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    >>> ndimage.correlate(image, cross)
    array([[ 5.,  9., 14., 18.],
           [21., 25., 30., 34.],
           [41., 45., 50., 54.],
           [57., 61., 66., 70.]])

    A result of bytes is cut down to bytes, as SciPy's is, unless a wider one is asked for:

    >>> pixels = np.full((300, 500), 200, np.uint8)
    >>> ndimage.correlate(pixels, [[1, 1]])[0, :3]
    array([144, 144, 144], dtype=uint8)
    >>> ndimage.correlate(pixels, [[1, 1]], output=np.int32)[0, :3]
    array([400, 400, 400], dtype=int32)
    """
    return _filtered(False, input, weights, output, mode, cval, origin, axes)


def convolve(
    input: ArrayLike,
    weights: ArrayLike,
    output: Array | DTypeLike | None = None,
    mode: str = "reflect",
    cval: float = 0.0,
    origin: int | Sequence[int] = 0,
    *,
    axes: int | Sequence[int] | None = None,
) -> Array:
    """Convolve an array with a kernel, as `scipy.ndimage.convolve` does.

    It is correlated with the flipped kernel.

    Parameters
    ----------
    input : array_like
        An array of any number of axes.
    weights : array_like
        The kernel, of as many axes as ``input``, or as ``axes`` has.
    output : array or dtype, optional
        Where the result is put, or its dtype, as in `correlate`.
    mode : str
        What lies beyond the border, as in `correlate`.
    cval : float
        The number beyond the border where ``mode`` is ``"constant"``.
    origin : int or sequence of int
        How many cells the flipped kernel is moved to the right, for all axes or for each one.
    axes : int or sequence of int, optional
        The axes that are filtered. By default all.

    Returns
    -------
    array
        Of the shape of ``input``; ``output`` itself where that is an array.

    Raises
    ------
    RuntimeError
        If the numbers of axes differ, the mode is none of SciPy's, or ``output`` has another shape.
    ValueError
        If ``origin`` puts a cell out of reach of the kernel, or ``axes`` holds one that isn't there.

    See Also
    --------
    correlate : The same with the kernel as it is; its notes say in which precision sums are computed.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import ndimage
    >>> impulse = np.zeros(7)
    >>> impulse[3] = 1
    >>> ndimage.convolve(impulse, [1, 2, 3])
    array([0., 0., 1., 2., 3., 0., 0.])
    >>> ndimage.correlate(impulse, [1, 2, 3])
    array([0., 0., 3., 2., 1., 0., 0.])
    """
    return _filtered(True, input, weights, output, mode, cval, origin, axes)


def _filtered(
    flipped: bool,
    input: Any,
    weights: Any,
    output: Any,
    mode: Any,
    cval: Any,
    origin: Any,
    axes: Any,
) -> Array:
    if not _small(input, weights):
        problem = understood(flipped, input, weights, output, mode, cval, origin, axes)
        sums = None if problem is None else correlated(problem)
        result = None if problem is None or sums is None else stored(sums, problem)
        if result is not None:
            return result
    by_scipy = scipy.ndimage.convolve if flipped else scipy.ndimage.correlate
    # SciPy before 1.16 has no axes.
    named = {} if axes is None else {"axes": axes}
    return np.asarray(by_scipy(input, weights, output, mode, cval, origin, **named))


def _small(input: Any, weights: Any) -> bool:
    """Whether there is so little to do that SciPy is faster."""
    if not isinstance(input, np.ndarray) or not isinstance(weights, (np.ndarray, list)):
        return False
    try:
        return input.size * (np.size(weights) + CELL_IN_PRODUCTS) < FEWEST_PRODUCTS
    except ValueError:  # lists of uneven lengths
        return False
