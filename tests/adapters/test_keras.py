"""Keras on fastconv: beside plain loops, beside Keras on JAX where that is there, by Keras's own tests."""

import importlib
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers import integers
from hosts import DEMANDED
from hypothesis import given
from hypothesis import strategies as st
from oracles import (
    ref_adaptive_avg_pool,
    ref_adaptive_max_pool,
    ref_avg_pool,
    ref_col2im,
    ref_conv,
    ref_conv_backward_input,
    ref_im2col,
    ref_max_pool,
    resolve_padding,
)
from strategies import per_axis, spread

# Keras itself can't be tried: without JAX it is the adapter that imports it.
if find_spec("keras") is None and "keras" not in DEMANDED:
    pytest.skip("Keras is not installed", allow_module_level=True)

import fastconv.adapters.keras as adapter
from fastconv.adapters import HostError

HAS_JAX = find_spec("jax") is not None
FLOATS = ("float16", "bfloat16", "float32", "float64")
DTYPES = (*FLOATS, "int32", "uint8")
KERAS_TESTS = Path(find_spec("keras").origin).parent / "src"


@pytest.fixture(scope="module", autouse=True)
def keras():
    with adapter.installed():
        yield importlib.import_module("keras")


@pytest.fixture(scope="module")
def ops(keras):
    return keras.ops


@pytest.fixture
def nn(keras):
    return importlib.import_module("keras.src.backend.numpy.nn")


def python(*arguments, **environment):
    """Run Python anew; words of the environment that are None are taken out of it."""
    wanted = {**os.environ, "KERAS_BACKEND": None, **environment}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env={name: value for name, value in wanted.items() if value is not None},
    )


# --- the same numbers ------------------------------------------------------------------------------------


def check(call, expected, dtype, channels_last):
    """A call gives the oracle's numbers; where JAX is installed, Keras without fastconv does so as well.

    ``dtype`` may be None, where it is Keras that makes it.
    """
    got = call()
    dtype = got.dtype if dtype is None else dtype
    assert type(got) is np.ndarray
    assert got.flags.writeable
    assert got.dtype == dtype
    expected = np.moveaxis(expected, 1, -1) if channels_last else expected
    whole = expected if np.dtype(dtype).name in FLOATS else expected.astype(np.int64)  # which wraps
    np.testing.assert_array_equal(got, whole.astype(dtype))
    if HAS_JAX and dtype != np.float64:  # which JAX makes float32
        adapter.uninstall()
        try:
            np.testing.assert_array_equal(got, call())
        finally:
            adapter.install()


def array(rng, shape, dtype, channels_last=False):
    """Small whole numbers, drawn with the channels second."""
    drawn = integers(rng, shape, low=0 if dtype == "uint8" else -3)
    drawn = np.moveaxis(drawn, 1, -1) if channels_last else drawn
    return np.ascontiguousarray(drawn).astype(np.dtype(dtype))


def first(x, channels_last):
    """An array with its channels second, for the oracles."""
    return np.moveaxis(x, -1, 1) if channels_last else x


def tensor_dtype(ops, x):
    """What most functions make of an array first: of float64, Keras's own float."""
    return ops.convert_to_tensor(x).dtype


def kcrs(kernel):
    """Keras's kernel (..., channels, filters) as (filters, channels, ...)."""
    return np.moveaxis(kernel, (-1, -2), (0, 1))


@st.composite
def problems(draw, dtypes=DTYPES):
    """What convolution, its transpose and pooling share; the kernel fits into the input."""
    ndim = draw(st.sampled_from((1, 2, 2, 3)))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(ndim))
    dilation = per_axis(draw, ndim, 1, 2)
    reach = [d * (k - 1) + 1 for d, k in zip(spread(dilation, ndim), kernel, strict=True)]
    return {
        "extent": tuple(r + draw(st.integers(0, 2 if ndim == 3 else 4)) for r in reach),
        "kernel": kernel,
        "batch": draw(st.integers(0, 2)),
        "channels": draw(st.integers(1, 3)),
        "filters": draw(st.integers(1, 3)),
        "groups": draw(st.sampled_from((1, 1, 2, 3))),
        "dtype": draw(st.sampled_from(dtypes)),
        "last": draw(st.booleans()),
        "rng": np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        "strides": per_axis(draw, ndim, 1, 3),
        "dilation_rate": dilation,
        "padding": draw(st.sampled_from(("valid", "same"))),
    }


