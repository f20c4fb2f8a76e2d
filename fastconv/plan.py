"""A plan: one convolution's sizes, checked once, and the algorithm of each of its passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastconv import tuning
from fastconv.annotations import AlgorithmName, Extents, Layout1d, Layout2d, Layout3d, Padding, Shape
from fastconv.arguments import (
    Array,
    Size,
    delivered,
    direct_output,
    must_be,
    must_be_said,
    number,
    operand,
    output_array,
    shaped,
)
from fastconv.buffers import new_result
from fastconv.dimensions import CHANNELS_FIRST, Dimensions, Layout
from fastconv.engine.algorithm import Algorithm, Pass
from fastconv.engine.dispatch import Dispatch
from fastconv.engine.tensor import dense
from fastconv.geometry import (
    Geometry,
    Steps,
    canonical_steps,
    conv_geometry,
    conv_transpose_geometry,
    layout_is_channels_last,
    normal_view,
    plan_sizes,
    steps_key,
)
from fastconv.orders import Sizes, refuse

if TYPE_CHECKING:
    from fastconv.dimensions import __class__  # noqa: F401

# Plans are a few kilobytes, 64 at the most; a program that keeps changing shapes has no more than this many.
CACHED_PLANS = 512

# Bytes of views that are worth another algorithm or another way to copy them.
SMALL_VIEW = 2**15


class ConvPlan:
    """A convolution of known sizes, ready to be called.

    Made by `plan_conv1d`, `plan_conv2d` and `plan_conv3d`. It is immutable, holds no buffers, and may
    be shared between threads.

    Attributes
    ----------
    input_size, weight_size, output_size : tuple of int
        Whole shapes in the plan's layout, batch included.
    dtype : numpy.dtype
        Of every array; float16 is computed in float32.
    algorithms : dict
        Pass ("forward", "backward_input", "backward_weight") to the name of its algorithm; without the
        passes that an algorithm asked for by name can't serve.
    scratch_bytes : int
        The most scratch one thread allocates in any pass, in bytes; under 32 MiB.
    flops : int
        Floating-point operations of one pass (a multiply-add counts as two), padding included.
    """

    __slots__ = (
        "_compute_dtype",
        "_geometry",
        "_normal",
        "_passes",
        "dtype",
        "input_size",
        "output_size",
        "weight_size",
    )
    _geometry: Geometry
    _passes: Dispatch
    _compute_dtype: np.dtype[Any]
    _normal: Callable[[Array], Array]
    input_size: Size
    weight_size: Size
    output_size: Size
    dtype: np.dtype[Any]

    def __init__(
        self,
        geometry: Geometry,
        algorithm: str,
        tuned: Mapping[Pass, type[Algorithm]] | None = None,
    ) -> None:
        if not isinstance(geometry, Geometry):
            must_be(TypeError, "geometry", "a Geometry (plan_conv2d makes a plan from sizes)", geometry)
        for name, value in {
            "_geometry": geometry,
            "_compute_dtype": geometry.compute_dtype,
            "_normal": normal_view(geometry),
            "_passes": Dispatch(geometry, algorithm, tuning.tuned(geometry) if tuned is None else tuned),
            "input_size": geometry.input_size,
            "weight_size": geometry.weight_size,
            "output_size": geometry.output_size,
            "dtype": geometry.dtype,
        }.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a pickle is made anew: the algorithms hold nothing else."""
        labels = {which: kind.label for which, kind in self._passes.tuned.items()}
        return _restored, (type(self), self._geometry, self._passes.name, labels)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a plan can't be changed: {name} stays as it is; make another plan")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a plan can't be changed: {name} stays")

    @property
    def algorithms(self) -> dict[str, str]:
        """Pass to the name of its algorithm (a new dict: changing it changes nothing)."""
        return {which: kind.name for which, kind in self._passes.kinds().items()}

    @property
    def scratch_bytes(self) -> int:
        """The most scratch one thread allocates in any pass, in bytes."""
        return self._passes.scratch_bytes

    @property
    def flops(self) -> int:
        """Floating-point operations of one pass; a multiply-add counts as two."""
        return 2 * self._geometry.multiplications

    def describe(self) -> str:
        """The plan in words: sizes, steps, algorithms, work and scratch.

        Returns
        -------
        str
            A few lines.

        Examples
        --------
        >>> import fastconv
        >>> plan = fastconv.plan_conv2d((10, 1, 28, 28), (3, 1, 5, 5))
        >>> print(plan.describe().splitlines()[0])
        2-D convolution, float32: (10, 1, 28, 28) * (3, 1, 5, 5) -> (10, 3, 24, 24)
        """
        g = self._geometry
        n = g.ndim
        return "\n".join(
            [
                f"{n}-D convolution, {g.dtype}: {self.input_size} * {self.weight_size} -> {self.output_size}",
                f"{'channels last' if g.channels_last else 'channels first'}, stride {g.stride[-n:]}, "
                f"padding before {g.padding[-n:]}, dilation {g.dilation[-n:]}, groups {g.groups}",
                ", ".join(
                    f"{which}: {kind.label}{' (tuned)' if which in self._passes.tuned else ''}"
                    for which, kind in self._passes.kinds().items()
                ),
                "views: copied, or computed in the layout in which they lie; results not finite: by im2col",
                f"{self.flops / 1e6:,.3f} MFLOP a pass, "
                f"{self.scratch_bytes / 2**20:,.2f} MiB of scratch a thread at the most",
            ]
        )

    def tune(self, seconds: float = 0.5) -> ConvPlan:
        """Time the algorithms that can serve each pass, here and now, and take the fastest.

        The answer holds for the plan that is returned, and for all plans and calls of the same sizes that
        this process makes from now on, unless they ask for an algorithm by name; plans that there are keep
        theirs. It is measured with as many threads as `get_num_threads` says, and holds for any number, so
        that results do not depend on it. Nothing is measured but by this call: to have the same bits in
        other processes, and no measurement, see `save_tuning`.

        What "auto" chooses by itself stays where no other is faster by more than the times of either vary.
        Other work on the same cores falsifies them.

        Parameters
        ----------
        seconds : float
            How long to measure, all passes together. Compiling, data of the plan's sizes and the first
            call of each algorithm come on top; and every algorithm is timed once, the better ones five
            times more, however long that takes.

        Returns
        -------
        ConvPlan
            Of the same sizes.

        Raises
        ------
        TypeError, ValueError
            If ``seconds`` is not a number of at least 0, or the plan is of an algorithm asked for by name.
        MemoryError
            If memory does not suffice for one more input, weight and output.

        Examples
        --------
        >>> import fastconv
        >>> plan = fastconv.plan_conv2d((1, 2, 6, 6), (2, 2, 3, 3)).tune(0.01)
        >>> sorted(plan.algorithms)
        ['backward_input', 'backward_weight', 'forward']
        """
        budget = number("seconds", seconds, 0)
        if self._passes.wanted is not None:
            must_be_said(ValueError, "algorithm", "'auto' for a plan to be tuned", repr(self._passes.name))
        if not self._geometry.is_empty:
            tuning.tune(self, budget)
        return type(self)(self._geometry, self._passes.name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.describe().splitlines()[0]}>"

    def _taken(self, name: str, value: object, shape: Size) -> Array:
        """An argument of a call, of the plan's own shape and dtype."""
        if (
            type(value) is np.ndarray
            and value.shape == shape
            and value.dtype == self.dtype
            and value.flags.aligned
        ):
            return value
        array = operand(name, value)
        shaped(name, array, shape)
        if array.dtype != self.dtype:
            came = f"dtype {array.dtype}; convert it with np.asarray({name}, '{self.dtype}')"
            must_be_said(TypeError, name, f"of the plan's dtype {self.dtype}", came)
        return array

    def __call__(
        self, input: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, out: Array | None = None
    ) -> Array:
        """The forward pass.

        Parameters
        ----------
        input, weight : array
            Of `input_size` and `weight_size`, in the plan's dtype.
        bias : array (filters,), optional
        out : array, optional
            Where to put the result.

        Returns
        -------
        array of `output_size`
            A new C-contiguous array, or ``out``.

        Raises
        ------
        TypeError, ValueError
            If an array is of another shape or dtype than the plan's.
        """
        x = self._taken("input", input, self.input_size)
        w = self._taken("weight", weight, self.weight_size)
        b = None if bias is None else self._taken("bias", bias, (self._geometry.filters,))
        return self.run_forward(x, w, b, output_array(out, self.output_size, self.dtype))

    def backward_input(self, grad_output: ArrayLike, weight: ArrayLike, out: Array | None = None) -> Array:
        """The gradient with respect to the input.

        Parameters
        ----------
        grad_output, weight : array
            Of `output_size` and `weight_size`, in the plan's dtype.
        out : array, optional
            Where to put the result.

        Returns
        -------
        array of `input_size`

        Raises
        ------
        TypeError, ValueError
            If an array is of another shape or dtype than the plan's.
        """
        dy = self._taken("grad_output", grad_output, self.output_size)
        w = self._taken("weight", weight, self.weight_size)
        return self.run_backward_input(dy, w, output_array(out, self.input_size, self.dtype))

    def backward_weight(self, grad_output: ArrayLike, input: ArrayLike, out: Array | None = None) -> Array:
        """The gradient with respect to the weight, summed over the batch.

        Parameters
        ----------
        grad_output, input : array
            Of `output_size` and `input_size`, in the plan's dtype.
        out : array, optional
            Where to put the result.

        Returns
        -------
        array of `weight_size`

        Raises
        ------
        TypeError, ValueError
            If an array is of another shape or dtype than the plan's.
        """
        dy = self._taken("grad_output", grad_output, self.output_size)
        x = self._taken("input", input, self.input_size)
        return self.run_backward_weight(dy, x, output_array(out, self.weight_size, self.dtype))

    # The same three for arrays that have been checked.

    def run_forward(self, input: Array, weight: Array, bias: Array | None, out: Array | None) -> Array:
        """`__call__` without checks."""
        result = self._result(out, self.output_size, input, weight, bias)
        input = _settled(input)
        if bias is not None:
            bias = bias.astype(self._compute_dtype, copy=False)
        x, w, y = self._normal(input), self._weights(weight), self._normal(result)
        self._passes.forward(x, w, bias, y, input.flags.c_contiguous)
        return delivered(result, out, self.dtype)

    def run_backward_input(
        self, grad_output: Array, weight: Array, out: Array | None, bias: Array | None = None
    ) -> Array:
        """`backward_input` without checks; a transposed convolution adds its ``bias`` (channels,) to it."""
        result = self._result(out, self.input_size, grad_output, weight, bias)
        grad_output = _settled(grad_output)
        dy, w, dx = self._normal(grad_output), self._weights(weight), self._normal(result)
        self._passes.backward_input(dy, w, dx, grad_output.flags.c_contiguous)
        if bias is not None:
            with np.errstate(all="ignore"):  # infinities and NaN travel without a warning
                dx += bias.astype(self._compute_dtype, copy=False).reshape(-1, 1, 1, 1)
        return delivered(result, out, self.dtype)

    def run_backward_weight(self, grad_output: Array, input: Array, out: Array | None) -> Array:
        """`backward_weight` without checks."""
        result = self._result(out, self.weight_size, grad_output, input)
        grad_output, input = _settled(grad_output), _settled(input)
        dy, x, dw = self._normal(grad_output), self._normal(input), self._normal(result)
        dense = grad_output.flags.c_contiguous and input.flags.c_contiguous
        self._passes.backward_weight(dy, x, dw, dense)
        return delivered(result, out, self.dtype)

    def _weights(self, weight: Array) -> Array:
        """The weights in normal form, contiguous in the layout."""
        w = self._normal(weight)
        return w if weight.flags.c_contiguous else dense(w, self._geometry.channels_last)

    def _result(self, out: Array | None, shape: Size, *sources: Array | None) -> Array:
        """What the algorithm writes: ``out`` itself where it can, else a new array."""
        if out is None or not direct_output(out, self._compute_dtype, *sources):
            return new_result(shape, self._compute_dtype, sources[0], self._geometry.channelwise)
        return out


