"""The autograd adapter: exact beside plain loops and the host's own convolve, derivatives of any order."""

import itertools
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from helpers import DISGUISES, LAYOUTS, from_layout, integers, layout_shape, to_layout
from hosts import DEMANDED, host
from hypothesis import assume, given
from hypothesis import strategies as st
from oracles import (
    ref_avg_pool_backward,
    ref_bias_gradient,
    ref_conv_backward_input,
    ref_conv_backward_weight,
    ref_conv_transpose_backward,
    ref_max_pool_backward,
)
from scipy.signal import convolve2d
from strategies import conv_problems, examples, pool_problems, transpose_problems

import fastconv
from fastconv.adapters import HostError

make_vjp = host("autograd.core").make_vjp
grad = host("autograd").grad
signal = host("autograd.scipy.signal")
check_grads = host("autograd.test_util").check_grads

import fastconv.adapters.autograd as adapter  # noqa: E402  (needs the host)

HOSTS_OWN = signal.convolve


def has_same():
    """Whether this version of the host has the mode "same"."""
    try:
        HOSTS_OWN(np.ones(2), np.ones(1), mode="same")
    except Exception:
        return False
    return True


MODES = ("full", "valid", "same") if has_same() else ("full", "valid")


@pytest.fixture(autouse=True)
def _seeded():
    """`check_grads` draws its directions from NumPy's global generator."""
    np.random.seed(0)  # noqa: NPY002


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def gradients(function, arrays, dy):
    """Value and vector-Jacobian products of a function of several arrays."""
    vjp, value = make_vjp(lambda boxes: function(*(boxes[i] for i in range(len(arrays)))), tuple(arrays))
    return value, vjp(dy)


def same_array(got, expected):
    assert got.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(got, expected)


# --- fastconv's functions: values and gradients ----------------------------------------------------------


@given(conv_problems())
@examples(40)
def test_convolution(p):
    arrays = [p.dressed(to_layout(a, p.layout)) for a in (p.x, p.w)] + [p.bias] * (p.bias is not None)
    name = f"conv{p.ndim}d"
    y, (dx, dw, *db) = gradients(
        lambda x, w, b=None: getattr(adapter, name)(x, w, bias=b, **p.arguments),
        arrays,
        to_layout(p.dy, p.layout),
    )
    same_array(y, getattr(fastconv, name)(*arrays, **p.arguments))
    stride, pairs, dilation, groups = p.resolved
    steps = (stride, pairs, dilation, groups)
    dtype = p.x.dtype
    expected = ref_conv_backward_input(p.dy, p.w, p.x.shape[2:], *steps)
    same_array(from_layout(dx, p.layout), expected.astype(dtype))
    expected = ref_conv_backward_weight(p.dy, p.x, p.w.shape[2:], *steps)
    same_array(from_layout(dw, p.layout), expected.astype(dtype))
    for b in db:
        same_array(b, ref_bias_gradient(p.dy).astype(dtype))


@given(transpose_problems())
@examples(40)
def test_transposed_convolution(p):
    arrays = [p.dressed(to_layout(a, p.layout)) for a in (p.x, p.w)] + [p.bias] * (p.bias is not None)
    name = f"conv_transpose{p.ndim}d"
    y, (dx, dw, *db) = gradients(
        lambda x, w, b=None: getattr(adapter, name)(x, w, bias=b, **p.arguments),
        arrays,
        to_layout(p.dy, p.layout),
    )
    same_array(y, getattr(fastconv, name)(*arrays, **p.arguments))
    expected = ref_conv_transpose_backward(p.dy, p.x, p.w, *p.resolved)
    same_array(from_layout(dx, p.layout), expected[0].astype(p.x.dtype))
    same_array(from_layout(dw, p.layout), expected[1].astype(p.x.dtype))
    for b in db:
        same_array(b, expected[2].astype(p.x.dtype))