def steps(p, *names):
    """The arguments of a function of keras.ops."""
    return {name: p[name] for name in names} | {
        "data_format": "channels_last" if p["last"] else "channels_first"
    }


def reference(p, x, w, groups):
    """The oracle's convolution."""
    ndim = len(p["kernel"])
    stride, dilation = spread(p["strides"], ndim), spread(p["dilation_rate"], ndim)
    pairs = resolve_padding(p["padding"], p["extent"], p["kernel"], stride, dilation)
    return ref_conv(x, w, stride, pairs, dilation, groups)


@given(problems())
def test_conv(ops, p):
    groups = p["groups"]
    x = array(p["rng"], (p["batch"], p["channels"] * groups, *p["extent"]), p["dtype"], p["last"])
    kernel = array(p["rng"], (*p["kernel"], p["channels"], p["filters"] * groups), p["dtype"])
    arguments = steps(p, "strides", "padding", "dilation_rate")
    expected = reference(p, first(x, p["last"]), kcrs(kernel), groups)
    check(lambda: ops.conv(x, kernel, **arguments), expected, x.dtype, p["last"])


@given(problems())
def test_depthwise_conv(ops, p):
    channels, multiplier = p["channels"], p["filters"]
    x = array(p["rng"], (p["batch"], channels, *p["extent"]), p["dtype"], p["last"])
    kernel = array(p["rng"], (*p["kernel"], channels, multiplier), p["dtype"])
    arguments = steps(p, "strides", "padding", "dilation_rate")
    w = kcrs(kernel.reshape(*p["kernel"], 1, channels * multiplier))
    expected = reference(p, first(x, p["last"]), w, channels)
    check(lambda: ops.depthwise_conv(x, kernel, **arguments), expected, tensor_dtype(ops, x), p["last"])


@given(problems(dtypes=("float32", "float64")))
def test_separable_conv(ops, p):
    channels, multiplier = p["channels"], p["filters"]
    ones = (1,) * len(p["kernel"])
    x = array(p["rng"], (p["batch"], channels, *p["extent"]), p["dtype"], p["last"])
    depthwise = array(p["rng"], (*p["kernel"], channels, multiplier), p["dtype"])
    pointwise = array(p["rng"], (*ones, channels * multiplier, 2), p["dtype"])
    arguments = steps(p, "strides", "padding", "dilation_rate")
    w = kcrs(depthwise.reshape(*p["kernel"], 1, channels * multiplier))
    between = reference(p, first(x, p["last"]), w, channels)
    expected = ref_conv(between, kcrs(pointwise), ones, [(0, 0)] * len(ones), ones, 1)
    dtype = tensor_dtype(ops, x)
    check(lambda: ops.separable_conv(x, depthwise, pointwise, **arguments), expected, dtype, p["last"])


@given(problems(), st.data())
def test_conv_transpose(ops, p, data):
    ndim = len(p["kernel"])
    extent = tuple(data.draw(st.integers(1, 3)) for _ in range(ndim))
    output_padding = data.draw(st.one_of(st.none(), st.integers(0, 3)))
    x = array(p["rng"], (p["batch"], p["channels"], *extent), p["dtype"], p["last"])
    kernel = array(p["rng"], (*p["kernel"], p["filters"], p["channels"]), p["dtype"])
    arguments = steps(p, "strides", "padding", "dilation_rate") | {"output_padding": output_padding}
    check(
        lambda: ops.conv_transpose(x, kernel, **arguments),
        transposed(first(x, p["last"]), kcrs(kernel), p, output_padding),
        tensor_dtype(ops, x),
        p["last"],
    )


