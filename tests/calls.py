"""Every public function as a valid call, with its arguments by name, and what the plain loops say it returns.

`CALLS[name]` is a strategy of arguments, `EXPECTED[name]` their oracle, where `name` is that of the function
with `{}` for its dimensions. The oracle takes arguments in any form that the library accepts.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import oracles
from helpers import FIRST, LAST, function, integers, is_last, layout_shape, to_layout
from hypothesis import strategies as st
from strategies import conv_problems, pool_problems, spread, transpose_problems

import fastconv

DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "output_padding": 0, "ceil_mode": False}


# --- arguments in any accepted form as the oracles take them ----------------------------------------------


def items(value):
    """The items of a sequence or an array; None of a single number."""
    try:
        return list(value)
    except TypeError:
        return None


def whole(value):
    """An int of a whole number; no argument takes True for 1."""
    assert not isinstance(value, bool | np.bool_)
    return operator.index(value)


def ints(value, ndim):
    """An int for every axis."""
    values = items(value)
    return (whole(value),) * ndim if values is None else tuple(map(whole, values))


class Reading:
    """The arguments of one call: numbers as tuples, images in float64, batched, their channels second."""

    def __init__(self, ndim, arguments):
        self.ndim = ndim
        self.arguments = {**DEFAULTS, **arguments}
        self.last = is_last(arguments.get("layout", FIRST[ndim]))
        self.batched = True

    def __getitem__(self, name):
        return self.arguments.get(name)

    def array(self, name, dtype=np.float64):
        """An array argument, in its own dtype for None; None where it is not there."""
        value = self[name]
        assert not isinstance(value, np.ma.MaskedArray)
        if value is None or dtype is None:
            return None if value is None else np.asarray(value)
        return np.asarray(value).astype(dtype)

    def weight(self):
        return self._channels_second(self.array("weight"))

    def images(self, name, dtype=np.float64):
        """An array of images."""
        array = self.array(name, dtype)
        self.batched = array.ndim == self.ndim + 2
        return self._channels_second(array if self.batched else array[np.newaxis])

    def indices(self):
        """Flat indices, -1 where a window had no cell."""
        indices = self.images("indices", np.int64)
        assert indices.min(initial=0) >= -1
        return indices

    def size(self, name, batched=None):
        """A size as (N, C, *extents); weights' sizes always have their first axis."""
        shape = tuple(map(whole, self[name]))
        if batched is None:
            self.batched = batched = len(shape) == self.ndim + 2
        shape = shape if batched else (1, *shape)
        return (shape[0], shape[-1], *shape[1:-1]) if self.last else shape

    def _channels_second(self, array):
        return np.moveaxis(array, -1, 1) if self.last else array

    def per_axis(self, name):
        return ints(self[name], self.ndim)

    def padding(self):
        value = self["padding"]
        if isinstance(value, str):
            return value.lower()
        pads = items(value) or [value] * self.ndim
        if len(pads) == 2 * self.ndim:
            return tuple(zip(map(whole, pads[::2]), map(whole, pads[1::2]), strict=True))
        return tuple(whole(pad) if items(pad) is None else ints(pad, 2) for pad in pads)

    def steps(self, extents, kernel):
        """`(stride, pairs, dilation)` over an input of these extents."""
        stride = kernel if self["stride"] is None else self.per_axis("stride")
        dilation = self.per_axis("dilation")
        return stride, oracles.resolve_padding(self.padding(), extents, kernel, stride, dilation), dilation

    def shape(self, shape):
        """(N, C, *extents) as the caller writes it."""
        shape = (shape[0], *shape[2:], shape[1]) if self.last else tuple(shape)
        return shape if self.batched else shape[1:]

    def back(self, array):
        """A channels-first batch as the caller gets it."""
        array = np.moveaxis(array, 1, -1) if self.last else array
        return array if self.batched else array[0]


@dataclass
class Expected:
    """Shapes (None for a result not asked for) and dtypes, how long the loops take, and the loops."""

    shapes: list
    dtypes: list
    work: int
    values: Callable[[], list]
    fits: bool = True  # whether the sizes among the arguments fit the arrays