@given(pool_problems(), st.booleans())
@examples(40)
def test_max_pooling(p, return_indices):
    x = p.dressed(to_layout(p.x, p.layout))
    arguments = {
        "kernel_size": p.kernel_size,
        "stride": p.stride,
        "padding": p.padding,
        "dilation": p.dilation,
        "ceil_mode": p.ceil_mode,
        "layout": p.layout,
    }
    name = f"max_pool{p.ndim}d"
    y, indices = getattr(fastconv, name)(x, **arguments, return_indices=True)
    same_array(getattr(adapter, name)(x, **arguments), y)
    found = []

    def pooled(x):
        output = getattr(adapter, name)(x, **arguments, return_indices=return_indices)
        if not return_indices:
            return output
        found.append(output[1])
        return output[0]

    dy = integers(np.random.default_rng(p.seed), y.shape, y.dtype)
    got, (dx,) = gradients(pooled, [x], dy)
    same_array(got, y)
    expected = ref_max_pool_backward(from_layout(dy, p.layout), from_layout(indices, p.layout), p.x.shape[2:])
    same_array(from_layout(dx, p.layout), expected.astype(dx.dtype))
    for array in found:
        same_array(array, indices)


@given(pool_problems(dilated=False), st.booleans(), st.sampled_from((None, 3)))
@examples(40)
def test_average_pooling(p, count_include_pad, divisor_override):
    x = p.dressed(to_layout(p.x, p.layout))
    arguments = {
        "stride": p.stride,
        "padding": p.padding,
        "ceil_mode": p.ceil_mode,
        "count_include_pad": count_include_pad,
        "divisor_override": divisor_override,
        "layout": p.layout,
    }
    name = f"avg_pool{p.ndim}d"
    y = getattr(fastconv, name)(x, p.kernel_size, **arguments)
    dy = integers(np.random.default_rng(p.seed), y.shape, y.dtype)
    got, (dx,) = gradients(lambda x: getattr(adapter, name)(x, p.kernel_size, **arguments), [x], dy)
    same_array(got, y)
    kernel, stride, pairs, _ = p.resolved
    expected = ref_avg_pool_backward(
        from_layout(dy, p.layout), p.x.shape[2:], kernel, stride, pairs, count_include_pad, divisor_override
    )
    tolerance = 4 * np.finfo(x.dtype).eps
    np.testing.assert_allclose(from_layout(dx, p.layout), expected, rtol=tolerance, atol=8 * tolerance)


# --- derivatives of derivatives --------------------------------------------------------------------------


@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
@pytest.mark.parametrize("modes", [["rev"], ["fwd"], ["fwd", "rev"]])
def test_derivatives_of_convolution(ndim, layout, modes, rng):
    x = rng.standard_normal(layout_shape((2, 4, *(4, 3, 3)[:ndim]), layout))
    w = rng.standard_normal(layout_shape((4, 2, *(3, 2, 1)[:ndim]), layout))
    b = rng.standard_normal(4)
    steps = {"stride": 2, "padding": 1, "groups": 2, "layout": layout}
    conv, transposed = getattr(adapter, f"conv{ndim}d"), getattr(adapter, f"conv_transpose{ndim}d")
    check_grads(lambda *a: conv(*a, **steps), (0, 1, 2), order=2, modes=modes)(x, w, b)
    # output padding beyond the stride: no convolution's backward-input pass has that
    steps.update(dilation=3, output_padding=2)
    check_grads(lambda *a: transposed(*a, **steps), (0, 1, 2), order=2, modes=modes)(x, w, b)


@pytest.mark.parametrize(("ndim", "layout"), LAYOUTS)
@pytest.mark.parametrize("modes", [["rev"], ["fwd"], ["fwd", "rev"]])
def test_derivatives_of_pooling(ndim, layout, modes, rng):
    x = rng.standard_normal(layout_shape((2, 3, *(7, 5, 4)[:ndim]), layout))
    windows = {"kernel_size": 3, "stride": 2, "padding": 1, "layout": layout}
    for name in ("max_pool", "avg_pool"):
        pool = getattr(adapter, f"{name}{ndim}d")
        # squared, so that there is a second derivative
        check_grads(lambda x, pool=pool: pool(x, **windows) ** 2, order=2, modes=modes)(x)


def test_third_derivatives(rng):
    x, w, b = rng.standard_normal((1, 2, 5, 4)), rng.standard_normal((3, 2, 2, 2)), rng.standard_normal(3)
    check_grads(lambda *a: adapter.max_pool2d(adapter.conv2d(*a) ** 2, 2), (0, 1, 2), order=3, modes=["rev"])(
        x, w, b
    )


def test_unbatched_arrays_and_keywords(rng):
    x, w, b = (integers(rng, size) for size in ((3, 6, 5), (4, 3, 2, 2), (4,)))
    for function in (fastconv.conv2d, adapter.conv2d):
        assert function(input=x, weight=w, bias=b).shape == (4, 5, 4)
    assert grad(lambda b: adapter.conv2d(weight=w, input=x, bias=b).sum())(b).tolist() == [20.0] * 4
    assert grad(lambda x: adapter.max_pool2d(input=x, kernel_size=2).sum())(x).shape == x.shape