def transposed(x, w, p, output_padding):
    """All that the input adds to the output, then what Keras takes off its ends, or adds in zeros."""
    ndim = len(p["kernel"])
    stride, dilation = spread(p["strides"], ndim), spread(p["dilation_rate"], ndim)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, p["kernel"], strict=True)]
    extents = [(n - 1) * s + r for n, s, r in zip(x.shape[2:], stride, reach, strict=True)]
    y = ref_conv_backward_input(x, w, extents, stride, [(0, 0)] * ndim, dilation, 1)
    for axis, (n, s, r) in enumerate(zip(x.shape[2:], stride, reach, strict=True), 2):
        if p["padding"] == "valid":
            extra = max(r, s) - r if output_padding is None else output_padding
            front, wanted = 0, (n - 1) * s + r + extra
        else:
            pads = s + r - 2 if output_padding is None else r + r % 2 - 2 + output_padding
            front, wanted = r - 1 - min(-(-pads // 2), r - 1), (n - 1) * s + 2 - r + pads
        room = [(0, 0)] * y.ndim
        room[axis] = (0, wanted)
        y = np.take(np.pad(y, room), range(front, front + wanted), axis)
    return y


@given(problems(), st.sampled_from(("max", "average")))
def test_pool(ops, p, kind):
    ndim = len(p["kernel"])
    x = array(p["rng"], (p["batch"], p["channels"], *p["extent"]), p["dtype"], p["last"])
    stride = spread(p["strides"], ndim)
    pairs = resolve_padding(p["padding"], p["extent"], p["kernel"], stride, (1,) * ndim)
    arguments = steps(p, "strides", "padding")
    plain = first(x, p["last"]).astype(np.float64)
    dtype = x.dtype
    if kind == "max":
        expected = ref_max_pool(plain, p["kernel"], stride, pairs, (1,) * ndim)[0]
    else:
        expected = ref_avg_pool(plain, p["kernel"], stride, pairs, count_include_pad=False)
        # Keras divides: integers become float64, and in older versions some floats do.
        dtype = x.dtype if p["dtype"] in FLOATS and p["padding"] == "same" else None
    pool = getattr(ops, f"{kind}_pool")
    check(lambda: pool(x, p["kernel"], **arguments), expected, dtype, p["last"])


@given(problems(), st.sampled_from(("max", "average")), st.data())
def test_adaptive_pool(keras, ops, p, kind, data):
    name = f"adaptive_{kind}_pool"
    if not hasattr(ops, name):
        pytest.skip(f"Keras {keras.__version__} has none")
    x = array(p["rng"], (p["batch"], p["channels"], *p["extent"]), p["dtype"], p["last"])
    output = tuple(data.draw(st.integers(1, n)) for n in p["extent"])
    plain = first(x, p["last"]).astype(np.float64)
    got = first(getattr(ops, name)(x, output, **steps(p)), p["last"])
    if kind == "max":
        assert got.dtype == x.dtype
        np.testing.assert_array_equal(got, ref_adaptive_max_pool(plain, output)[0])
    else:
        tolerance = {"float16": 1e-2, "bfloat16": 5e-2}.get(p["dtype"], 1e-6)
        expected = ref_adaptive_avg_pool(plain, output)
        np.testing.assert_allclose(got.astype(np.float64), expected, rtol=tolerance, atol=tolerance)


@given(problems(), st.sampled_from(DTYPES))
def test_columns(keras, ops, p, dtype):
    if len(p["kernel"]) != 2 or not p["batch"] or not hasattr(ops, "fold"):
        return
    kernel, extent, stride, dilation = (
        p["kernel"],
        p["extent"],
        spread(p["strides"], 2),
        spread(p["dilation_rate"], 2),
    )
    x = array(p["rng"], (p["batch"], p["channels"], *extent), dtype)
    arguments = {"dilation": dilation, "padding": (1, 2), "stride": stride}
    columns = ref_im2col(x.astype(np.float64), kernel, dilation, ((1, 1), (2, 2)), stride)
    check(lambda: ops.unfold(x, kernel, **arguments), columns, x.dtype, False)
    image = ref_col2im(columns, extent, kernel, dilation, ((1, 1), (2, 2)), stride)
    parts = columns.astype(x.dtype)
    check(lambda: ops.fold(parts, extent, kernel, **arguments), image, x.dtype, False)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_windows_that_do_not_fit(ops, data_format):
    """The output has no cells, which newer versions of Keras refuse for `conv` alone."""
    shape = (2, 5, 9, 3) if data_format == "channels_last" else (2, 3, 5, 9)
    x = np.ones(shape, np.float32)
    options = {"data_format": data_format}
    cases = (
        (lambda: ops.depthwise_conv(x, np.ones((7, 2, 3, 4), np.float32), **options), (2, 12, 0, 8)),
        (lambda: ops.max_pool(x, (7, 2), 1, **options), (2, 3, 0, 8)),
        (lambda: ops.average_pool(x, (7, 2), 2, **options), (2, 3, 0, 4)),
    )
    for call, expected in cases:
        check(call, np.zeros(expected), None, data_format == "channels_last")


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_images_without_columns(ops, data_format):
    last = data_format == "channels_last"
    x = np.ones((2, 5, 0, 3) if last else (2, 3, 5, 0), np.float32)
    options = {"data_format": data_format, "padding": "same"}
    cases = (
        (lambda: ops.max_pool(x, (3, 2), 1, **options), (2, 3, 5, 0)),
        (lambda: ops.average_pool(x, (3, 2), 2, **options), (2, 3, 3, 0)),
        (lambda: ops.conv_transpose(x, np.ones((3, 2, 4, 3), np.float32), 2, **options), (2, 4, 10, 0)),
        (
            lambda: ops.conv_transpose(x, np.ones((3, 2, 4, 3), np.float32), 1, data_format=data_format),
            (2, 4, 7, 1),
        ),
    )
    for call, expected in cases:
        check(call, np.zeros(expected), None, last)


def test_nan_and_infinity_travel(ops):
    x = np.ones((1, 6, 6, 1), np.float32)
    x[0, 1, 1], x[0, 4, 4] = np.nan, -np.inf
    pooled = ops.max_pool(x, 2, 2)[0, :, :, 0]
    np.testing.assert_array_equal(pooled, [[np.nan, 1, 1], [1, 1, 1], [1, 1, 1]])
    summed = ops.average_pool(x, 2, 2)[0, :, :, 0]
    np.testing.assert_array_equal(summed, [[np.nan, 1, 1], [1, 1, 1], [1, 1, -np.inf]])
    np.testing.assert_array_equal(ops.conv(x, np.ones((2, 2, 1, 1), np.float32), 2)[0, :, :, 0], summed * 4)


def test_mixed_floats_are_promoted(ops):
    x, kernel = np.ones((1, 4, 4, 2), np.float16), np.ones((2, 2, 2, 3), np.float32)
    assert ops.conv(x, kernel).dtype == np.float32
    assert ops.conv(x, kernel.astype(np.float64)).dtype == np.float64


def test_fourier_transforms(ops):
    real, imaginary = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    for ours, theirs in ((ops.fft, np.fft.fft), (ops.fft2, np.fft.fft2)):
        got = ours((real, imaginary))
        expected = theirs(real + 1j * imaginary)
        for one, other in zip(got, (expected.real, expected.imag), strict=True):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, atol=1e-5)
    with pytest.raises(ValueError, match="should have the same shape"):
        ops.fft((real, imaginary[:2]))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("conv", {"padding": "full"}, "padding must be one of 'valid', 'same', got 'full'"),
        ("conv", {"strides": 0}, "stride must be a whole number of at least 1, got 0"),
        ("max_pool", {"padding": "full"}, "Invalid padding 'full'"),
        ("max_pool", {}, "window_strides must be 4 numbers"),  # Keras itself widens the pool size twice
    ],
)
def test_wrong_arguments(ops, name, arguments, words):
    x = np.ones((1, 5, 5, 2), np.float32)
    operand = np.ones((2, 2, 2, 3), np.float32) if name == "conv" else 2
    with pytest.raises(ValueError, match=re.escape(words)):
        getattr(ops, name)(x, operand, **arguments)


