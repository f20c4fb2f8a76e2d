"""ONNX's operators on fastconv, against plain loops, the host, ONNX Runtime and ONNX's own cases."""

import glob
import importlib
import itertools
import math
import os
import warnings
from functools import cache

import numpy as np
import pytest
from helpers import integers
from hosts import host
from hypothesis import assume, given
from hypothesis import strategies as st
from oracles import (
    ALL,
    output_extents,
    reads,
    ref_col2im,
    ref_conv,
    ref_conv_backward_input,
    ref_max_pool,
    same_pair,
)
from strategies import examples

from fastconv.adapters import HostError

onnx = host("onnx")
adapter = importlib.import_module("fastconv.adapters.onnx")
reference = importlib.import_module("onnx.reference")
op_list = importlib.import_module("onnx.reference.ops._op_list")
loader = importlib.import_module("onnx.backend.test.loader")

VERSION = tuple(map(int, onnx.__version__.split(".")[:2]))
OPERATORS = {op.__name__: op for op in adapter.OPS}
FLOATS = (np.float32, np.float64, np.float16)
AUTO_PADS = ("SAME_UPPER", "SAME_LOWER", "VALID")
# By this version the host's own convolutions were put right.
as_the_host = pytest.mark.skipif(VERSION < (1, 23), reason="an older host is wrong in places")


# --- random nodes ----------------------------------------------------------------------------------------


class Node:
    """The windows of a random node: what ONNX calls them, and what they come to."""

    def __init__(self, draw, ceil_mode=False, least=0):
        self.ndim = draw(st.sampled_from((1, 2, 2, 3)))
        self.kernel = self.per_axis(draw, 1, 2 if self.ndim == 3 else 4)
        self.stride, self.dilation = self.per_axis(draw, 1, 3), self.per_axis(draw, 1, 2)
        self.reach = tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        self.auto_pad = draw(st.sampled_from(("NOTSET", "NOTSET", *AUTO_PADS)))
        self.extents = self.per_axis(draw, least, 5 if self.ndim == 3 else 9)
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.leading = draw(st.sampled_from((1, 2, 2, 0))), draw(st.integers(1, 3))
        self.dtype = draw(st.sampled_from(FLOATS))
        self.ceil_mode = ceil_mode and self.auto_pad == "NOTSET" and draw(st.booleans())
        # Padding of more than half a kernel too, but none that holds a whole window.
        self.pairs = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in self.kernel)
        if self.auto_pad == "VALID":
            self.pairs = ((0, 0),) * self.ndim
        elif self.auto_pad != "NOTSET":
            pairs = itertools.starmap(
                same_pair, zip(self.extents, self.kernel, self.stride, self.dilation, strict=True)
            )
            self.pairs = tuple(pair[:: 1 if self.auto_pad == "SAME_UPPER" else -1] for pair in pairs)
        self.outputs = output_extents(
            self.extents, self.kernel, self.stride, self.pairs, self.dilation, self.ceil_mode
        )
        assume(min(self.outputs) >= 0)

    def __repr__(self):
        return f"{self.leading} x {self.extents}, {self.attributes}, {self.dtype.__name__}"

    def per_axis(self, draw, low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(self.ndim))

    @property
    def steps(self):
        return self.stride, self.pairs, self.dilation

    @property
    def attributes(self):
        """As a node has them: those that say nothing are left out."""
        said = {"kernel_shape": list(self.kernel)}
        if self.auto_pad != "NOTSET":
            said["auto_pad"] = self.auto_pad
        elif any(map(any, self.pairs)):
            said["pads"] = flat(self.pairs)
        if max(self.stride) > 1:
            said["strides"] = list(self.stride)
        if max(self.dilation) > 1:
            said["dilations"] = list(self.dilation)
        if self.ceil_mode:
            said["ceil_mode"] = 1
        return said

    def input(self):
        return integers(self.rng, (*self.leading, *self.extents), self.dtype)

    def counts(self, padded):
        """Cells of every window inside the input, or inside the input and its padding."""
        extents, pairs = self.extents, self.pairs
        if padded:
            extents = tuple(n + sum(pair) for n, pair in zip(extents, pairs, strict=True))
            pairs = ((0, 0),) * self.ndim
        counts = np.zeros(self.outputs, int)
        for cell, _, _ in reads(extents, self.kernel, self.stride, pairs, self.dilation, self.outputs):
            counts[cell] += 1
        return counts

    def sums(self, x):
        """Every window's sum."""
        y = np.zeros((*self.leading, *self.outputs))
        for cell, _, position in reads(self.extents, self.kernel, *self.steps, self.outputs):
            y[(ALL, ALL, *cell)] += x[(ALL, ALL, *position)]
        return y