def test_an_empty_batch():
    x, w = np.ones((0, 3, 6, 5)), np.ones((4, 3, 2, 2))
    y, (dx, dw) = gradients(adapter.conv2d, [x, w], np.ones((0, 4, 5, 4)))
    assert y.shape == (0, 4, 5, 4)
    assert dx.shape == x.shape
    assert not dw.any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: adapter.conv2d(x, np.ones((1, 2, 1, 1))), ValueError, "weight must be of channels 1"),
        (lambda x: adapter.conv2d(x, np.ones((1, 1, 1, 1), complex)), TypeError, "weight must be a float16"),
        (lambda x: adapter.conv2d(x, np.ones((1, 1, 1, 1)), stride=0), ValueError, "stride must be"),
        (
            lambda x: adapter.conv_transpose2d(x, np.ones((1, 1, 1, 1)), layout="?"),
            ValueError,
            "layout must be",
        ),
        (lambda x: adapter.max_pool2d(x, 2, return_indices=1), TypeError, "return_indices must be"),
        (lambda x: adapter.max_pool2d(x, 9, 1), ValueError, "input must be at least as large"),
        (lambda x: adapter.avg_pool2d(x, 2, divisor_override=0), ValueError, "divisor_override must be"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    x = np.ones((1, 1, 4, 4))
    for arrays in (lambda: call(x), lambda: make_vjp(call, x)):
        with pytest.raises(error, match=message):
            arrays()


def test_images_of_bytes():
    """The gradient by float filters, of the filters' dtype."""
    x, w = np.arange(25, dtype=np.uint8).reshape(1, 1, 5, 5), np.ones((1, 1, 2, 2), np.float32)
    got = grad(lambda w: np.sum(adapter.conv2d(x, w)))(w)
    assert got.dtype == np.float32
    expected = ref_conv_backward_weight(np.ones((1, 1, 4, 4)), x, (2, 2), (1, 1), ((0, 0),) * 2, (1, 1), 1)
    np.testing.assert_array_equal(got, expected)


def test_windows_that_just_do_not_fit():
    """Nothing comes of an image of no such width, and its gradient is zero."""
    x, w, spread_w = np.ones((2, 3, 5, 1)), np.ones((4, 3, 3, 2)), np.ones((3, 4, 1, 1))
    cropped = ((0, 0), (0, 1))
    for call, argument in (
        (lambda x: adapter.conv2d(x, w), x),
        (lambda w: adapter.conv2d(x, w), w),
        (lambda x: adapter.conv_transpose2d(x, spread_w, padding=cropped), x),
        (lambda x: adapter.max_pool2d(x, (1, 2)), x),
        (lambda x: adapter.avg_pool2d(x, (1, 2)), x),
    ):
        assert call(argument).shape[3] == 0
        np.testing.assert_array_equal(grad(lambda a, call=call: np.sum(call(a)))(argument), 0 * argument)


# --- convolve, beside the host's own ---------------------------------------------------------------------


@dataclass
class HostProblem:
    """Arguments of the host's convolve."""

    A: np.ndarray
    B: np.ndarray
    axes: tuple
    dot_axes: tuple
    mode: str

    @property
    def arguments(self):
        return {"axes": self.axes, "dot_axes": self.dot_axes, "mode": self.mode}


def draw_operand(draw, kept, summed, convolved, dtype):
    """An array whose axes of the given extents stand in a drawn order; where the last two kinds stand."""
    extents = (*kept, *summed, *convolved)
    order = draw(st.permutations(range(len(extents))))
    places = np.argsort(order).tolist()
    split = len(kept), len(kept) + len(summed)
    # the host's gradients are wrong where several summed axes do not rise in both arrays
    places[split[0] : split[1]] = sorted(places[split[0] : split[1]])
    shape = [0] * len(extents)
    for place, extent in zip(places, extents, strict=True):
        shape[place] = extent
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    disguise = DISGUISES[draw(st.sampled_from(sorted(set(DISGUISES) - {"swapped"})))]
    return disguise(integers(rng, shape, dtype)), places[split[1] :], places[split[0] : split[1]]


@st.composite
def host_problems(draw, convolved=(1, 3), dtypes=(np.float32, np.float64)):
    """Any axes in any order, summed ones, either array the larger."""
    extents = st.lists(st.integers(1, 4), max_size=2)
    kept_a, kept_b, summed = draw(extents), draw(extents), draw(extents)
    ndim = draw(st.integers(*convolved))
    mode = draw(st.sampled_from(MODES if ndim else MODES[:2]))
    assume(len(kept_a) + len(summed) + ndim > 0 < len(kept_b) + len(summed) + ndim)
    space_a = [draw(st.integers(1, 5 if ndim < 3 else 3)) for _ in range(ndim)]
    space_b = [draw(st.integers(1, n if mode == "valid" else 5 if ndim < 3 else 3)) for n in space_a]
    if draw(st.booleans()):
        space_a, space_b = space_b, space_a
    dtype = draw(st.sampled_from(dtypes))
    A, axes_a, dots_a = draw_operand(draw, kept_a, summed, space_a, dtype)
    B, axes_b, dots_b = draw_operand(draw, kept_b, summed, space_b, dtype)
    return HostProblem(A, B, (axes_a, axes_b), (dots_a, dots_b), mode)


def value_and_gradients(function, p):
    """With the gradient of a weighted sum whose weights go by position alone."""
    vjp, value = make_vjp(lambda AB: function(AB[0], AB[1], **p.arguments), (p.A, p.B))
    weights = np.arange(np.size(value)) % 7 - 3
    return value, *vjp(weights.reshape(np.shape(value)).astype(value.dtype))


def assert_as_the_hosts(p):
    try:
        expected = value_and_gradients(HOSTS_OWN, p)
    except RecursionError:  # the host's "full", where each array is the larger one along some axis
        assume(False)
    for got, wanted in zip(value_and_gradients(adapter.convolve, p), expected, strict=True):
        same_array(got, wanted)


@given(host_problems())
@examples(200)
def test_convolve_equals_the_hosts(p):
    assert_as_the_hosts(p)


@given(host_problems(convolved=(0, 4)))
@examples(30)
def test_convolve_leaves_other_axes_to_the_host(p):
    assume(len(p.axes[0]) in (0, 4))
    assert_as_the_hosts(p)


@given(host_problems(dtypes=(np.complex64, np.complex128, np.longdouble)))
@examples(20)
def test_convolve_leaves_other_numbers_to_the_host(p):
    assert_as_the_hosts(p)


@given(host_problems(dtypes=(np.float64,)), st.sampled_from((["rev"], ["fwd"])))
@examples(20)
def test_derivatives_of_convolve(p, modes):
    np.random.seed(0)  # noqa: NPY002
    function = lambda A, B: adapter.convolve(A, B, **p.arguments)  # noqa: E731
    check_grads(function, (0, 1), order=2, modes=modes)(p.A, p.B)


@pytest.mark.parametrize("dtypes", [*itertools.product("efdl?", repeat=2)])
def test_convolve_promotes_as_the_host(dtypes, rng):
    A, B = rng.integers(0, 2, (3, 5)).astype(dtypes[0]), rng.integers(0, 2, (2, 4)).astype(dtypes[1])
    for mode in MODES[:2]:
        arguments = {"axes": ([1], [1]), "mode": mode}
        same_array(adapter.convolve(A, B, **arguments), HOSTS_OWN(A, B, **arguments))


def test_convolve_takes_arguments_by_position():
    A, B = np.arange(12.0).reshape(3, 4), np.arange(6.0).reshape(3, 2)
    arguments = (A, B, [[1], [1]], [[0], [0]], "valid")
    same_array(adapter.convolve(*arguments), HOSTS_OWN(*arguments))
    same_array(adapter.convolve(A, B), HOSTS_OWN(A, B))


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode": "other"},
        {"mode": "valid"},  # neither holds the other
        {"axes": ([0], [0]), "dot_axes": ([1], [1])},  # summed axes of different extents
        {"axes": ([0], [5])},
        {"axes": ([], []), "dot_axes": ([0], [0])},
    ],
)
def test_what_the_host_refuses_it_still_refuses(arguments):
    A, B = np.ones((2, 3)), np.ones((4, 2))
    with pytest.raises(Exception) as hosts:  # noqa: PT011
        HOSTS_OWN(A, B, **arguments)
    with pytest.raises(type(hosts.value)) as ours:
        adapter.convolve(A, B, **arguments)
    assert str(ours.value) == str(hosts.value)