def test_wrong_arrays(ops):
    x, kernel = np.ones((1, 4, 4, 4, 4, 2), np.float32), np.ones((2, 2, 2, 2, 2, 3), np.float32)
    with pytest.raises(ValueError, match="inputs must be of 1, 2 or 3 spatial dimensions"):
        ops.conv(x, kernel)
    with pytest.raises(TypeError, match="inputs must be numbers"):
        ops.average_pool(x[0] > 0, 2, 2)


# --- in and out of Keras ---------------------------------------------------------------------------------


def test_install_and_uninstall_leave_no_trace(nn):
    names = ("jax", "lax", "adaptive_average_pool", "adaptive_max_pool", "fold", "unfold")
    installed = vars(nn).copy()
    adapter.install()
    assert vars(nn) == installed
    adapter.uninstall()
    try:
        plain = vars(nn).copy()
        assert {name for name in plain if plain[name] is not installed[name]} == names & plain.keys()
        adapter.uninstall()
        assert vars(nn) == plain
        with adapter.installed():
            assert vars(nn)["lax"] is not plain["lax"]
        assert vars(nn) == plain
    finally:
        adapter.install()


def test_what_is_not_replaced_is_jax_s(nn):
    pytest.importorskip("jax")
    assert nn.jax.numpy is importlib.import_module("jax").numpy
    assert nn.lax.min is importlib.import_module("jax").lax.min