def _settled(images: Array) -> Array:
    """Small images that are not contiguous as a copy: to look how they lie takes longer."""
    if images.flags.c_contiguous or images.nbytes >= SMALL_VIEW:
        return images
    return images.copy()


def _restored(kind: type[ConvPlan], geometry: Geometry, name: str, labels: Mapping[Pass, str]) -> ConvPlan:
    """A plan from its pickle, which a machine may have written whose algorithms can't serve here."""
    return kind(geometry, name, tuning.labelled(geometry, labels))


@lru_cache(CACHED_PLANS)
def _cached_conv_plan(
    edition: object,  # of what is known about the algorithms
    algorithm: str,
    ndim: int,
    input_size: Size,
    weight_size: Size,
    steps: Steps,
    dtype: np.dtype[Any],
    channels_last: bool,
) -> ConvPlan:
    canonical = canonical_steps(*steps, ndim)
    geometry = conv_geometry(ndim, input_size, weight_size, *canonical, dtype, channels_last)
    return ConvPlan(geometry, algorithm)


@lru_cache(CACHED_PLANS)
def _cached_conv_transpose_plan(
    edition: object,
    algorithm: str,
    ndim: int,
    input_size: Size,
    weight_size: Size,
    steps: Steps,
    output_padding: Size,
    dtype: np.dtype[Any],
    channels_last: bool,
) -> ConvPlan:
    stride, padding, dilation, groups = canonical_steps(*steps, ndim)
    geometry = conv_transpose_geometry(
        ndim,
        input_size,
        weight_size,
        stride,
        padding,
        output_padding,
        dilation,
        groups,
        dtype,
        channels_last,
    )
    return ConvPlan(geometry, algorithm)