def test_full_where_each_array_is_the_larger_along_one_axis(rng):
    """The host calls itself for ever here."""
    A, B = integers(rng, (4, 2)), integers(rng, (2, 4))
    same_array(adapter.convolve(A, B), convolve2d(A, B))


def test_gradients_where_summed_axes_are_paired_crosswise(rng):
    """The host's own have the axes in another order here."""
    A, B, dA, dB = (integers(rng, size) for size in ((2, 3, 6), (3, 2, 4), (2, 3, 6), (3, 2, 4)))
    p = HostProblem(A, B, ([2], [2]), ([0, 1], [1, 0]), "full")
    y, gradient_a, gradient_b = value_and_gradients(adapter.convolve, p)
    same_array(y, HOSTS_OWN(A, B, **p.arguments))
    weights = np.arange(y.size) % 7 - 3
    assert (gradient_a * dA).sum() == (HOSTS_OWN(dA, B, **p.arguments) * weights).sum()
    assert (gradient_b * dB).sum() == (HOSTS_OWN(A, dB, **p.arguments) * weights).sum()


# --- install ---------------------------------------------------------------------------------------------


def test_install_and_uninstall():
    before = dict(vars(signal))
    for _ in range(2):
        adapter.install()
        adapter.install()
        assert signal.convolve is adapter.convolve
        adapter.uninstall()
        assert dict(vars(signal)) == before
        adapter.uninstall()
        assert dict(vars(signal)) == before
    with adapter.installed():
        assert signal.convolve is adapter.convolve
    assert dict(vars(signal)) == before