def test_another_version_is_refused(monkeypatch, nn):
    adapter.uninstall()
    try:
        with monkeypatch.context() as changed:
            changed.delattr(nn, "lax")
            with pytest.raises(HostError, match=r"keras.src.backend.numpy.nn has no lax"):
                adapter.install()
        with monkeypatch.context() as changed:
            changed.setattr(adapter, "_FILE", Path("nowhere"))
            with pytest.raises(HostError, match="knows Keras 3"):
                adapter.install()
    finally:
        adapter.install()


def test_another_backend_is_refused():
    code = "import fastconv.adapters.keras as k; k.install()"
    run = python("-c", code, KERAS_BACKEND="torch")
    assert "HostError: Keras is to run on torch" in run.stderr.splitlines()[-1]
    # As if Keras had been imported before, with another backend.
    imported = (
        "import sys, types; sys.modules['keras.src.backend.config'] = types.SimpleNamespace("
        "backend=lambda: 'tensorflow'); "
    )
    run = python("-c", imported + code)
    assert "HostError: Keras runs on tensorflow" in run.stderr.splitlines()[-1]


def test_importing_the_adapter_imports_no_keras():
    run = python("-c", "import sys, fastconv.adapters.keras; print({'keras', 'jax'} & set(sys.modules))")
    assert run.stdout.strip() == "set()", run.stderr


WITHOUT_JAX = """
import sys
sys.modules["jax"] = None  # as if it were not installed
import fastconv.adapters.keras
fastconv.adapters.keras.install()
"""

PROGRAM = """
import keras
import numpy as np

keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((20, 20, 3)),
    keras.layers.Conv2D(8, 3, padding="same", activation="relu"),
    keras.layers.MaxPooling2D(),
    keras.layers.SeparableConv2D(12, 3, strides=2, padding="same"),
    keras.layers.BatchNormalization(),
    keras.layers.Conv2DTranspose(6, 3, strides=2, padding="same"),
    keras.layers.AveragePooling2D(3, strides=2, padding="same"),
    keras.layers.DepthwiseConv2D(2, dilation_rate=2),
    keras.layers.GlobalAveragePooling2D(),
    keras.layers.Dense(4),
])
x = np.random.default_rng(0).random((5, 20, 20, 3), dtype="float32")
print(*model.predict(x, verbose=0).ravel())
"""


def test_a_program_without_jax():
    """On the images one by one as on all; with JAX installed also as Keras alone."""
    run = python("-c", WITHOUT_JAX + PROGRAM)
    assert run.returncode == 0, run.stderr
    numbers = np.array(run.stdout.split(), float)
    assert numbers.shape == (20,)
    assert numbers.std() > 0
    if HAS_JAX:
        alone = python("-c", PROGRAM, KERAS_BACKEND="numpy")
        np.testing.assert_allclose(numbers, np.array(alone.stdout.split(), float), rtol=1e-4, atol=1e-6)


def test_what_needs_jax_says_so():
    code = """
assert sys.modules["jax"] is None
import keras, numpy as np
fastconv.adapters.keras.uninstall()
for call in (
    lambda: keras.ops.max_pool(np.ones((1, 4, 4, 1)), 2, 2),
    lambda: keras.src.backend.nn.jax.nn,
):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    run = python("-c", WITHOUT_JAX + code)
    assert run.stdout.splitlines() == [
        "jax.lax.max needs JAX, which is not installed (pip install jax)",
        "jax.nn needs JAX, which is not installed (pip install jax)",
    ], run.stderr


@pytest.mark.parametrize(
    ("tests", "least"),
    [
        (("ops/nn_test.py", "-k", "conv or pool or fold"), 100),
        (("layers/convolutional", "layers/pooling"), 300),
    ],
)
def test_keras_s_own_tests(tests, least):
    """Those of the installed package, in a process where Keras finds no JAX."""
    if not (KERAS_TESTS / "ops" / "nn_test.py").exists():
        pytest.skip("this version of Keras is installed without its tests")
    paths = [str(KERAS_TESTS / word) if "/" in word else word for word in tests]
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(KERAS_TESTS)]
    chosen = ["-m", "not requires_trainable_backend", *paths]  # the backend has no gradients
    code = f"import pytest; sys.exit(pytest.main({[*options, *chosen]!r}))"
    run = python("-c", WITHOUT_JAX + code)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= least