def one(shape, dtype, work, value, fits=True):
    return Expected([shape], [dtype], work, lambda: [value()], fits)


def made_by(r, dy, size, kernel):
    """Whether a convolution of an input of this size has an output with the extents of ``dy``."""
    return oracles.output_extents(size[2:], kernel, *r.steps(size[2:], kernel)) == dy.shape[2:]


# --- what each function returns ---------------------------------------------------------------------------


def promoted(r, *names):
    return np.result_type(
        *[np.asarray(r[name]).dtype.newbyteorder("=") for name in names if r[name] is not None]
    )


def with_bias(y, bias):
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.ndim - 2))


def expected_conv(r):
    x, w, bias, groups = r.images("input"), r.weight(), r.array("bias"), whole(r["groups"])
    steps = r.steps(x.shape[2:], w.shape[2:])
    outputs = oracles.output_extents(x.shape[2:], w.shape[2:], *steps)
    shape, work = r.shape((len(x), len(w), *outputs)), math.prod(outputs) * math.prod(w.shape[2:])

    def value():
        return r.back(with_bias(oracles.ref_conv(x, w, *steps, groups), bias))

    return one(shape, promoted(r, "input", "weight", "bias"), work, value)


def expected_conv_backward(r):
    dy, x, w, groups = r.images("grad_output"), r.images("input"), r.weight(), whole(r["groups"])
    steps = r.steps(x.shape[2:], w.shape[2:])

    def values():
        dx = oracles.ref_conv_backward_input(dy, w, x.shape[2:], *steps, groups)
        dw = oracles.ref_conv_backward_weight(dy, x, w.shape[2:], *steps, groups)
        return [r.back(dx), weight_back(r, dw), oracles.ref_bias_gradient(dy)]

    return gradients(r, dy, w, values)


def weight_back(r, dw):
    return np.moveaxis(dw, 1, -1) if r.last else dw


def gradients(r, dy, w, values):
    """The three gradients, of those that are needed."""
    dtype = promoted(r, "grad_output", "input", "weight")
    needs = r["needs"] or ("input", "weight", "bias") if r["needs"] is None else tuple(r["needs"])
    shapes = [np.shape(r["input"]), np.shape(r["weight"]), (dy.shape[1],)]
    shapes = [
        s if name in needs else None for s, name in zip(shapes, fastconv.ConvGrads._fields, strict=True)
    ]
    return Expected(shapes, [dtype] * 3, math.prod(dy.shape[2:]) * math.prod(w.shape[2:]), values)


def expected_conv_backward_input(r):
    size, w, groups = r.size("input_size"), r.weight(), whole(r["groups"])
    dy = r.images("grad_output")
    steps = r.steps(size[2:], w.shape[2:])

    def value():
        return r.back(oracles.ref_conv_backward_input(dy, w, size[2:], *steps, groups))

    work = math.prod(dy.shape[2:]) * math.prod(w.shape[2:])
    fits = made_by(r, dy, size, w.shape[2:])
    return one(tuple(r["input_size"]), promoted(r, "grad_output", "weight"), work, value, fits)


def expected_conv_backward_weight(r):
    dy, x, groups = r.images("grad_output"), r.images("input"), whole(r["groups"])
    kernel = r.size("weight_size", batched=True)[2:]
    steps = r.steps(x.shape[2:], kernel)

    def value():
        return weight_back(r, oracles.ref_conv_backward_weight(dy, x, kernel, *steps, groups))

    work = math.prod(dy.shape[2:]) * math.prod(kernel)
    fits = made_by(r, dy, x.shape, kernel)
    return one(tuple(r["weight_size"]), promoted(r, "grad_output", "input"), work, value, fits)


def transposed_steps(r, extents, kernel):
    """`(stride, padding, output_padding, dilation)` as the oracles of the transpose take them."""
    padding = r.padding()
    extra = r.per_axis("output_padding")
    return r.per_axis("stride"), padding, extra, r.per_axis("dilation")


