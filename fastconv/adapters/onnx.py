"""ONNX's reference evaluator (``onnx.reference``) on fastconv: its convolutions and its pooling.

One line puts a model on fastconv; there are three to choose from::

    from fastconv.adapters.onnx import OPS, FastReferenceEvaluator, installed

    ReferenceEvaluator(model, new_ops=OPS)  # the model's own nodes, and the graphs inside them
    FastReferenceEvaluator(model)  # the bodies of the model's functions too
    with installed():  # all evaluators made here, by whatever code
        ...

The operators take what `onnx.reference`'s own take. Arrays of four or more spatial dimensions, and dtypes
that fastconv does not have (bfloat16; integers, but for `MaxPool`), go to the host's own operator.

>>> import numpy as np
>>> from onnx.parser import parse_model
>>> model = parse_model('<ir_version: 8, opset_import: ["": 18]>'
...                     'g (float[1, 1, H, W] x) => (y) { y = MaxPool <kernel_shape = [2, 2]> (x) }')
>>> FastReferenceEvaluator(model).run(None, {"x": np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)})
[array([[[[4., 5.],
         [7., 8.]]]], dtype=float32)]
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any, TypeAlias

import numpy as np

import fastconv
from fastconv.adapters.installation import (
    HostError,
    Installation,
    Replacement,
    host_module,
    require_parameters,
)
from fastconv.arguments import Array, Pairs, Size
from fastconv.geometry import effective

host_module("onnx.reference")  # where it is missing, this says what to install

from onnx.reference import reference_evaluator  # noqa: E402
from onnx.reference.ops import _op_list as host  # noqa: E402

# What the host passes for an attribute of several whole numbers, and what it takes as a result.
Ints: TypeAlias = Sequence[int] | None
Outputs: TypeAlias = tuple[Array, ...]

_CONV: dict[int, Callable[..., Any]] = {1: fastconv.conv1d, 2: fastconv.conv2d, 3: fastconv.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Any]] = {
    1: fastconv.conv_transpose1d,
    2: fastconv.conv_transpose2d,
    3: fastconv.conv_transpose3d,
}
_MAX_POOL: dict[int, Callable[..., Any]] = {
    1: fastconv.max_pool1d,
    2: fastconv.max_pool2d,
    3: fastconv.max_pool3d,
}
_AVG_POOL: dict[int, Callable[..., Any]] = {
    1: fastconv.avg_pool1d,
    2: fastconv.avg_pool2d,
    3: fastconv.avg_pool3d,
}


def _is_float(x: Array) -> bool:
    return x.dtype.char in "efd"


# The attributes of a node, each in one form.


def _shared(total: int, auto_pad: str) -> tuple[int, int]:
    """Padding shared out to both ends: the odd cell stands last only in ``SAME_UPPER``."""
    less, more = total // 2, total - total // 2
    return (less, more) if auto_pad == "SAME_UPPER" else (more, less)


def _explicit(pads: Sequence[int] | None, ndim: int) -> Pairs:
    """ONNX's ``[before, before, ..., after, after, ...]`` as a pair for every axis."""
    pads = pads or [0] * (2 * ndim)
    if len(pads) != 2 * ndim:
        raise ValueError(f"pads must be {2 * ndim} numbers for {ndim} spatial dimensions, got {list(pads)}")
    return tuple(zip(pads[:ndim], pads[ndim:], strict=True))