def _have_shapes(bias: Array | None, biases: Size, grad_output: Array | None, output: Size) -> bool:
    return (bias is None or bias.shape == biases) and (grad_output is None or grad_output.shape == output)


def conv_plan(
    ndim: int,
    input_size: Size,
    weight_size: Size,
    steps: Steps,
    dtype: np.dtype[Any],
    channels_last: bool,
    algorithm: str,
    names: tuple[str, str],
    bias: Array | None = None,
    grad_output: Array | None = None,
) -> ConvPlan:
    """The plan of a convolution from the cache.

    Sizes are checked here, those of the bias and the gradient too. The input's may be that of one image;
    ``names`` are what the caller calls it and the weight's.
    """
    steps = steps_key(steps, ndim)
    if not isinstance(algorithm, str):
        must_be(TypeError, "algorithm", "the name of an algorithm or 'auto'", algorithm)
    batch = input_size if len(input_size) == ndim + 2 else (1, *input_size)
    try:
        if len(batch) == len(weight_size) == ndim + 2:
            plan = _cached_conv_plan(
                tuning.edition, algorithm, ndim, batch, weight_size, steps, dtype, channels_last
            )
            output = plan.output_size if batch is input_size else plan.output_size[1:]
            if _have_shapes(bias, (plan._geometry.filters,), grad_output, output):
                return plan
        raise ValueError("sizes do not fit each other")
    except (TypeError, ValueError):
        stride, padding, dilation, groups = canonical_steps(*steps, ndim)

        def made(batch: Size, weight: Size, last: bool, groups: int) -> Geometry:
            return conv_geometry(ndim, batch, weight, stride, padding, dilation, groups, dtype, last, names)

        refuse(Sizes(ndim, names, input_size, weight_size, channels_last, groups, bias, grad_output), made)
        raise