def expected_conv_transpose(r):
    x, w, bias, groups = r.images("input"), r.weight(), r.array("bias"), whole(r["groups"])
    steps = transposed_steps(r, x.shape[2:], w.shape[2:])
    _, outputs = oracles.transpose_geometry(x.shape[2:], w.shape[2:], *steps)
    shape = r.shape((len(x), w.shape[1] * groups, *outputs))

    def value():
        return r.back(with_bias(oracles.ref_conv_transpose(x, w, *steps, groups), bias))

    work = math.prod(x.shape[2:]) * math.prod(w.shape[2:])
    return one(shape, promoted(r, "input", "weight", "bias"), work, value)


def expected_conv_transpose_backward(r):
    dy, x, w, groups = r.images("grad_output"), r.images("input"), r.weight(), whole(r["groups"])
    steps = transposed_steps(r, x.shape[2:], w.shape[2:])

    def values():
        dx, dw, db = oracles.ref_conv_transpose_backward(dy, x, w, *steps, groups)
        return [r.back(dx), weight_back(r, dw), db]

    return gradients(r, dy, w, values)


def kernel_of(r):
    """The kernel's extents, which also say how many dimensions there are."""
    kernel = items(r["kernel_size"])
    r.ndim = 2 if kernel is None else len(kernel)
    return r.per_axis("kernel_size")


def expected_im2col(r):
    kernel = kernel_of(r)
    x = r.images("input")
    stride, pairs, dilation = r.steps(x.shape[2:], kernel)
    outputs = oracles.output_extents(x.shape[2:], kernel, stride, pairs, dilation)
    shape = (len(x), x.shape[1] * math.prod(kernel), math.prod(outputs))

    def value():
        return r.back(oracles.ref_im2col(x, kernel, dilation, pairs, stride))

    return one(shape if r.batched else shape[1:], promoted(r, "input"), math.prod(shape[1:]), value)