@dataclass(frozen=True)
class _Windows:
    """What a convolution or pooling node reads: one entry of every field for each spatial axis."""

    extent: Size
    kernel: Size
    stride: Size
    dilation: Size
    padding: Pairs
    ceil_mode: bool

    @property
    def ndim(self) -> int:
        return len(self.extent)

    @property
    def no_padding(self) -> Pairs:
        return ((0, 0),) * self.ndim

    @property
    def reach(self) -> Size:
        """Cells from the first to the last tap of a window."""
        return tuple(map(effective, self.kernel, self.dilation))

    @property
    def suit_the_engine(self) -> bool:
        """Whether fastconv's pooling takes the padding: at most half the kernel."""
        return all(max(pair) <= k // 2 for pair, k in zip(self.padding, self.kernel, strict=True))

    @property
    def output(self) -> Size:
        """How many windows there are; in ``ceil_mode`` none that begins in the padding at the end."""
        counts = []
        for n, reach, s, (before, after) in zip(
            self.extent, self.reach, self.stride, self.padding, strict=True
        ):
            room = n + before + after - reach
            count = -(-room // s) + 1 if self.ceil_mode else room // s + 1
            begins_outside = self.ceil_mode and (count - 1) * s >= n + before
            counts.append(count - begins_outside)
        return tuple(counts)

    @property
    def covering(self) -> Pairs:
        """The padding with which floor division gives as many windows: it ends where the last one does."""
        return tuple(
            (before, max((count - 1) * s + reach - n - before, 0))
            for n, reach, s, (before, _), count in zip(
                self.extent, self.reach, self.stride, self.padding, self.output, strict=True
            )
        )

    def divisors(self, count_include_pad: bool) -> Array:
        """How many cells every window averages over, as an array of the output's extents."""
        counts = []
        for n, k, s, d, (before, after), output in zip(
            self.extent, self.kernel, self.stride, self.dilation, self.padding, self.output, strict=True
        ):
            first, stop = (-before, n + after) if count_include_pad else (0, n)
            taps = np.arange(output)[:, np.newaxis] * s - before + np.arange(k) * d  # (output, kernel)
            counts.append(((first <= taps) & (taps < stop)).sum(axis=1))
        return np.asarray(reduce(np.multiply.outer, counts))


def _windows(
    extent: Size,
    kernel: Iterable[int],
    auto_pad: str,
    pads: Sequence[int] | None,
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    ceil_mode: int = 0,
) -> _Windows:
    """A node's attributes in one form; ``auto_pad`` fixes the padding and leaves nothing to ``ceil_mode``."""
    ndim, kernel = len(extent), tuple(kernel)
    stride, dilation = tuple(strides or [1] * ndim), tuple(dilations or [1] * ndim)
    padding = ((0, 0),) * ndim
    if auto_pad == "NOTSET":
        padding = _explicit(pads, ndim)
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        padding = tuple(
            _shared(max((-(-n // s) - 1) * s + effective(k, d) - n, 0), auto_pad)
            for n, k, s, d in zip(extent, kernel, stride, dilation, strict=True)
        )
    elif auto_pad != "VALID":
        raise ValueError(f"auto_pad must be NOTSET, SAME_UPPER, SAME_LOWER or VALID, got {auto_pad!r}")
    return _Windows(extent, kernel, stride, dilation, padding, auto_pad == "NOTSET" and bool(ceil_mode))


def _kernel_of(W: Array, kernel_shape: Sequence[int] | None) -> Size:
    """The kernel's extents, which a node may also say."""
    if kernel_shape is not None and tuple(kernel_shape) != W.shape[2:]:
        raise ValueError(f"kernel_shape must be that of W, {W.shape[2:]}, got {tuple(kernel_shape)}")
    return W.shape[2:]


# Convolution. The operators' arguments are those of the host's, in its order.


class Conv(host.Conv):
    """Convolution: any groups, strides, dilations and padding, in 1 to 3 dimensions."""

    def _run(
        self,
        X: Array,
        W: Array,
        B: Array | None = None,
        auto_pad: str = "NOTSET",
        dilations: Ints = None,
        group: int = 1,
        kernel_shape: Ints = None,
        pads: Ints = None,
        strides: Ints = None,
    ) -> Outputs:
        if X.ndim - 2 not in _CONV or not _is_float(X):
            return super()._run(X, W, B, auto_pad, dilations, group, kernel_shape, pads, strides)
        w = _windows(X.shape[2:], _kernel_of(W, kernel_shape), auto_pad, pads, strides, dilations)
        y = _CONV[w.ndim](X, W, B, w.stride, w.padding, w.dilation, group)
        return (y.astype(X.dtype, copy=False),)


class ConvTranspose(host.ConvTranspose):
    """Transposed convolution, grouped too; ``output_shape`` overrules ``pads``, as ONNX says."""

    def _run(
        self,
        X: Array,
        W: Array,
        B: Array | None = None,
        auto_pad: str = "NOTSET",
        dilations: Ints = None,
        group: int = 1,
        kernel_shape: Ints = None,
        output_padding: Ints = None,
        output_shape: Ints = None,
        pads: Ints = None,
        strides: Ints = None,
    ) -> Outputs:
        if X.ndim - 2 not in _CONV_TRANSPOSE or not _is_float(X):
            if group > 1:
                raise NotImplementedError(
                    f"ConvTranspose of {X.dtype} of shape {X.shape} in {group} groups: fastconv takes "
                    "floats of 1 to 3 spatial dimensions, and onnx's own operator takes one group"
                )
            return super()._run(
                X, W, B, auto_pad, dilations, group, kernel_shape, output_padding, output_shape, pads, strides
            )  # fmt: skip
        extent = X.shape[2:]
        w = _windows(extent, _kernel_of(W, kernel_shape), auto_pad, pads, strides, dilations)
        extra, padding = tuple(output_padding or [0] * w.ndim), w.padding
        if output_shape is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            output_shape = [n * s for n, s in zip(extent, w.stride, strict=True)]
        if output_shape is not None:
            # Cells that the taps reach without padding: what is more than wanted becomes padding.
            reached = [(n - 1) * s + reach for n, s, reach in zip(extent, w.stride, w.reach, strict=True)]
            wanted = output_shape[-w.ndim :]  # the batch and the channels may stand before them
            totals = [max(r + e - n, 0) for r, e, n in zip(reached, extra, wanted, strict=True)]
            padding = tuple(_shared(total, auto_pad) for total in totals)
            extra = tuple(max(e, n - r) for r, e, n in zip(reached, extra, wanted, strict=True))
        y = _CONV_TRANSPOSE[w.ndim](X, W, B, w.stride, padding, extra, group, w.dilation)
        return (y.astype(X.dtype, copy=False),)


class Col2Im(host.Col2Im):
    """Columns added back into an image."""

    def _run(
        self,
        data: Array,
        image_shape: Array,
        block_shape: Array,
        dilations: Ints = None,
        pads: Ints = None,
        strides: Ints = None,
    ) -> Outputs:
        ndim = len(image_shape)
        if ndim > 3 or not _is_float(data):
            return super()._run(data, image_shape, block_shape, dilations, pads, strides)
        kernel, padding = tuple(block_shape.tolist()), _explicit(pads, ndim)
        return (fastconv.col2im(data, image_shape, kernel, dilations or 1, padding, strides or 1),)


# Pooling


def _input_indices(within: Array, w: _Windows, padding: Pairs, storage_order: int) -> Array:
    """ONNX's indices, flat over all images and channels, from those within one padded plane (N, C, ...)."""
    if any(map(any, padding)) or storage_order:
        padded = [n + sum(pair) for n, pair in zip(w.extent, padding, strict=True)]
        cells = [
            cell - before for cell, (before, _) in zip(np.unravel_index(within, padded), padding, strict=True)
        ]
        # In a window of nothing but the padding's own value the first tap wins: take the first one inside.
        cells = [np.where(cell < 0, cell % d, cell) for cell, d in zip(cells, w.dilation, strict=True)]
        within = np.ravel_multi_index(cells, w.extent, order="F" if storage_order else "C")
    planes = np.arange(prod(within.shape[:2])).reshape(*within.shape[:2], *[1] * w.ndim)
    return within + planes * prod(w.extent)


def _lowest(dtype: np.dtype[Any]) -> Any:
    return np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf


class MaxPool(host.MaxPool):
    """Maxima, and where they stood; integers too. The first NaN of a window is its maximum."""

    def _run(
        self,
        x: Array,
        auto_pad: str = "NOTSET",
        ceil_mode: int = 0,
        dilations: Ints = None,
        kernel_shape: Sequence[int] = (),
        pads: Ints = None,
        storage_order: int = 0,
        strides: Ints = None,
    ) -> Outputs:
        if x.ndim - 2 not in _MAX_POOL:
            raise NotImplementedError(f"MaxPool takes 1 to 3 spatial dimensions, got shape {x.shape}")
        if not _is_float(x) and x.dtype.kind not in "iu":
            return super()._run(x, auto_pad, ceil_mode, dilations, kernel_shape, pads, storage_order, strides)
        w = _windows(x.shape[2:], kernel_shape, auto_pad, pads, strides, dilations, ceil_mode)
        wanted = len(self.output) == 2
        if wanted and not w.divisors(count_include_pad=False).all():
            raise ValueError("MaxPool has no index for a window that is all padding")
        around, padding, ceil = w.no_padding, w.padding, w.ceil_mode
        if not w.suit_the_engine:
            around, padding, ceil = w.covering, w.no_padding, False
            x = np.pad(x, ((0, 0), (0, 0), *around), constant_values=_lowest(x.dtype))
        y = _MAX_POOL[w.ndim](x, w.kernel, w.stride, padding, w.dilation, ceil, return_indices=wanted)
        return (y[0], _input_indices(y[1], w, around, storage_order)) if wanted else (y,)


def _window_sums(x: Array, w: _Windows) -> Array:
    """The sum over every window: the convolution of each channel with ones, which takes any padding."""
    channels = x.shape[1]
    ones = np.ones((channels, 1, *w.kernel), x.dtype)
    return _CONV[w.ndim](x, ones, None, w.stride, w.covering, w.dilation, channels)


def _compute(x: Array) -> Array:
    """float16 as float32, whose sums do not overflow."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


class AveragePool(host.AveragePool_19):
    """Averages; a window that overhangs the padding never counts what is beyond it."""

    def _run(
        self,
        x: Array,
        auto_pad: str = "NOTSET",
        ceil_mode: int = 0,
        dilations: Ints = None,
        kernel_shape: Sequence[int] = (),
        pads: Ints = None,
        strides: Ints = None,
        count_include_pad: int = 0,
    ) -> Outputs:
        if x.ndim - 2 not in _AVG_POOL or not _is_float(x):
            return super()._run(
                x, auto_pad, ceil_mode, dilations, kernel_shape, pads, strides, count_include_pad
            )
        w = _windows(x.shape[2:], kernel_shape, auto_pad, pads, strides, dilations, ceil_mode)
        if w.suit_the_engine and max(w.dilation) == 1:
            include = bool(count_include_pad)
            return (_AVG_POOL[w.ndim](x, w.kernel, w.stride, w.padding, w.ceil_mode, include),)
        divisors = w.divisors(bool(count_include_pad))
        with np.errstate(all="ignore"):  # a window of padding alone averages nothing: NaN, as in the host
            y = _window_sums(_compute(x), w) / divisors
        return (y.astype(x.dtype),)


class LpPool(host.LpPool):
    """The p-norm of every window."""

    def _run(
        self,
        x: Array,
        auto_pad: str = "NOTSET",
        ceil_mode: int = 0,
        dilations: Ints = None,
        kernel_shape: Sequence[int] = (),
        p: int = 2,
        pads: Ints = None,
        strides: Ints = None,
        count_include_pad: int = 0,
    ) -> Outputs:
        if x.ndim - 2 not in _CONV or not _is_float(x):
            return super()._run(
                x, auto_pad, ceil_mode, dilations, kernel_shape, p, pads, strides, count_include_pad
            )
        w = _windows(x.shape[2:], kernel_shape, auto_pad, pads, strides, dilations, ceil_mode)
        sums = _window_sums(np.abs(_compute(x)) ** p, w)
        return ((sums ** (1.0 / p)).astype(x.dtype, copy=False),)


def _as_one_axis(x: Array) -> tuple[Array, Size]:
    """All spatial dimensions as one, and the shape of a result that has one cell in each."""
    leading, extent = x.shape[:2], x.shape[2:]
    return x.reshape(*leading, prod(extent)), (*leading, *[1] * len(extent))


class GlobalAveragePool(host.GlobalAveragePool):
    """The average of every plane, in any number of dimensions."""

    def _run(self, x: Array) -> Outputs:
        if not _is_float(x) or 0 in x.shape[2:]:
            return super()._run(x)
        planes, shape = _as_one_axis(x)
        return (fastconv.adaptive_avg_pool1d(planes, 1).reshape(shape),)


class GlobalMaxPool(host.GlobalMaxPool):
    """The maximum of every plane, in any number of dimensions and any dtype."""

    def _run(self, x: Array) -> Outputs:
        planes, shape = _as_one_axis(x)
        # NumPy's: over whole planes of 28x28 it takes a fourteenth of adaptive_max_pool1d's time.
        return (planes.max(axis=2).reshape(shape),)


def _known(op: Any) -> Any:
    """``op``, if the operator that it replaces takes the same inputs and attributes."""
    ours, theirs = op._run, op.__base__._run
    require_parameters(theirs, f"onnx.reference's {op.__name__}", list(inspect.signature(ours).parameters))
    return op


_OPERATORS = (
    _known(Conv),
    _known(ConvTranspose),
    _known(Col2Im),
    _known(MaxPool),
    _known(AveragePool),
    _known(LpPool),
    _known(GlobalAveragePool),
    _known(GlobalMaxPool),
)
# For ``ReferenceEvaluator(model, new_ops=OPS)``: a list, for older hosts append to what they get.
OPS = list(_OPERATORS)


class FastReferenceEvaluator(reference_evaluator.ReferenceEvaluator):
    """`onnx.reference.ReferenceEvaluator` with `OPS`, in the graph, its subgraphs and its functions.

    Parameters
    ----------
    proto, opsets, functions, verbose, **options
        As the host's.
    new_ops : list of OpRun, optional
        These come before `OPS`.
    """

    def __init__(
        self,
        proto: Any,
        opsets: dict[str, int] | None = None,
        functions: list[Any] | None = None,
        verbose: int = 0,
        new_ops: list[type[Any]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(proto, opsets, functions, verbose, [*(new_ops or []), *_OPERATORS], **options)


# For code that makes its own evaluators


def _replacements() -> list[Replacement]:
    """The host's table of operators, ``{name: {opset version or None: class}}``, with `OPS` in it."""
    parameters = ("domain", "op_type", "version", "custom", "node", "input_types", "expand", "evaluator_cls")
    require_parameters(host.load_op, "onnx.reference.ops.load_op", parameters)
    host.load_op("", "Conv")  # the first to be loaded fills the table
    table = getattr(host, "_registered_operators", None)
    if not isinstance(table, dict) or not all(None in table.get(op.__name__, {}) for op in _OPERATORS):
        raise HostError("onnx.reference.ops has no table of operators that fastconv's adapter knows")
    made: list[Replacement] = [(table, op.__name__, {None: op}) for op in _OPERATORS]
    # In older hosts a faster Conv comes before the table.
    if hasattr(reference_evaluator, "optimized_operators"):
        made.append((reference_evaluator, "optimized_operators", [Conv]))
    return made


_installation = Installation(_replacements)
install = _installation.install
uninstall = _installation.uninstall
installed = _installation.installed
