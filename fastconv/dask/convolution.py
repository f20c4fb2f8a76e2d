"""Convolution and transposed convolution over chunks, and both gradients of each."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastconv.arguments import Size, extents, size
from fastconv.dask import blocks
from fastconv.dask.arguments import (
    Lazy,
    batched,
    common_dtype,
    constant,
    key_of,
    lazy_array,
    of_size,
    whole_channels,
)
from fastconv.dask.axes import Range, axes_of
from fastconv.dask.blocks import Settings
from fastconv.dask.graphs import Layer, array_of, finished, pieces, summed
from fastconv.dask.spaces import Space
from fastconv.geometry import LAYOUTS, Geometry, layout_is_channels_last
from fastconv.plan import conv_plan, conv_transpose_plan


class Convolution(Space):
    """A convolution over chunks: its geometry, and what its tasks share."""

    def __init__(self, geometry: Geometry, algorithm: str) -> None:
        g = self.geometry = geometry
        super().__init__(axes_of(g), g.channels_last)
        n = g.ndim
        self.settings = Settings(
            n, g.stride[-n:], g.dilation[-n:], g.groups, LAYOUTS[n][g.channels_last], algorithm, str(g.dtype)
        )

    def forward(self, prefix: str, x: Lazy, w: Lazy, bias: Lazy | None) -> Lazy:
        """The output, a chunk for each of the input."""
        g = self.geometry
        batch, space = self.batch_and_space(x)
        outputs = [axis.outputs(chunks) for axis, chunks in zip(self.axes, space, strict=True)]

        def task(layer: Layer, where: tuple[Range, ...]) -> Any:
            read, padding = self.read(self.spatial(where))
            some = pieces(layer, x, self.arranged(where[0], (0, g.channels), read))
            return (blocks.forward, some, key_of(w), key_of(bias), padding, self.settings)

        chunks = self.arranged(batch, (g.filters,), outputs)
        sources = [array for array in (x, w, bias) if array is not None]
        return array_of(
            prefix, chunks, g.dtype, task, sources, self.geometry.to_json(), self.settings.algorithm
        )

    def backward_input(self, prefix: str, dy: Lazy, w: Lazy, bias: Lazy | None = None) -> Lazy:
        """The gradient of the input, a chunk for each of the output's."""
        g = self.geometry
        batch, space = self.batch_and_space(dy)
        inputs = [axis.inputs(chunks) for axis, chunks in zip(self.axes, space, strict=True)]

        def task(layer: Layer, where: tuple[Range, ...]) -> Any:
            found = self.reaching(self.spatial(where))
            size = tuple(b - a for a, b in where)
            some, place = None, list[Range]()
            if found is not None:
                windows, place = found
                some = pieces(layer, dy, self.arranged(where[0], (0, g.filters), windows))
            return (blocks.backward_input, some, key_of(w), key_of(bias), size, tuple(place), self.settings)

        chunks = self.arranged(batch, (g.channels,), inputs)
        sources = [array for array in (dy, w, bias) if array is not None]
        return array_of(
            prefix, chunks, g.dtype, task, sources, self.geometry.to_json(), self.settings.algorithm
        )

    def backward_weight(self, prefix: str, dy: Lazy, x: Lazy) -> Lazy:
        """The gradient of the filters: a part of the sum for each chunk of ``dy``, added up as a tree."""
        g, settings = self.geometry, self.settings

        def task(layer: Layer, where: tuple[Range, ...]) -> Any:
            read, padding = self.read(self.spatial(where))
            some = pieces(layer, x, self.arranged(where[0], (0, g.channels), read))
            errors = pieces(layer, dy, where)
            return (blocks.backward_weight, errors, some, g.weight_size, padding, settings)

        token = self.geometry.to_json(), settings.algorithm
        parts = array_of(f"{prefix}-parts", dy.chunks, blocks.wide(g.dtype), task, [dy, x], *token)
        keys = [(parts.name, *numbers) for numbers in np.ndindex(*parts.numblocks)]
        name, layer = f"sum-{parts.name}", dict[Any, Any]()
        key = (name, *(0,) * len(g.weight_size))
        layer[key] = summed("tree", keys, layer, parts.name, blocks.add)
        return finished(layer, name, g.weight_size, parts.dtype, [parts]).astype(g.dtype)


def _convolution(
    ndim: int,
    shapes: tuple[Size, Size],
    dtype: Any,
    steps: tuple[Any, ...],
    layout: Any,
    algorithm: str,
    names: tuple[str, str],
) -> Convolution:
    last = layout_is_channels_last(layout, ndim)
    plan = conv_plan(ndim, *shapes, steps, dtype, last, algorithm, names)
    return Convolution(plan._geometry, algorithm)