def reaches_over_strides(node):
    return all(reach >= s for reach, s in zip(node.reach, node.stride, strict=True))


def flat(pairs):
    """ONNX's way to write padding."""
    return [before for before, _ in pairs] + [after for _, after in pairs]


@st.composite
def nodes(draw, ceil_mode=False, least=0):
    return Node(draw, ceil_mode, least)


def evaluate(op, *inputs, **attributes):
    """What an operator gives, its arrays seen to keep the dtype."""
    results = op.eval(*inputs, **attributes)
    first = results[0] if isinstance(results, tuple) else results
    assert first.dtype == inputs[0].dtype
    return results


def same(actual, expected, tolerance=0.0):
    """Equal, or for what is not a whole number close by the dtype's precision."""
    assert actual.shape == expected.shape
    precision = np.finfo(actual.dtype).eps if actual.dtype.kind == "f" else 0
    np.testing.assert_allclose(
        actual.astype(float), expected.astype(float), rtol=tolerance * precision, atol=tolerance * precision
    )


# --- every operator against plain loops, the host's own operator and ONNX Runtime ------------------------


@st.composite
def conv_nodes(draw, least=0):
    node = Node(draw, least=least)
    group = draw(st.integers(1, 3))
    node.leading = node.leading[0], node.leading[1] * group
    filters = group * draw(st.integers(1, 3))
    w = integers(node.rng, (filters, node.leading[1] // group, *node.kernel), node.dtype)
    b = integers(node.rng, filters, node.dtype) if draw(st.booleans()) else None
    return node, [node.input(), w] + [b] * (b is not None), {**node.attributes, "group": group}


def biased(y, inputs):
    b = inputs[2].astype(float) if len(inputs) > 2 else np.zeros(y.shape[1])
    return y + b.reshape(-1, *[1] * (y.ndim - 2))


@given(conv_nodes())
@examples(100)
def test_conv(problem):
    node, inputs, attributes = problem
    actual = evaluate(adapter.Conv, *inputs, **attributes)
    same(actual, biased(ref_conv(*inputs[:2], *node.steps, attributes["group"]), inputs))


@as_the_host
@given(conv_nodes())
@examples(50)
def test_conv_as_the_host(problem):
    _, inputs, attributes = problem
    same(evaluate(adapter.Conv, *inputs, **attributes), evaluate(op_list.Conv, *inputs, **attributes))


@st.composite
def transpose_nodes(draw, groups=(1, 2, 3), least=lambda stride, dilation: stride, least_extent=0):
    """With padding, output padding or an output shape, each as ONNX's formulas have it.

    Output padding, which may be less than the stride or the dilation, stays below ``least`` of them.
    """
    node = Node(draw, least=least_extent)
    group = draw(st.sampled_from(groups))
    channels, filters = group * draw(st.integers(1, 3)), draw(st.integers(1, 3))
    node.leading = node.leading[0], channels
    reached = [(n - 1) * s + r for n, s, r in zip(node.extents, node.stride, node.reach, strict=True)]
    room = list(map(least, node.stride, node.dilation))
    attributes = {"kernel_shape": list(node.kernel), "group": group, "strides": list(node.stride)}
    attributes["dilations"] = list(node.dilation)
    auto_pad = draw(st.sampled_from(("NOTSET", *AUTO_PADS)))
    if auto_pad != "NOTSET":
        attributes["auto_pad"] = auto_pad
    extra = [draw(st.integers(0, n - 1)) for n in room]
    kind = draw(st.sampled_from(("pads", "output_shape")))
    if kind == "output_shape":
        wanted = [draw(st.integers(0, max(r + n - 1, 0))) for r, n in zip(reached, room, strict=True)]
        attributes["output_shape"], extra = wanted, [0] * node.ndim
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted, extra = [n * s for n, s in zip(node.extents, node.stride, strict=True)], [0] * node.ndim
    else:
        pairs = node.pairs if auto_pad == "NOTSET" else ((0, 0),) * node.ndim
        wanted = [r + e - sum(p) for r, e, p in zip(reached, extra, pairs, strict=True)]
        attributes["output_padding"] = extra
        if auto_pad == "NOTSET":
            attributes["pads"] = flat(pairs)
    if kind == "output_shape" or auto_pad.startswith("SAME"):
        totals = [max(r - n, 0) for r, n in zip(reached, wanted, strict=True)]
        less = [total // 2 for total in totals]
        more = [total - total // 2 for total in totals]
        sides = (less, more) if auto_pad == "SAME_UPPER" else (more, less)
        pairs = tuple(zip(*sides, strict=True))
    assume(min(wanted) >= 0)
    node.pairs = pairs
    w = integers(node.rng, (channels, filters, *node.kernel), node.dtype)
    b = integers(node.rng, filters * group, node.dtype) if draw(st.booleans()) else None
    return node, wanted, [node.input(), w] + [b] * (b is not None), attributes


@given(transpose_nodes(least=max))
@examples(100)
def test_conv_transpose(problem):
    node, wanted, inputs, attributes = problem
    actual = evaluate(adapter.ConvTranspose, *inputs, **attributes)
    expected = ref_conv_backward_input(*inputs[:2], tuple(wanted), *node.steps, attributes["group"])
    same(actual, biased(expected, inputs))


@as_the_host
@given(transpose_nodes(groups=(1,), least_extent=1))
@examples(50)
def test_conv_transpose_as_the_host(problem):
    """One group; padding is given, or SAME with something to pad."""
    node, _, inputs, attributes = problem
    assume("output_shape" not in attributes and node.leading[0] > 0)
    assume(not attributes.get("auto_pad", "").startswith("SAME") or reaches_over_strides(node))
    same(
        evaluate(adapter.ConvTranspose, *inputs, **attributes),
        evaluate(op_list.ConvTranspose, *inputs, **attributes),
    )


@given(nodes(ceil_mode=True), st.sampled_from((*FLOATS, np.uint8, np.int8)), st.sampled_from((0, 1)))
@examples(150)
def test_max_pool(node, dtype, storage_order):
    x = integers(node.rng, (*node.leading, *node.extents), dtype, low=-3 if dtype != np.uint8 else 0)
    assume(node.counts(padded=False).all())
    attributes = {**node.attributes, "storage_order": storage_order}
    values, within = ref_max_pool(x, node.kernel, *node.steps, node.ceil_mode)
    same(evaluate(adapter.MaxPool, x, **attributes), values)
    actual, indices = evaluate(adapter.MaxPool, x, n_outputs=2, **attributes)
    same(actual, values)
    assert indices.dtype == np.int64
    expected = np.zeros_like(within)
    for n, c, *cell in np.ndindex(*within.shape):
        position = np.unravel_index(within[(n, c, *cell)], node.extents)
        # In columns the first axis runs fastest.
        strides = [
            math.prod(node.extents[:i] if storage_order else node.extents[i + 1 :]) for i in range(node.ndim)
        ]
        plane = (n * x.shape[1] + c) * math.prod(node.extents)
        expected[(n, c, *cell)] = plane + np.dot(position, strides)
    np.testing.assert_array_equal(indices, expected)


@as_the_host
@given(nodes(ceil_mode=True), st.sampled_from((0, 1)))
@examples(50)
def test_max_pool_as_the_host(node, storage_order):
    """The host's loops for strides and dilations, which take explicit padding as it is meant."""
    assume(node.auto_pad == "NOTSET" and max(node.stride + node.dilation) > 1)
    assume(node.counts(padded=False).all())
    x, attributes = node.input(), {**node.attributes, "storage_order": storage_order, "n_outputs": 2}
    ours, theirs = evaluate(adapter.MaxPool, x, **attributes), evaluate(op_list.MaxPool, x, **attributes)
    for actual, expected in zip(ours, theirs, strict=True):
        same(actual, expected)


@given(nodes(ceil_mode=True), st.sampled_from((0, 1)))
@examples(150)
def test_average_pool(node, count_include_pad):
    counts = node.counts(padded=count_include_pad)
    assume(counts.all())
    x = node.input()
    actual = evaluate(adapter.AveragePool, x, **node.attributes, count_include_pad=count_include_pad)
    same(actual, node.sums(x) / counts, tolerance=4)


def right_in_the_host(node):
    """Where the host's averages are those of the specification: it leaves dilations out of SAME and VALID."""
    return not node.ceil_mode and (
        node.auto_pad == "NOTSET" or (max(node.dilation) == 1 and reaches_over_strides(node))
    )


@as_the_host
@given(nodes(), st.sampled_from((0, 1)))
@examples(50)
def test_average_pool_as_the_host(node, count_include_pad):
    assume(right_in_the_host(node) and node.counts(padded=False).all())
    attributes = {**node.attributes, "count_include_pad": count_include_pad}
    x = node.input()
    expected = evaluate(op_list.AveragePool_19, x, **attributes)
    same(evaluate(adapter.AveragePool, x, **attributes), expected, tolerance=16)


@given(nodes(ceil_mode=True), st.integers(1, 3))
@examples(100)
def test_lp_pool(node, p):
    x = node.input()
    actual = evaluate(adapter.LpPool, x, **node.attributes, p=p)
    same(actual, node.sums(abs(x.astype(float)) ** p) ** (1 / p), tolerance=16)


@as_the_host
@given(nodes(), st.integers(1, 3))
@examples(50)
def test_lp_pool_as_the_host(node, p):
    assume(right_in_the_host(node) and node.dtype != np.float16)
    x = node.input()
    expected = evaluate(op_list.LpPool, x, **node.attributes, p=p)
    same(evaluate(adapter.LpPool, x, **node.attributes, p=p), expected, tolerance=16)


@given(nodes())
def test_global_pools(node):
    assume(min(node.extents) > 0)
    x = node.input()
    axes = tuple(range(2, x.ndim))
    means = x.mean(axis=axes, keepdims=True, dtype=float)
    same(evaluate(adapter.GlobalAveragePool, x), means, tolerance=4)
    same(evaluate(adapter.GlobalMaxPool, x), x.max(axis=axes, keepdims=True))
    if x.size:
        same(evaluate(op_list.GlobalAveragePool, x), means, tolerance=16)


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value encountered")  # in the host
def test_global_average_of_nothing():
    """As the host has it."""
    x = np.ones((2, 3, 0, 4), np.float32)
    same(evaluate(adapter.GlobalAveragePool, x), evaluate(op_list.GlobalAveragePool, x))


@given(nodes())
def test_col2im(node):
    steps = (node.dilation, node.pairs, node.stride)
    shape = (node.leading[0], node.leading[1] * math.prod(node.kernel), math.prod(node.outputs))
    columns = integers(node.rng, shape, node.dtype)
    attributes = {k: v for k, v in node.attributes.items() if k not in ("kernel_shape", "auto_pad")}
    if node.auto_pad != "NOTSET":  # which Col2Im does not have
        attributes["pads"] = flat(node.pairs)
    inputs = columns, np.array(node.extents), np.array(node.kernel)
    actual = evaluate(adapter.Col2Im, *inputs, **attributes)
    same(actual, ref_col2im(columns, node.extents, node.kernel, *steps))
    if columns.size:
        same(actual, evaluate(op_list.Col2Im, *inputs, **attributes))


def in_onnxruntime(op, inputs, outputs=1, **attributes):
    """What ONNX Runtime makes of the same node."""
    runtime = pytest.importorskip("onnxruntime")
    names = "xwb"[: len(inputs)]
    node = onnx.helper.make_node(op, list(names), [f"y{i}" for i in range(outputs)], **attributes)
    typed = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in zip(names, inputs, strict=True)
    ]
    results = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = onnx.helper.make_graph([node], "g", typed, results)
    model = onnx.helper.make_model(graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 19)])
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, dict(zip(names, inputs, strict=True)))


