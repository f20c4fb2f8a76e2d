"""Sizes of a convolution: everything about a call that is known before its data.

The arguments of a call are checked here, once, and become an immutable `Geometry`. From here on
there are always three spatial dimensions (missing ones have extent 1 and stand first) and the
channels stand second: a layout is only a way to look at the same array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np

from fastconv.arguments import (
    NAMED_PADDINGS,
    Array,
    Pairs,
    Size,
    addressable,
    extents,
    float_dtype,
    must_be,
    must_be_said,
    one_of,
    padding_pairs,
    size,
    whole_number,
)

# stride, padding, dilation and groups, in any form.
Steps: TypeAlias = tuple[Any, Any, Any, Any]

# The layouts by number of spatial dimensions: channels first, channels last.
LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}

_TO_CHANNELS_FIRST = {3: (0, 2, 1), 4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}
# Where the missing spatial dimensions go: in front of the ones there are.
_EXPAND = {
    3: (slice(None), slice(None), None, None),
    4: (slice(None), slice(None), None),
    5: (slice(None), slice(None)),
}


def layout_is_channels_last(layout: object, ndim: int) -> bool:
    """Check a layout's name for ``ndim`` spatial dimensions; say whether it has the channels last."""
    if layout is LAYOUTS[ndim][0]:
        return False
    name = one_of("layout", layout, LAYOUTS[ndim])
    return LAYOUTS[ndim].index(name) == 1


def channels_first_size(shape: Size, channels_last: bool) -> Size:
    """The shape of the same array with its channels second."""
    return (shape[0], shape[-1], *shape[1:-1]) if channels_last else shape


def layout_size(shape: Size, channels_last: bool) -> Size:
    """The inverse of `channels_first_size`."""
    return (shape[0], *shape[2:], shape[1]) if channels_last else shape


def normal_form(array: Array, channels_last: bool) -> Array:
    """A view with axes (batch, channels, depth, height, width), whatever the layout; never a copy.

    A weight's axes (filters, channels, ...) take the same path.
    """
    if channels_last:
        array = array.transpose(_TO_CHANNELS_FIRST[array.ndim])
    expanded: Array = array[_EXPAND[array.ndim]]
    return expanded


def normal_view(geometry: Geometry) -> Callable[[Array], Array]:
    """What brings a geometry's arrays to `normal_form`, and to the dtype of the arithmetic."""
    expand = _EXPAND[geometry.ndim + 2]
    if geometry.dtype == geometry.compute_dtype and not geometry.channels_last:
        return itemgetter(expand)  # 0.1 us instead of 0.25
    if geometry.dtype == geometry.compute_dtype:
        axes = _TO_CHANNELS_FIRST[geometry.ndim + 2]
        return lambda array: array.transpose(axes)[expand]

    def view(array: Array) -> Array:
        return normal_form(array.astype(geometry.compute_dtype, copy=False), geometry.channels_last)

    return view