# The first argument is the number of spatial dimensions: see `fastconv.dask.arguments.of_dimensions`.


def conv_nd(
    ndim: int, input: Lazy, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, layout: Any = None, algorithm: str = "auto",
) -> Lazy:  # fmt: skip
    """Cross-correlate ``input`` with ``weight`` chunk by chunk, as `fastconv.{name}` does it in memory.

    Parameters
    ----------
    input : dask.array.Array
        Chunked along batch and space; the channels in one chunk.
    weight : array or dask.array.Array
    bias : array or dask.array.Array, optional
    stride, padding, dilation, groups, layout, algorithm
        As in `fastconv.{name}`.

    Returns
    -------
    dask.array.Array
        Its chunks begin where those of the input do, in strides.

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, a chunk size is not known, or channels are in several chunks.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from fastconv import dask as fd
    >>> x = da.ones((4, 2) + (12,) * {n}, chunks=(2, 2) + (6,) * {n})
    >>> y = fd.{name}(x, np.ones((3, 2) + (3,) * {n}), padding=1)
    >>> y.chunks[2:] == x.chunks[2:]
    True
    """
    last = layout_is_channels_last(layout, ndim)
    lazy = lazy_array("input", input, ndim)
    x, w = batched(lazy, ndim), constant("weight", weight)
    b = None if bias is None else constant("bias", bias)
    dtype = common_dtype(("input", "weight", "bias"), x, w, *(() if b is None else (b,)))
    call = _convolution(
        ndim,
        (x.shape, w.shape),
        dtype,
        (stride, padding, dilation, groups),
        layout,
        algorithm,
        ("input", "weight"),
    )
    if b is not None:
        of_size("bias", b, (call.geometry.filters,), "weight")
    y = call.forward(f"conv{ndim}d", whole_channels("input", x, last), w, b)
    return y if x is lazy else y[0]


def conv_nd_backward_input(
    ndim: int, grad_output: Lazy, weight: Any, input_size: Any, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, layout: Any = None, algorithm: str = "auto",
) -> Lazy:  # fmt: skip
    """The gradient of `{name}` by its input, chunk by chunk, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    grad_output : dask.array.Array
        Chunked along batch and space; the filters in one chunk.
    weight : array or dask.array.Array
    input_size : tuple of int
        The whole shape, batch included.
    stride, padding, dilation, groups, layout, algorithm
        As in `fastconv.{name}`.

    Returns
    -------
    dask.array.Array
        Of shape ``input_size``; its chunks begin where those of ``grad_output`` do, in strides.
    """
    last = layout_is_channels_last(layout, ndim)
    shape = size("input_size", input_size, (ndim + 2, ndim + 1))
    lazy = lazy_array("grad_output", grad_output, ndim)
    dy, w = batched(lazy, ndim), constant("weight", weight)
    whole = len(shape) == ndim + 2
    dtype = common_dtype(("grad_output", "weight"), dy, w)
    call = _convolution(
        ndim, (shape if whole else (1, *shape), w.shape), dtype, (stride, padding, dilation, groups), layout,
        algorithm, ("input_size", "weight"))  # fmt: skip
    of_size("grad_output", dy, call.geometry.output_size, "input_size")
    dx = call.backward_input(f"conv{ndim}d-backward-input", whole_channels("grad_output", dy, last), w)
    return dx if whole else dx[0]


def conv_nd_backward_weight(
    ndim: int, grad_output: Lazy, input: Lazy, weight_size: Any, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1, *, layout: Any = None, algorithm: str = "auto",
) -> Lazy:  # fmt: skip
    """The gradient of a convolution by its filters, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    grad_output, input : dask.array.Array
        Chunked along batch and space, each in its own way; filters and channels in one chunk.
    weight_size : tuple of int
    stride, padding, dilation, groups, layout, algorithm
        As in `fastconv.{name}`.

    Returns
    -------
    dask.array.Array
        One chunk, the sum of what the chunks of ``grad_output`` add, as a tree in a fixed order.
    """
    last = layout_is_channels_last(layout, ndim)
    shape = size("weight_size", weight_size, (ndim + 2,))
    dy, x = (
        batched(lazy_array(name, value, ndim), ndim)
        for name, value in (("grad_output", grad_output), ("input", input))
    )
    dtype = common_dtype(("grad_output", "input"), dy, x)
    call = _convolution(
        ndim,
        (x.shape, shape),
        dtype,
        (stride, padding, dilation, groups),
        layout,
        algorithm,
        ("input", "weight_size"),
    )
    of_size("grad_output", dy, call.geometry.output_size, "input")
    whole = (whole_channels(name, one, last) for name, one in (("grad_output", dy), ("input", x)))
    return call.backward_weight(f"conv{ndim}d-backward-weight", *whole)