def as_onnxruntime(name, inputs, attributes):
    """Whose convolutions refuse results without cells."""
    inputs = [array.astype(np.float32) for array in inputs]
    actual = getattr(adapter, name).eval(*inputs, **attributes)
    assume(actual.size > 0)
    (expected,) = in_onnxruntime(name, inputs, **attributes)
    same(actual, expected, tolerance=64)


@given(conv_nodes(least=1))
@examples(30)
def test_conv_as_onnxruntime(problem):
    """Which does not take SAME and a dilation together, nor extents of 0."""
    node, inputs, attributes = problem
    assume(node.leading[0] > 0 and (max(node.dilation) == 1 or not node.auto_pad.startswith("SAME")))
    as_onnxruntime("Conv", inputs, attributes)


@given(transpose_nodes(least_extent=1))
@examples(30)
def test_conv_transpose_as_onnxruntime(problem):
    """Which gives fewer cells than ONNX says for SAME where the stride is over the kernel."""
    node, _, inputs, attributes = problem
    same_padding = attributes.get("auto_pad", "").startswith("SAME")
    assume(node.leading[0] > 0 and (reaches_over_strides(node) or not same_padding))
    as_onnxruntime("ConvTranspose", inputs, attributes)


@given(nodes(ceil_mode=True, least=1), st.sampled_from((0, 1)), st.sampled_from((0, 1)))
@examples(60)
def test_pools_as_onnxruntime(node, storage_order, count_include_pad):
    """Which leaves the dilation out of SAME, and the first cells too where the stride is over the kernel.

    It rounds the negative room of a window that just does not fit to zero, and so gives it a cell.
    """
    assume(node.counts(padded=False).all() and node.leading[0] > 0 and min(node.outputs) > 0)
    plain = max(node.dilation) == 1 and reaches_over_strides(node)
    assume(plain or not node.auto_pad.startswith("SAME"))
    x = node.input().astype(np.float32)
    ours = adapter.MaxPool.eval(x, n_outputs=2, storage_order=storage_order, **node.attributes)
    theirs = in_onnxruntime("MaxPool", [x], 2, storage_order=storage_order, **node.attributes)
    for actual, expected in zip(ours, theirs, strict=True):
        same(actual, expected)
    actual = adapter.AveragePool.eval(x, count_include_pad=count_include_pad, **node.attributes)
    (expected,) = in_onnxruntime("AveragePool", [x], count_include_pad=count_include_pad, **node.attributes)
    same(actual, expected, tolerance=16)
    (expected,) = in_onnxruntime("LpPool", [x], p=2, **node.attributes)
    same(adapter.LpPool.eval(x, p=2, **node.attributes), expected, tolerance=16)