def expected_col2im(r):
    kernel = kernel_of(r)
    columns, extents = r.array("columns"), r.per_axis("output_size")
    r.batched = columns.ndim == 3
    columns = columns if r.batched else columns[np.newaxis]
    stride, pairs, dilation = r.steps(extents, kernel)
    shape = r.shape((len(columns), columns.shape[1] // math.prod(kernel), *extents))

    def value():
        return r.back(oracles.ref_col2im(columns, extents, kernel, dilation, pairs, stride))

    fits = math.prod(oracles.output_extents(extents, kernel, stride, pairs, dilation)) == columns.shape[2]
    return one(shape, promoted(r, "columns"), math.prod(columns.shape[1:]), value, fits)


def expected_conv_matrix(r):
    w, groups = r.array("weight"), whole(r["groups"])
    r.ndim = w.ndim - 2
    image = tuple(map(whole, r["input_size"]))[-r.ndim - 1 :]
    steps = r.steps(image[1:], w.shape[2:])
    outputs = oracles.output_extents(image[1:], w.shape[2:], *steps)
    shape = (len(w) * math.prod(outputs), math.prod(image))

    def value():
        cells = np.eye(shape[1]).reshape(-1, *image)
        return oracles.ref_conv(cells, w, *steps, groups).reshape(shape[1], shape[0]).T

    dtype = np.promote_types(promoted(r, "weight"), np.float32)
    return one(shape, dtype, math.prod(shape) * math.prod(w.shape[2:]), value)


def windows(r, extents):
    """`(kernel, stride, pairs, dilation)` and the outputs' extents of a pooling."""
    kernel = r.per_axis("kernel_size")
    stride, pairs, dilation = r.steps(extents, kernel)
    outputs = oracles.output_extents(extents, kernel, stride, pairs, dilation, bool(r["ceil_mode"]))
    return (kernel, stride, pairs, dilation), outputs


def maxima(r, shape, work, values):
    """What max-pooling returns: the values, and with them, if wanted, the indices."""
    dtype = promoted(r, "input")
    if r["return_indices"]:
        return Expected([shape] * 2, [dtype, np.dtype(np.int64)], work, lambda: [r.back(v) for v in values()])
    return one(shape, dtype, work, lambda: r.back(values()[0]))


def expected_max_pool(r):
    x = r.images("input", None)
    steps, outputs = windows(r, x.shape[2:])
    shape, cells = r.shape((*x.shape[:2], *outputs)), math.prod(x.shape[:2]) * math.prod(outputs)

    def values():
        return without_cells(*oracles.ref_max_pool(x, *steps, bool(r["ceil_mode"])))

    return maxima(r, shape, cells * math.prod(steps[0]), values)


def without_cells(values, indices):
    """A window that is all padding has no maximum."""
    return (np.where(indices < 0, -np.inf, values), indices) if (indices < 0).any() else (values, indices)


def expected_max_pool_backward(r):
    size, indices = r.size("input_size"), r.indices()
    dy = r.images("grad_output")

    def value():
        inside = np.where(indices < 0, 0, dy)
        return r.back(oracles.ref_max_pool_backward(inside, np.maximum(indices, 0), size[2:]))

    fits = dy.shape[:2] == size[:2]
    return one(tuple(r["input_size"]), promoted(r, "grad_output"), dy.size, value, fits)


def expected_max_pool_backward_ties(r):
    x, dy = r.images("input", None), r.images("grad_output")
    steps, outputs = windows(r, x.shape[2:])
    fits = dy.shape == (*x.shape[:2], *outputs)
    return one(
        r["input"].shape,
        promoted(r, "grad_output"),
        dy.size * math.prod(steps[0]),
        lambda: r.back(oracles.ref_max_pool_backward_ties(dy, x, *steps)),
        fits,
    )


def expected_max_unpool(r):
    indices, x = r.indices(), r.images("input", None)
    kernel = r.per_axis("kernel_size")
    stride = kernel if r["stride"] is None else r.per_axis("stride")
    extents = tuple(
        (n - 1) * s - 2 * p + k
        for n, s, p, k in zip(x.shape[2:], stride, r.per_axis("padding"), kernel, strict=True)
    )
    if r["output_size"] is not None:
        extents = tuple(map(whole, r["output_size"]))[-r.ndim :]

    def value():
        return r.back(unpooled(x, indices, extents))

    return one(r.shape((*x.shape[:2], *extents)), promoted(r, "input"), x.size, value)


def unpooled(x, indices, extents):
    """`ref_max_unpool` without the windows that had no cell."""
    y = np.zeros((*x.shape[:2], math.prod(extents)), x.dtype)
    for n, c, *cell in np.ndindex(*x.shape):
        if indices[(n, c, *cell)] >= 0:
            y[n, c, indices[(n, c, *cell)]] = x[(n, c, *cell)]
    return y.reshape(*x.shape[:2], *extents)


def expected_max_unpool_backward(r):
    dy, indices = r.images("grad_output"), r.indices()

    def value():
        taken = oracles.ref_max_unpool_backward(dy, np.maximum(indices, 0))
        return r.back(np.where(indices < 0, 0, taken))

    return one(np.shape(r["indices"]), promoted(r, "grad_output"), indices.size, value)


def averaging(r):
    return {
        "count_include_pad": r["count_include_pad"] is None or bool(r["count_include_pad"]),
        "divisor_override": None if r["divisor_override"] is None else whole(r["divisor_override"]),
    }


def expected_avg_pool(r):
    x = r.images("input")
    (kernel, stride, pairs, _), outputs = windows(r, x.shape[2:])

    def value():
        return r.back(oracles.ref_avg_pool(x, kernel, stride, pairs, bool(r["ceil_mode"]), **averaging(r)))

    shape = r.shape((*x.shape[:2], *outputs))
    return one(shape, promoted(r, "input"), math.prod(outputs) * math.prod(kernel), value)


def expected_avg_pool_backward(r):
    size, dy = r.size("input_size"), r.images("grad_output")
    (kernel, stride, pairs, _), outputs = windows(r, size[2:])

    def value():
        return r.back(oracles.ref_avg_pool_backward(dy, size[2:], kernel, stride, pairs, **averaging(r)))

    work = math.prod(outputs) * math.prod(kernel)
    fits = dy.shape == (*size[:2], *outputs)
    return one(tuple(r["input_size"]), promoted(r, "grad_output"), work, value, fits)


def adaptive_outputs(r, extents):
    asked = items(r["output_size"]) or [r["output_size"]] * r.ndim
    return tuple(e if n is None else whole(n) for n, e in zip(asked, extents, strict=True))


def expected_adaptive_avg_pool(r):
    x = r.images("input")
    outputs = adaptive_outputs(r, x.shape[2:])
    shape = (*x.shape[:2], *outputs)
    return one(
        r.shape(shape),
        promoted(r, "input"),
        math.prod(shape) * 8,
        lambda: r.back(oracles.ref_adaptive_avg_pool(x, outputs)),
    )


def expected_adaptive_avg_pool_backward(r):
    size, dy = r.size("input_size"), r.images("grad_output")
    return one(
        tuple(r["input_size"]),
        promoted(r, "grad_output"),
        dy.size * 8 + math.prod(size),
        lambda: r.back(oracles.ref_adaptive_avg_pool_backward(dy, size[2:])),
        dy.shape[:2] == size[:2],
    )


def expected_adaptive_max_pool(r):
    x = r.images("input", None)
    shape = (*x.shape[:2], *adaptive_outputs(r, x.shape[2:]))
    return maxima(
        r, r.shape(shape), math.prod(shape) * 8, lambda: oracles.ref_adaptive_max_pool(x, shape[2:])
    )


# --- valid calls ------------------------------------------------------------------------------------------


def laid(p, array):
    """A channels-first array in the problem's layout and clothes."""
    return p.dressed(to_layout(array, p.layout))


@st.composite
def unbatched(draw, arguments, names, sizes=()):
    """The arguments, sometimes of one image without a batch."""
    if all(len(arguments[name]) == 1 for name in names) and draw(st.booleans()):
        arguments = arguments | {name: arguments[name][0] for name in names}
        arguments |= {name: arguments[name][1:] for name in sizes}
    return arguments


algorithms = st.sampled_from(["auto", "auto", "auto", "im2col"])


@st.composite
def conv_calls(draw, *names, problems=conv_problems):
    """A convolution's arguments: the arrays and sizes of these names, and the steps."""
    p = draw(problems())
    arrays = {
        "input": laid(p, p.x),
        "weight": laid(p, p.w),
        "grad_output": laid(p, p.dy),
        "bias": p.bias,
        "input_size": layout_shape(p.x.shape, p.layout),
        "weight_size": layout_shape(p.w.shape, p.layout),
    }
    arguments = {name: arrays[name] for name in names} | p.arguments | {"algorithm": draw(algorithms)}
    batches = [name for name in ("input", "grad_output") if name in names]
    with_size = [name for name in ("input_size",) if name in names]
    if len(p.x) == 1:
        arguments = draw(unbatched(arguments, batches, with_size))
    return p.ndim, arguments


@st.composite
def plan_calls(draw, *names):
    """The arguments of a plan, and the arrays of one of its passes."""
    p = draw(conv_problems())
    arrays = {"input": laid(p, p.x), "weight": laid(p, p.w), "grad_output": laid(p, p.dy), "bias": p.bias}
    return p.ndim, {
        "input_size": layout_shape(p.x.shape, p.layout),
        "weight_size": layout_shape(p.w.shape, p.layout),
        "dtype": p.x.dtype,
        "algorithm": draw(algorithms),
        **p.arguments,
        **{name: arrays[name] for name in names},
    }


def looked_at(plan):
    """The plan; all that it says of itself can be asked for."""
    assert plan.flops >= 0
    assert plan.scratch_bytes >= 0
    assert plan.describe().splitlines()[0] in repr(plan)
    assert set(plan.algorithms) <= {"forward", "backward_input", "backward_weight"}
    return plan


def plan_forward(ndim, input_size, weight_size, input=None, weight=None, bias=None, out=None, **steps):
    plan = looked_at(function("plan_conv{}", ndim)(input_size, weight_size, **steps))
    return plan(input, weight, bias, out)


def plan_backward_input(ndim, input_size, weight_size, grad_output=None, weight=None, out=None, **steps):
    plan = looked_at(function("plan_conv{}", ndim)(input_size, weight_size, **steps))
    return plan.backward_input(grad_output, weight, out)


def plan_backward_weight(ndim, input_size, weight_size, grad_output=None, input=None, out=None, **steps):
    plan = looked_at(function("plan_conv{}", ndim)(input_size, weight_size, **steps))
    return plan.backward_weight(grad_output, input, out)


PLANS = {
    "plan_conv{}, forward": plan_forward,
    "plan_conv{}, backward_input": plan_backward_input,
    "plan_conv{}, backward_weight": plan_backward_weight,
}


@st.composite
def column_calls(draw, *names):
    p = draw(conv_problems())
    kernel = p.w.shape[2:]
    if p.ndim == 2 and kernel[0] == kernel[1] and draw(st.booleans()):
        kernel = kernel[0]
    arguments = {"kernel_size": kernel, "stride": p.stride, "padding": p.padding, "dilation": p.dilation}
    if "input" in names:
        return p.ndim, draw(unbatched({"input": p.dressed(p.x), **arguments}, ["input"]))
    stride, pairs, dilation, _ = p.resolved
    columns = oracles.ref_im2col(p.x, p.w.shape[2:], dilation, pairs, stride)
    arguments |= {"columns": p.dressed(columns), "output_size": p.x.shape[2:]}
    return p.ndim, draw(unbatched(arguments, ["columns"]))


@st.composite
def matrix_calls(draw):
    p = draw(conv_problems())
    arguments = {name: value for name, value in p.arguments.items() if name != "layout"}
    size = p.x.shape[draw(st.integers(0, 1)) :]
    return p.ndim, {"weight": p.dressed(p.w), "input_size": size, **arguments}


@st.composite
def pool_calls(draw, *names, dilated=True):
    """A pooling's arguments: of these names, and the windows'."""
    p = draw(pool_problems(dilated))
    arguments = {"kernel_size": p.kernel_size, "stride": p.stride, "padding": p.padding}
    arguments |= {"ceil_mode": p.ceil_mode, "layout": p.layout}
    if dilated:
        arguments["dilation"] = p.dilation
        if "grad_output" not in names:
            arguments["return_indices"] = draw(st.booleans())
    else:
        arguments["count_include_pad"] = draw(st.booleans())
        arguments["divisor_override"] = draw(st.one_of(st.none(), st.integers(1, 9)))
    if names == ("input",):
        return p.ndim, draw(unbatched({"input": laid(p, p.x), **arguments}, ["input"]))
    outputs = oracles.output_extents(p.x.shape[2:], *p.resolved, p.ceil_mode)
    dy = integers(np.random.default_rng(p.seed), (*p.x.shape[:2], *outputs), p.x.dtype)
    arguments["grad_output"] = laid(p, dy)
    if "input" in names:
        return p.ndim, draw(unbatched(arguments | {"input": laid(p, p.x)}, ["input", "grad_output"]))
    arguments["input_size"] = layout_shape(p.x.shape, p.layout)
    return p.ndim, draw(unbatched(arguments, ["grad_output"], ["input_size"]))


@st.composite
def index_calls(draw, *names, laid_out):
    """Arguments of the functions that take the indices of max-pooling."""
    p = draw(pool_problems())
    layout = p.layout if laid_out else FIRST[p.ndim]
    p.layout = layout
    pooled, indices = oracles.ref_max_pool(p.x, *p.resolved, p.ceil_mode)
    arrays = {
        "input": laid(p, pooled),
        "indices": laid(p, indices),
        "grad_output": laid(p, pooled if laid_out else p.x),
        "input_size": layout_shape(p.x.shape, layout),
    }
    arguments = {name: arrays[name] for name in names}
    if laid_out:
        arguments["layout"] = layout
    batches = [name for name in names if name != "input_size"]
    return p.ndim, draw(unbatched(arguments, batches, [name for name in names if name == "input_size"]))


@st.composite
def unpool_calls(draw):
    """Values and indices that fit the planes that they are put back into."""
    ndim, arguments = draw(index_calls("input", "indices", laid_out=False))
    indices = arguments["indices"]
    kernel, stride = (spread(draw(st.integers(1, 3)), ndim) for _ in range(2))
    cells = math.prod((n - 1) * s + k for n, s, k in zip(indices.shape[-ndim:], stride, kernel, strict=True))
    return ndim, arguments | {"indices": indices % cells, "kernel_size": kernel, "stride": stride}


@st.composite
def adaptive_calls(draw, *names):
    p = draw(pool_problems())
    outputs = tuple(draw(st.integers(1, 4)) for _ in range(p.ndim))
    pooled, indices = oracles.ref_adaptive_max_pool(p.x, outputs)
    arrays = {
        "input": laid(p, p.x),
        "grad_output": laid(p, pooled),
        "indices": laid(p, indices),
        "input_size": layout_shape(p.x.shape, p.layout),
        "output_size": outputs
        if draw(st.booleans())
        else [n if draw(st.booleans()) else None for n in outputs],
        "return_indices": draw(st.booleans()),
    }
    arguments = {name: arrays[name] for name in names} | {"layout": p.layout}
    batches = [name for name in ("input", "grad_output", "indices") if name in names]
    return p.ndim, draw(unbatched(arguments, batches, [name for name in names if name == "input_size"]))


CALLS = {
    "conv{}": conv_calls("input", "weight", "bias"),
    "conv{}_backward": conv_calls("grad_output", "input", "weight"),
    "conv{}_backward_input": conv_calls("grad_output", "weight", "input_size"),
    "conv{}_backward_weight": conv_calls("grad_output", "input", "weight_size"),
    "conv_transpose{}": conv_calls("input", "weight", "bias", problems=transpose_problems),
    "conv_transpose{}_backward": conv_calls("grad_output", "input", "weight", problems=transpose_problems),
    "plan_conv{}, forward": plan_calls("input", "weight", "bias"),
    "plan_conv{}, backward_input": plan_calls("grad_output", "weight"),
    "plan_conv{}, backward_weight": plan_calls("grad_output", "input"),
    "im2col": column_calls("input"),
    "col2im": column_calls("columns"),
    "conv_matrix": matrix_calls(),
    "max_pool{}": pool_calls("input"),
    "max_pool{}_backward": index_calls("grad_output", "indices", "input_size", laid_out=True),
    "max_pool{}_backward_ties": pool_calls("grad_output", "input"),
    "max_unpool{}": unpool_calls(),
    "max_unpool{}_backward": index_calls("grad_output", "indices", laid_out=False),
    "avg_pool{}": pool_calls("input", dilated=False),
    "avg_pool{}_backward": pool_calls("grad_output", dilated=False),
    "adaptive_avg_pool{}": adaptive_calls("input", "output_size"),
    "adaptive_avg_pool{}_backward": adaptive_calls("grad_output", "input_size"),
    "adaptive_max_pool{}": adaptive_calls("input", "output_size", "return_indices"),
    "adaptive_max_pool{}_backward": adaptive_calls("grad_output", "indices", "input_size"),
}
EXPECTED = {
    "conv{}": expected_conv,
    "conv{}_backward": expected_conv_backward,
    "conv{}_backward_input": expected_conv_backward_input,
    "conv{}_backward_weight": expected_conv_backward_weight,
    "conv_transpose{}": expected_conv_transpose,
    "conv_transpose{}_backward": expected_conv_transpose_backward,
    "plan_conv{}, forward": expected_conv,
    "plan_conv{}, backward_input": expected_conv_backward_input,
    "plan_conv{}, backward_weight": expected_conv_backward_weight,
    "im2col": expected_im2col,
    "col2im": expected_col2im,
    "conv_matrix": expected_conv_matrix,
    "max_pool{}": expected_max_pool,
    "max_pool{}_backward": expected_max_pool_backward,
    "max_pool{}_backward_ties": expected_max_pool_backward_ties,
    "max_unpool{}": expected_max_unpool,
    "max_unpool{}_backward": expected_max_unpool_backward,
    "avg_pool{}": expected_avg_pool,
    "avg_pool{}_backward": expected_avg_pool_backward,
    "adaptive_avg_pool{}": expected_adaptive_avg_pool,
    "adaptive_avg_pool{}_backward": expected_adaptive_avg_pool_backward,
    "adaptive_max_pool{}": expected_adaptive_max_pool,
    "adaptive_max_pool{}_backward": expected_max_pool_backward,
}
LAYOUT_NAMES = sorted({*FIRST.values(), *LAST.values()})