def _transposed(
    ndim: int, input_size: Size, weight_size: Size, dtype: Any, steps: tuple[Any, ...], output_padding: Any,
    layout: Any, algorithm: str,
) -> Convolution:  # fmt: skip
    """The convolution that a transposed one is the gradient of: its input is the other's output."""
    last = layout_is_channels_last(layout, ndim)
    padding = extents("output_padding", output_padding, ndim, 0)
    plan = conv_transpose_plan(
        ndim, input_size, weight_size, steps, padding, dtype, last, algorithm, None, None
    )
    return Convolution(plan._geometry, algorithm)


def conv_transpose_nd(
    ndim: int, input: Lazy, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1, *, layout: Any = None,
    algorithm: str = "auto",
) -> Lazy:  # fmt: skip
    """Transposed convolution chunk by chunk, as `fastconv.{name}` computes it in memory.

    Parameters
    ----------
    input : dask.array.Array
        Chunked along batch and space; the channels in one chunk.
    weight, bias : array or dask.array.Array
    stride, padding, output_padding, groups, dilation, layout, algorithm
        As in `fastconv.{name}`.

    Returns
    -------
    dask.array.Array
    """
    last = layout_is_channels_last(layout, ndim)
    lazy = lazy_array("input", input, ndim)
    x, w = batched(lazy, ndim), constant("weight", weight)
    b = None if bias is None else constant("bias", bias)
    dtype = common_dtype(("input", "weight", "bias"), x, w, *(() if b is None else (b,)))
    steps = stride, padding, dilation, groups
    call = _transposed(ndim, x.shape, w.shape, dtype, steps, output_padding, layout, algorithm)
    if b is not None:
        of_size("bias", b, (call.geometry.channels,), "weight")
    y = call.backward_input(f"conv-transpose{ndim}d", whole_channels("input", x, last), w, b)
    return y if x is lazy else y[0]


def conv_transpose_nd_backward_input(
    ndim: int, grad_output: Lazy, weight: Any, input_size: Any, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1, *, layout: Any = None,
    algorithm: str = "auto",
) -> Lazy:  # fmt: skip
    """The gradient of a transposed convolution by its input, chunk by chunk: a convolution.

    Parameters
    ----------
    grad_output : dask.array.Array
    weight : array or dask.array.Array
    input_size : tuple of int
    stride, padding, output_padding, groups, dilation, layout, algorithm
        As in `fastconv.conv_transpose{n}d`.

    Returns
    -------
    dask.array.Array
    """
    last = layout_is_channels_last(layout, ndim)
    dy, w = lazy_array("grad_output", grad_output, ndim), constant("weight", weight)
    shape = size("input_size", input_size, (ndim + 2,))
    steps = stride, padding, dilation, groups
    dtype = common_dtype(("grad_output", "weight"), dy, w)
    call = _transposed(ndim, shape, w.shape, dtype, steps, output_padding, layout, algorithm)
    of_size("grad_output", dy, call.geometry.input_size, "input_size")
    return call.forward(
        f"conv-transpose{ndim}d-backward-input", whole_channels("grad_output", dy, last), w, None
    )


def conv_transpose_nd_backward_weight(
    ndim: int, grad_output: Lazy, input: Lazy, weight_size: Any, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1, *, layout: Any = None,
    algorithm: str = "auto",
) -> Lazy:  # fmt: skip
    """The gradient of a transposed convolution by its filters, summed as a tree in a fixed order.

    Parameters
    ----------
    grad_output, input : dask.array.Array
    weight_size : tuple of int
    stride, padding, output_padding, groups, dilation, layout, algorithm
        As in `fastconv.conv_transpose{n}d`.

    Returns
    -------
    dask.array.Array
        One chunk.
    """
    last = layout_is_channels_last(layout, ndim)
    dy, x = (
        lazy_array(name, value, ndim) for name, value in (("grad_output", grad_output), ("input", input))
    )
    shape = size("weight_size", weight_size, (ndim + 2,))
    steps = stride, padding, dilation, groups
    dtype = common_dtype(("grad_output", "input"), dy, x)
    call = _transposed(ndim, x.shape, shape, dtype, steps, output_padding, layout, algorithm)
    of_size("grad_output", dy, call.geometry.input_size, "input")
    whole = (whole_channels(name, one, last) for name, one in (("input", x), ("grad_output", dy)))
    return call.backward_weight(f"conv-transpose{ndim}d-backward-weight", *whole)