def conv_transpose_plan(
    ndim: int,
    input_size: Size,
    weight_size: Size,
    steps: Steps,
    output_padding: Size,
    dtype: np.dtype[Any],
    channels_last: bool,
    algorithm: str,
    bias: Array | None = None,
    grad_output: Array | None = None,
) -> ConvPlan:
    """The plan whose backward-input pass is a transposed convolution, from the cache; see `conv_plan`."""
    steps = steps_key(steps, ndim)
    if not isinstance(algorithm, str):
        must_be(TypeError, "algorithm", "the name of an algorithm or 'auto'", algorithm)
    batch = input_size if len(input_size) == ndim + 2 else (1, *input_size)
    try:
        if len(batch) == len(weight_size) == ndim + 2:
            plan = _cached_conv_transpose_plan(
                tuning.edition,
                algorithm,
                ndim,
                batch,
                weight_size,
                steps,
                output_padding,
                dtype,
                channels_last,
            )
            output = plan.input_size if batch is input_size else plan.input_size[1:]
            if _have_shapes(bias, (plan._geometry.channels,), grad_output, output):
                return plan
        raise ValueError("sizes do not fit each other")
    except (TypeError, ValueError):
        stride, padding, dilation, groups = canonical_steps(*steps, ndim)

        def made(batch: Size, weight: Size, last: bool, groups: int) -> Geometry:
            return conv_transpose_geometry(
                ndim, batch, weight, stride, padding, output_padding, dilation, groups, dtype, last
            )

        names = "input", "weight"
        refuse(
            Sizes(ndim, names, input_size, weight_size, channels_last, groups, bias, grad_output, True), made
        )
        raise