@given(host_problems(convolved=(0, 4)))
@examples(20)
def test_the_host_s_own_gradients_while_installed(p):
    """The host's function and its gradients find ours under the name by which they call themselves."""
    try:
        expected = value_and_gradients(HOSTS_OWN, p)
    except RecursionError:
        assume(False)
    with adapter.installed():
        for function in (signal.convolve, HOSTS_OWN):
            for got, wanted in zip(value_and_gradients(function, p), expected, strict=True):
                same_array(got, wanted)


def test_an_unknown_signature_is_refused(monkeypatch):
    monkeypatch.setattr(signal, "convolve", lambda in1, in2: None)
    message = r"autograd.scipy.signal.convolve takes \(in1, in2\), .* knows \(A, B, axes, dot_axes, mode\)"
    with pytest.raises(HostError, match=message):
        adapter.install()


def test_a_missing_host_is_named():
    code = "import sys; sys.modules['autograd'] = None\nimport fastconv.adapters.autograd"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install autograd" in run.stderr.strip().splitlines()[-1]


# --- a whole program, and the host's own tests -----------------------------------------------------------

REPOSITORY = Path(__file__).parents[2]


def losses(*changes, steps=4, **names):
    """What the program prints when it trains, with some of its lines or names changed."""
    source = (REPOSITORY / "bench/hosts/autograd_lenet.py").read_text(encoding="utf-8")
    for line, other in changes:
        assert source.count(line) == 1
        source = source.replace(line, other)
    program = {"__name__": "lenet"}
    exec(compile(source, "autograd_lenet.py", "exec"), program)
    program.update(names)
    return program["train"](steps, size=16)


def test_a_program_runs_with_one_line_changed():
    expected = losses()
    line = "from autograd.scipy.signal import convolve"
    changed = losses((line, "from fastconv.adapters.autograd import convolve"))
    with adapter.installed():
        installed = losses()
    pooled = losses(convolve=adapter.convolve, max_pool=lambda images: adapter.max_pool2d(images, 2))
    for got in (changed, installed, pooled):
        np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.skipif(
    "autograd" not in DEMANDED, reason="downloads the host's sources: FASTCONV_HOSTS=autograd"
)
def test_the_host_s_own_tests(tmp_path):
    """Those of convolve, with ours in its place, from the sources on PyPI."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "autograd"]
    subprocess.run([*pip, f"autograd=={version('autograd')}", "--dest", tmp_path], check=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as sources:
        sources.extractall(tmp_path)
    tests = next(tmp_path.glob("*/tests"))
    (tests / "fastconv_in_place.py").write_text("import fastconv.adapters.autograd as a; a.install()")
    # without the host's own settings of pytest, which want plug-ins
    pytest_alone = [sys.executable, "-m", "pytest", "-c", os.devnull, "-p", "fastconv_in_place"]
    run = subprocess.run(
        [*pytest_alone, "-k", "convolve", "test_scipy.py"],
        cwd=tests,
        env={**os.environ, "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