def read_only(array: Array) -> Array:
    """A view that can't be written: one Numba type for all inputs, and a promise kept by the compiler."""
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True)
class Geometry:
    """A convolution's sizes; the tuples are (depth, height, width)."""

    ndim: int
    channels_last: bool
    dtype: np.dtype[Any]
    batch: int
    groups: int
    channels: int
    filters: int
    input: tuple[int, int, int]
    kernel: tuple[int, int, int]
    output: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]  # the cells before; those after follow from the output's extents
    dilation: tuple[int, int, int]

    @cached_property
    def compute_dtype(self) -> np.dtype[Any]:
        """What the arithmetic is done in: float16 is computed in float32."""
        return np.dtype(np.float32) if self.dtype == np.float16 else self.dtype

    @cached_property
    def twin(self) -> Geometry:
        """The same convolution of images in the other layout."""
        return replace(self, channels_last=not self.channels_last)

    @cached_property
    def one_plane(self) -> bool:
        """Whether the depth has one cell, in which the kernel begins and ends."""
        return self.input[0] == self.output[0] == self.kernel[0] == 1 and self.padding[0] == 0

    @cached_property
    def channelwise(self) -> bool:
        """Whether a pass reads and writes the same channels, the last axis: depthwise layers."""
        return self.channels_last and self.channels == self.filters == self.groups

    @cached_property
    def pixels(self) -> int:
        """Output cells of one image and filter."""
        return prod(self.output)

    @cached_property
    def taps(self) -> int:
        """Cells that one output cell sums over: channels of one group times the kernel's cells."""
        return self.channels // self.groups * prod(self.kernel)

    @cached_property
    def is_empty(self) -> bool:
        """Whether there is nothing to multiply: all passes give zeros, and the forward one the bias."""
        return 0 in (self.batch, self.channels, self.filters, *self.input, *self.output)

    @cached_property
    def multiplications(self) -> int:
        """Multiply-adds of one pass, those with padding included."""
        return self.batch * self.filters * self.taps * self.pixels

    def _size(self, *shape: int) -> Size:
        leading, spatial = shape[:2], shape[2:][3 - self.ndim :]
        return layout_size((*leading, *spatial), self.channels_last)

    @property
    def input_size(self) -> Size:
        """The shape of the input array in its own layout, batch included."""
        return self._size(self.batch, self.channels, *self.input)

    @property
    def weight_size(self) -> Size:
        """The shape of the weight array in its own layout."""
        return self._size(self.filters, self.channels // self.groups, *self.kernel)

    @property
    def output_size(self) -> Size:
        """The shape of the output array in its own layout, batch included."""
        return self._size(self.batch, self.filters, *self.output)

    def to_json(self) -> dict[str, Any]:
        """As plain types, in the words of the public arguments.

        Transposed convolutions may end before or after what a padding on both sides gives: the output's
        extents say where.
        """
        n = self.ndim
        return {
            "layout": LAYOUTS[n][self.channels_last],
            "dtype": str(self.dtype),
            "input_size": list(self.input_size),
            "weight_size": list(self.weight_size),
            "output_size": list(self.output_size),
            "stride": list(self.stride[-n:]),
            "padding_before": list(self.padding[-n:]),
            "dilation": list(self.dilation[-n:]),
            "groups": self.groups,
        }

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Geometry:
        """The inverse of `to_json`.

        Raises
        ------
        KeyError
            If something is missing.
        TypeError, ValueError
            If something is wrong; the message names it.
        """
        layout = one_of("layout", row["layout"], [name for names in LAYOUTS.values() for name in names])
        ndim = len(layout) - 2
        channels_last = layout_is_channels_last(layout, ndim)
        input_size, weight_size, dtype = plan_sizes(ndim, row["input_size"], row["weight_size"], row["dtype"])
        output_size = size("output_size", row["output_size"], (ndim + 2,))
        stride = extents("stride", row["stride"], ndim, 1)
        before = extents("padding_before", row["padding_before"], ndim, 0)
        dilation = extents("dilation", row["dilation"], ndim, 1)
        groups = whole_number("groups", row["groups"], 1)
        batch, _, *extent = channels_first_size(input_size, channels_last)
        filters, _, *kernel = channels_first_size(weight_size, channels_last)
        output = channels_first_size(output_size, channels_last)
        # As many cells after the input as the last output cell reads.
        reach = [
            (cells - 1) * s + effective(k, d)
            for cells, s, k, d in zip(output[2:], stride, kernel, dilation, strict=True)
        ]
        padding = tuple((p, max(cells - n - p, 0)) for cells, n, p in zip(reach, extent, before, strict=True))
        names = "input_size", "weight_size"
        geometry = conv_geometry(
            ndim, input_size, weight_size, stride, padding, dilation, groups, dtype, channels_last, names
        )
        if output[:2] != (batch, filters):
            must_be_said(
                ValueError, "output_size", f"of {batch} images and {filters} filters", f"shape {output_size}"
            )
        return replace(geometry, output=_three(output[2:], 1))


def effective(kernel: int, dilation: int) -> int:
    """Cells from the first to the last tap of a dilated kernel, both included."""
    return dilation * (kernel - 1) + 1


def resolved_padding(padding: str | Pairs, extent: Size, kernel: Size, stride: Size, dilation: Size) -> Pairs:
    """A named padding as pairs, for an input of the given extents.

    "same" gives ``ceil(extent / stride)`` output cells with the odd extra cell at the end
    (TensorFlow's rule, ONNX's SAME_UPPER); "full" gives every position where kernel and input touch.
    """
    if not isinstance(padding, str):
        return padding
    if padding == "valid":
        return ((0, 0),) * len(extent)
    reach = [effective(k, d) for k, d in zip(kernel, dilation, strict=True)]
    if padding == "full":
        return tuple((e - 1, e - 1) for e in reach)
    totals = [max((-(-n // s) - 1) * s + e - n, 0) for n, e, s in zip(extent, reach, stride, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def _padded_output(
    name: str, extent: Size, kernel: Size, stride: Size, padding: Pairs, dilation: Size
) -> Size:
    """Output extents: floor((extent + before + after - effective kernel) / stride) + 1, which may be 0."""
    output = []
    for n, k, s, (before, after), d in zip(extent, kernel, stride, padding, dilation, strict=True):
        cells = (n + before + after - effective(k, d)) // s + 1
        if cells < 0:
            must_be_said(
                ValueError,
                name,
                f"at least as large as the dilated kernel {tuple(map(effective, kernel, dilation))}",
                f"extents {extent} with padding {padding}",
            )
        output.append(cells)
    return tuple(output)


def _three(values: Size, filler: int) -> tuple[int, int, int]:
    padded = (filler,) * (3 - len(values)) + values
    return padded[0], padded[1], padded[2]


def _some_taps(name: str, weight_size: Size, channels_last: bool) -> None:
    if min(channels_first_size(weight_size, channels_last)[2:]) < 1:
        must_be_said(ValueError, name, "of at least 1 in every extent of the kernel", f"shape {weight_size}")


def _grouped(
    names: tuple[str, str], channels: int, weight_size: Size, groups: int, channels_last: bool
) -> None:
    """Refuse channels and filters that ``groups`` does not divide, or that do not fit each other."""
    input_name, weight_name = names
    filters, group_channels = channels_first_size(weight_size, channels_last)[:2]
    if channels % groups:
        must_be_said(
            ValueError, input_name, f"of channels divisible by groups={groups}", f"{channels} channels"
        )
    if group_channels * groups != channels:
        must_be_said(
            ValueError,
            weight_name,
            f"of channels {channels // groups} (input channels {channels} / groups {groups})",
            f"{group_channels} in shape {weight_size}",
        )
    if filters % groups:
        must_be_said(
            ValueError, weight_name, f"of filters divisible by groups={groups}", f"{filters} filters"
        )


def canonical_steps(
    stride: object, padding: object, dilation: object, groups: object, ndim: int
) -> tuple[Size, str | Pairs, Size, int]:
    """The step arguments, checked, in one form each."""
    return (
        extents("stride", stride, ndim, 1),
        padding_pairs(padding, ndim),
        extents("dilation", dilation, ndim, 1),
        whole_number("groups", groups, 1),
    )


def steps_key(steps: Steps, ndim: int) -> Steps:
    """The step arguments as the key of a cache: as they came where that is possible, else in canonical form.

    Canonical forms take 2.3 us. As keys, 1, 1.0 and True are equal, but only one of them is a number here;
    and "SAME" is another key than "same", but the same padding.
    """
    for step in steps:
        kind = type(step)
        if kind is tuple:
            as_it_came = all([type(v) is int for v in step])
        else:
            as_it_came = kind is int or (kind is str and step in NAMED_PADDINGS)
        if not as_it_came:
            return canonical_steps(*steps, ndim)
    return steps


def conv_geometry(
    ndim: int,
    input_size: Size,
    weight_size: Size,
    stride: Size,
    padding: str | Pairs,
    dilation: Size,
    groups: int,
    dtype: np.dtype[Any],
    channels_last: bool,
    names: tuple[str, str] = ("input", "weight"),
) -> Geometry:
    """The geometry of ``conv{ndim}d`` on arrays of these sizes (in their own layout, batch included)."""
    batch, channels, *extent = channels_first_size(input_size, channels_last)
    filters, _, *kernel = channels_first_size(weight_size, channels_last)
    _some_taps(names[1], weight_size, channels_last)
    _grouped(names, channels, weight_size, groups, channels_last)
    pairs = resolved_padding(padding, tuple(extent), tuple(kernel), stride, dilation)
    output = _padded_output(names[0], tuple(extent), tuple(kernel), stride, pairs, dilation)
    addressable(names[0], input_size, 8)
    addressable(names[1], weight_size, 8)
    addressable("the output", (batch, filters, *output), 8)
    return Geometry(
        ndim=ndim,
        channels_last=channels_last,
        dtype=dtype,
        batch=batch,
        groups=groups,
        channels=channels,
        filters=filters,
        input=_three(tuple(extent), 1),
        kernel=_three(tuple(kernel), 1),
        output=_three(output, 1),
        stride=_three(stride, 1),
        padding=_three(tuple(before for before, _ in pairs), 0),
        dilation=_three(dilation, 1),
    )


def conv_transpose_geometry(
    ndim: int,
    input_size: Size,
    weight_size: Size,
    stride: Size,
    padding: str | Pairs,
    output_padding: Size,
    dilation: Size,
    groups: int,
    dtype: np.dtype[Any],
    channels_last: bool,
) -> Geometry:
    """The geometry of the convolution whose backward-input pass is this transposed convolution.

    Its input is the transposed convolution's output and the other way round. "same" gives an output
    of ``extent * stride``: the adjoint of the "same" convolution of an image of that size.
    """
    batch, filters, *small = channels_first_size(input_size, channels_last)
    _some_taps("weight", weight_size, channels_last)
    if filters % groups:
        must_be_said(ValueError, "input", f"of channels divisible by groups={groups}", f"{filters} channels")
    if weight_size[0] != filters:
        expected = f"of first extent {filters} (the input's channels)"
        must_be_said(ValueError, "weight", expected, f"shape {weight_size}")
    _, group_channels, *taps = channels_first_size(weight_size, channels_last)
    kernel, channels = tuple(taps), group_channels * groups
    if padding == "same":
        if any(output_padding):
            must_be(ValueError, "output_padding", "0 where padding is 'same'", output_padding)
        extent = tuple(n * s for n, s in zip(small, stride, strict=True))
        pairs = resolved_padding("same", extent, kernel, stride, dilation)
    else:
        pairs = resolved_padding(padding, tuple(small), kernel, stride, dilation)
        for extra, s, d in zip(output_padding, stride, dilation, strict=True):
            if extra >= max(s, d):
                expected = f"less than the larger of stride {stride} and dilation {dilation}"
                must_be(ValueError, "output_padding", expected, output_padding)
        extent = tuple(
            (n - 1) * s - sum(pair) + effective(k, d) + extra
            for n, k, s, pair, d, extra in zip(
                small, kernel, stride, pairs, dilation, output_padding, strict=True
            )
        )
    if min(extent) < 0:
        expected = "no more than there is to cut off"
        must_be_said(ValueError, "padding", expected, f"{padding!r}, which leaves extents {extent}")
    addressable("input", input_size, 8)
    addressable("weight", weight_size, 8)
    addressable("the output", (batch, channels, *extent), 8)
    return Geometry(
        ndim=ndim,
        channels_last=channels_last,
        dtype=dtype,
        batch=batch,
        groups=groups,
        channels=channels,
        filters=filters,
        input=_three(extent, 1),
        kernel=_three(kernel, 1),
        output=_three(tuple(small), 1),
        stride=_three(stride, 1),
        padding=_three(tuple(before for before, _ in pairs), 0),
        dilation=_three(dilation, 1),
    )


def plan_sizes(ndim: int, input_size: object, weight_size: object, dtype: object) -> tuple[Size, Size, Any]:
    """The arguments that only a plan has: two whole sizes and a dtype."""
    return (
        size("input_size", input_size, (ndim + 2,)),
        size("weight_size", weight_size, (ndim + 2,)),
        float_dtype("dtype", dtype),
    )