# --- ONNX's own conformance cases ------------------------------------------------------------------------


@cache
def cases(kind):
    """The cases of one kind whose models use what is replaced here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the making of all the others
        found = loader.load_model_tests(kind=kind)
    for case in found:
        case.model = case.model or onnx.load(os.path.join(case.model_dir, "model.onnx"))
    return [case for case in found if any(node.op_type in OPERATORS for node in case.model.graph.node)]


def data_sets(case):
    """Inputs and outputs, as (inputs, outputs) of arrays."""
    if case.data_sets is not None:
        return case.data_sets
    folders = glob.glob(os.path.join(case.model_dir, "test_data_set_*"))
    return [(tensors(folder, "input"), tensors(folder, "output")) for folder in folders]


def tensors(folder, stem):
    paths = (os.path.join(folder, f"{stem}_{i}.pb") for i in itertools.count())
    return [
        onnx.numpy_helper.to_array(onnx.load_tensor(path))
        for path in itertools.takewhile(os.path.exists, paths)
    ]


def by_new_ops(model):
    return reference.ReferenceEvaluator(model, new_ops=adapter.OPS)


def by_installing(model):
    with adapter.installed():
        return reference.ReferenceEvaluator(model)


WAYS = [adapter.FastReferenceEvaluator, by_new_ops, by_installing]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize(
    ("kind", "least"), [("node", 72), ("pytorch-converted", 43), ("pytorch-operator", 3)]
)
def test_cases_of_onnx(kind, least, way):
    assert len(cases(kind)) >= least
    for case in cases(kind):
        if VERSION < (1, 18) and "count_include_pad_is_1_ceil_mode_is_True" in case.name:
            continue  # its expected output was another one then
        evaluator = way(case.model)
        replaced = [node for node in evaluator.rt_nodes_ if node.op_type in OPERATORS]
        assert all(type(node) is OPERATORS[node.op_type] for node in replaced), case.name
        for inputs, outputs in data_sets(case):
            names = [value.name for value in case.model.graph.input]
            results = evaluator.run(None, dict(zip(names, inputs, strict=False)))
            for actual, expected in zip(results, outputs, strict=True):
                assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), case.name
                np.testing.assert_allclose(
                    actual, expected, rtol=case.rtol, atol=case.atol, err_msg=case.name
                )


LIGHT = os.path.join(os.path.dirname(onnx.__file__), "backend", "test", "data", "light")


@pytest.mark.parametrize("name", ["resnet50", "shufflenet", "squeezenet"])
def test_networks_as_the_host(name):
    """Whole networks, of constant weights."""
    model = onnx.load(os.path.join(LIGHT, f"light_{name}.onnx"))
    filled = {tensor.name for tensor in model.graph.initializer}
    (x,) = (value for value in model.graph.input if value.name not in filled)
    shape = [dim.dim_value for dim in x.type.tensor_type.shape.dim]
    feeds = {x.name: np.linspace(0, 1, math.prod(shape), dtype=np.float32).reshape(shape)}
    (expected,) = reference.ReferenceEvaluator(model).run(None, feeds)
    (actual,) = adapter.FastReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


# --- what the host does with the operators ---------------------------------------------------------------

# One model with a convolution in each place that a model can have one: its graph, a branch of its graph
# and a function of its own.
PROGRAM = '''
import numpy as np
from onnx.parser import parse_model
from onnx.reference import ReferenceEvaluator

model = parse_model("""
<ir_version: 8, opset_import: ["" : 18, "own" : 1]>
network (float[N, 2, 12, 12] x, float[4, 2, 3, 3] w, float[4, 4, 3, 3] v) => (float[N, 4, 1, 1] y) {
    first = Conv <auto_pad = "SAME_UPPER"> (x, w)
    halved = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (first)
    true = Constant <value = bool[1] {1}> ()
    chosen = If (true) <
        then_branch = then () => (a) { a = Conv <pads = [1, 1, 1, 1]> (halved, v) },
        else_branch = else () => (b) { b = Neg (halved) }
    >
    last = own.Block (chosen, v)
    y = GlobalAveragePool (last)
}
<domain: "own", opset_import: ["" : 18]>
Block (a, v) => (c) {
    b = Conv (a, v)
    c = Relu (b)
}
""")
rng = np.random.default_rng(0)
feeds = {
    name: rng.integers(-3, 4, shape).astype(np.float32)
    for name, shape in {"x": (2, 2, 12, 12), "w": (4, 2, 3, 3), "v": (4, 4, 3, 3)}.items()
}
evaluator = ReferenceEvaluator(model)
(y,) = evaluator.run(None, feeds)
'''


def program():
    """Run the program, which knows nothing of fastconv; its names."""
    names = {}
    exec(PROGRAM, names)
    return names


@pytest.fixture
def convolved(monkeypatch):
    """How often the replaced Conv was run: a list that grows."""
    runs, run = [], adapter.Conv._run

    def counted(self, *args, **kwargs):
        runs.append(self.op_type)
        return run(self, *args, **kwargs)

    monkeypatch.setattr(adapter.Conv, "_run", counted)
    return runs


def test_a_program_gives_the_same_numbers(convolved):
    expected = program()["y"]
    assert convolved == []
    with adapter.installed():
        actual = program()["y"]
    assert convolved == ["Conv"] * 3
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_what_the_evaluators_reach(convolved):
    """The host does not hand `new_ops` on to the functions of a model."""
    names = program()
    for evaluator, reached in (
        (adapter.FastReferenceEvaluator(names["model"]), 3),
        (reference.ReferenceEvaluator(names["model"], new_ops=adapter.OPS), 2),
    ):
        convolved.clear()
        np.testing.assert_allclose(evaluator.run(None, names["feeds"])[0], names["y"], rtol=1e-6)
        assert len(convolved) == reached


def test_the_user_s_operators_come_first():
    class MaxPool(adapter.MaxPool):
        def _run(self, x, **attributes):
            return (-x,)

    model = program()["model"]
    evaluator = adapter.FastReferenceEvaluator(model, new_ops=[MaxPool])
    assert [type(n) for n in evaluator.rt_nodes_ if n.op_type == "MaxPool"] == [MaxPool]
    assert adapter.MaxPool in adapter.OPS
    assert MaxPool not in adapter.OPS


def table():
    op_list.load_op("", "Conv")
    return {name: dict(versions) for name, versions in op_list._registered_operators.items()}


def test_install_and_uninstall_leave_the_host_as_it_was():
    before = table()
    for _ in range(2):
        adapter.install()
        adapter.install()
        for name, op in OPERATORS.items():
            assert {op_list.load_op("", name, version) for version in (None, 1, 18)} == {op}
        evaluator = reference.ReferenceEvaluator(program()["model"])
        assert type(evaluator.rt_nodes_[0]) is adapter.Conv
        adapter.uninstall()
        adapter.uninstall()
        assert table() == before
        assert type(reference.ReferenceEvaluator(program()["model"]).rt_nodes_[0]) is not adapter.Conv


def test_a_host_of_another_kind_is_refused(monkeypatch):
    def load_op(domain, op_type, opset):
        raise AssertionError

    class Conv(adapter.Conv):
        def _run(self, X, W, B=None, layout="NCHW"):
            return (X,)

    with pytest.raises(HostError, match=r"onnx.reference's Conv takes \(self, X, W, B=?.* knows .*layout"):
        adapter._known(Conv)
    with monkeypatch.context() as patch:
        patch.setattr(op_list, "load_op", load_op)
        with pytest.raises(HostError, match=r"load_op takes \(domain, op_type, opset\)"):
            adapter.install()
    with monkeypatch.context() as patch:
        patch.setattr(op_list, "_registered_operators", {"Conv": {None: object}})
        with pytest.raises(HostError, match="no table of operators that fastconv's adapter knows"):
            adapter.install()


# --- opsets, dtypes and what is not taken ----------------------------------------------------------------


@pytest.mark.parametrize("opset", [1, 8, 12, 18])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_opsets(opset, way):
    """Attributes that an older opset does not have say nothing."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[1, 1, 5, 5] x) => (float[1, 1, H, W] y, float[1, 1, H, W] z) {{
            y = MaxPool <kernel_shape = [3, 3], pads = [0, 0, 1, 1], strides = [2, 2]> (x)
            z = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (x)
        }}"""
    )
    x = np.arange(25, dtype=np.float32).reshape(1, 1, 5, 5)
    y, z = way(model).run(None, {"x": x})
    np.testing.assert_array_equal(y[0, 0], [[12, 14], [22, 24]])
    np.testing.assert_array_equal(z[0, 0, :2, :3], [[0, 0.5, 1.5], [2.5, 3, 4]])


@pytest.mark.parametrize("name", ["Conv", "AveragePool", "LpPool", "Col2Im", "ConvTranspose"])
def test_four_dimensions_are_the_host_s(name):
    rng = np.random.default_rng(0)
    x, w = integers(rng, (1, 2, 3, 3, 3, 3), np.float32), integers(rng, (2, 2, 2, 2, 2, 2), np.float32)
    inputs, attributes = ([x, w], {}) if name.startswith("Conv") else ([x], {"kernel_shape": [2] * 4})
    if name == "Col2Im":
        inputs = [integers(rng, (1, 2 * 16, 16), np.float32), np.array([3] * 4), np.array([2] * 4)]
        attributes = {}
    if name == "Conv" and VERSION < (1, 23):
        pytest.skip("the host took three")
    op = getattr(adapter, name)
    np.testing.assert_array_equal(op.eval(*inputs, **attributes), op.__base__.eval(*inputs, **attributes))


def test_integers_are_the_host_s():
    columns = np.arange(8).reshape(1, 4, 2)
    inputs = columns, np.array([2, 3]), np.array([2, 2])
    actual = adapter.Col2Im.eval(*inputs)
    assert actual.dtype == columns.dtype
    np.testing.assert_array_equal(actual, op_list.Col2Im.eval(*inputs))
    np.testing.assert_array_equal(adapter.GlobalMaxPool.eval(columns), [[[1], [3], [5], [7]]])


def test_not_a_number_travels():
    x = np.zeros((1, 1, 7, 7), np.float32)
    x[0, 0, 3, 3] = np.nan
    for name, attributes in (
        ("MaxPool", {}),
        ("AveragePool", {}),
        ("AveragePool", {"dilations": [2, 2]}),
        ("LpPool", {}),
    ):
        y = getattr(adapter, name).eval(x, kernel_shape=[2, 2], **attributes)
        assert np.isnan(y).sum() == 4


# What a whole model gives where a window is one cell wider than the input, or all of it is padding.
EMPTY_OUTPUTS = {
    "MaxPool": ("MaxPool", [(1, 2, 7, 1)], (1, 2, 7, 0), {"kernel_shape": [1, 2]}),
    "AveragePool": ("AveragePool", [(1, 2, 7, 1)], (1, 2, 7, 0), {"kernel_shape": [1, 2]}),
    "LpPool": ("LpPool", [(1, 2, 7, 1)], (1, 2, 7, 0), {"kernel_shape": [1, 2]}),
    "Conv": ("Conv", [(1, 2, 7, 1), (3, 2, 1, 2)], (1, 3, 7, 0), {}),
    "Conv, no columns": ("Conv", [(1, 2, 7, 0), (3, 2, 3, 1)], (1, 3, 5, 0), {}),
    "Conv, padding": ("Conv", [(1, 2, 7, 0), (3, 2, 3, 3), (3,)], (1, 3, 7, 2), {"pads": [1, 2, 1, 2]}),
}


@pytest.mark.parametrize("name", EMPTY_OUTPUTS)
def test_models_with_an_extent_of_zero(name):
    """Sums of no cells are 0, and so the bias, which is 1 here."""
    op, shapes, wanted, attributes = EMPTY_OUTPUTS[name]
    arrays = {f"i{n}": np.ones(shape, np.float32) for n, shape in enumerate(shapes)}
    float32 = onnx.TensorProto.FLOAT
    inputs = [onnx.helper.make_tensor_value_info(n, float32, a.shape) for n, a in arrays.items()]
    output = onnx.helper.make_tensor_value_info("y", float32, None)
    node = onnx.helper.make_node(op, list(arrays), ["y"], **attributes)
    graph = onnx.helper.make_graph([node], "g", inputs, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    (y,) = adapter.FastReferenceEvaluator(model).run(None, arrays)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, np.ones(wanted))


@pytest.mark.parametrize(
    ("name", "shapes", "attributes", "message"),
    [
        (
            "MaxPool",
            [(1, 1, 3, 3, 3, 3)],
            {"kernel_shape": [2] * 4},
            "MaxPool takes 1 to 3 spatial dimensions",
        ),
        (
            "ConvTranspose",
            [(1, 2, 3, 3, 3, 3), (2, 1, 2, 2, 2, 2)],
            {"group": 2},
            "float32 of shape .* in 2 g",
        ),
        (
            "Conv",
            [(1, 1, 4, 4), (1, 1, 3, 3)],
            {"auto_pad": "SAME"},
            "auto_pad must be NOTSET, .* got 'SAME'",
        ),
        ("ConvTranspose", [(1, 1, 4), (1, 1, 3)], {"auto_pad": "SAME"}, "auto_pad must be NOTSET, .* 'SAME'"),
        ("Conv", [(1, 1, 4, 4), (1, 1, 3, 3)], {"kernel_shape": [2, 2]}, r"must be that of W, \(3, 3\), got"),
        ("Conv", [(1, 1, 4, 4), (1, 1, 3, 3)], {"pads": [1, 1]}, "pads must be 4 numbers for 2 spatial dim"),
        ("Conv", [(1, 1, 4, 4), (1, 2, 3, 3)], {}, "weight must be of channels 1"),
        (
            "MaxPool",
            [(1, 1, 2, 2)],
            {"kernel_shape": [4, 4]},
            "input must be at least as large as the dilated",
        ),
        (
            "MaxPool",
            [(1, 1, 2)],
            {"kernel_shape": [1], "pads": [1, 0], "n_outputs": 2},
            "no index for a window",
        ),
        ("ConvTranspose", [(1, 1, 2), (1, 1, 2)], {"output_shape": [9]}, "output_padding must be less than"),
    ],
)
def test_what_is_not_taken_is_said_in_one_line(name, shapes, attributes, message):
    inputs = [np.ones(shape, np.float32) for shape in shapes]
    with pytest.raises((ValueError, NotImplementedError), match=message) as raised:
        getattr(adapter, name).eval(*inputs, **attributes)
    assert "\n" not in str(raised.value)