class Plans(Dimensions[Layout]):
    """The function for images; those for each number of dimensions are made of it below."""

    @staticmethod
    def plan_conv_nd(
        input_size: Shape,
        weight_size: Shape,
        stride: Extents = 1,
        padding: Padding = 0,
        dilation: Extents = 1,
        groups: int = 1,
        *,
        dtype: DTypeLike = "float32",
        layout: Layout = CHANNELS_FIRST,
        algorithm: AlgorithmName = "auto",
    ) -> ConvPlan:
        """Plan a convolution: check its sizes once, choose its algorithms, and call it any number of times.

        Parameters
        ----------
        input_size : tuple of int
            (N, C, H, W), or (N, H, W, C) with ``layout="NHWC"``; the batch is always there.
        weight_size : tuple of int
            (K, C/G, R, S), or (K, R, S, C/G).
        stride, padding, dilation, groups, layout, algorithm
            As in `conv2d`.
        dtype : str or numpy.dtype
            float16, float32 or float64.

        Returns
        -------
        ConvPlan

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> import fastconv
        >>> plan = fastconv.plan_conv2d((10, 3, 12, 12), (6, 3, 5, 5))
        >>> plan.output_size
        (10, 6, 8, 8)
        >>> x, w = np.ones((10, 3, 12, 12), "float32"), np.ones((6, 3, 5, 5), "float32")
        >>> y = plan(x, w)
        >>> plan.backward_input(y, w).shape, plan.backward_weight(y, x).shape
        ((10, 3, 12, 12), (6, 3, 5, 5))
        """
        ndim, steps = __class__.ndim, (stride, padding, dilation, groups)
        input_shape, weight_shape, float_type = plan_sizes(ndim, input_size, weight_size, dtype)
        last, names = layout_is_channels_last(layout, ndim), ("input_size", "weight_size")
        return conv_plan(ndim, input_shape, weight_shape, steps, float_type, last, algorithm, names)


class _1d(Plans[Layout1d], ndim=1): ...


class _2d(Plans[Layout2d], ndim=2): ...


class _3d(Plans[Layout3d], ndim=3): ...


plan_conv1d = _1d.plan_conv_nd
plan_conv2d = _2d.plan_conv_nd
plan_conv3d = _3d.plan_conv_nd
