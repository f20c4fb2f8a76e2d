"""`fastconv.ndimage`: what SciPy's functions of the same names give, and their errors."""

import inspect
from unittest.mock import patch

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

from fastconv import ndimage
from fastconv.ndimage import correlation, filters

MODES = ("reflect", "grid-mirror", "mirror", "nearest", "constant", "grid-constant", "wrap", "grid-wrap")
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
FLOATS = ("float32", "float64")
HAS_AXES = tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 16)


@pytest.fixture(params=["boxes", "whole"])
def no_image_is_too_small(request, monkeypatch):
    """Everything is computed here, by boxes of the border or with a border all around."""
    monkeypatch.setattr(filters, "FEWEST_PRODUCTS", 0)
    monkeypatch.setattr(correlation, "SHORTEST_LINE", 0)
    if request.param == "boxes":
        monkeypatch.setattr(correlation, "FEWEST_CELLS", 0)
        monkeypatch.setattr(correlation, "FEW_WEIGHTS", 4)


def refuse(*arguments, **named):
    raise AssertionError("handed to SciPy")


def here(name, *arguments, **options):
    """Our result, refused where it is SciPy's."""
    with patch.object(scipy.ndimage, name, refuse):
        return getattr(ndimage, name)(*arguments, **options)


def same(name, input, weights, **options):
    """SciPy's result, shape and dtype; and the arguments are what they were."""
    before = input.copy()
    expected = getattr(scipy.ndimage, name)(input, weights, **options)
    found = here(name, input, weights, **options)
    assert type(found) is np.ndarray
    assert found.dtype == expected.dtype
    assert found.flags.c_contiguous
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(input, before, equal_nan=True)


@st.composite
def problems(draw, dtypes, whole=True):
    ndim = draw(st.sampled_from([1, 2, 2, 2, 3, 3, 4]))
    most = (40, 14, 8, 5)[ndim - 1]
    shape = [draw(st.integers(1, most)) for _ in range(ndim)]
    all_axes = not HAS_AXES or draw(st.booleans())
    axes = None if all_axes else tuple(draw(st.permutations(range(-ndim, 0)))[: draw(st.integers(1, ndim))])
    filtered = ndim if axes is None else len(axes)
    kernel = [draw(st.integers(1, (9, 6, 4, 3)[ndim - 1])) for _ in range(filtered)]
    rising = range(filtered)
    if axes is not None and filtered < ndim:  # where each origin's extent stands in the kernel
        rising = [sorted(a % ndim for a in axes).index(a % ndim) for a in axes]
    flipped = draw(st.booleans())
    origin = []
    for k in rising:
        low, high = -(kernel[k] // 2), (kernel[k] - 1) // 2
        origin.append(draw(st.integers(low, high)))
    if draw(st.booleans()):
        origin = 0
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from(dtypes))
    x = rng.integers(0, 2 if dtype == "bool" else 9, shape).astype(dtype)
    if draw(st.booleans()):
        x = np.flip(x.swapaxes(0, -1).copy().swapaxes(0, -1), 0)
    w = rng.integers(-3, 4, kernel).astype(float)
    if not whole:
        w = rng.standard_normal(kernel)
    options = {
        "mode": draw(st.sampled_from(MODES)),
        "cval": draw(st.sampled_from([0.0, 0, 3.0, -2, 2.5])),
        "origin": origin,
    }
    if axes is not None:
        options["axes"] = axes
    return "convolve" if flipped else "correlate", x, w, options


@pytest.mark.usefixtures("no_image_is_too_small")
class TestResults:
    @given(problems(FLOATS))
    @examples(150)
    def test_floats(self, problem):
        name, x, w, options = problem
        same(name, x, w, **options)

    @given(problems(("bool", *INTEGERS, *FLOATS)), st.sampled_from([*INTEGERS, *FLOATS]).map(np.dtype))
    @examples(150)
    def test_any_dtypes(self, problem, dtype):
        name, x, w, options = problem
        same(name, x, w, output=dtype, **options)

    @given(problems(INTEGERS, whole=False))
    @examples(150)
    def test_integers_beside_any_weights(self, problem):
        name, x, w, options = problem
        same(name, x, w, **options)

    @given(
        problems((*INTEGERS, *FLOATS)), st.sampled_from([*INTEGERS, *FLOATS, ">f4"]).map(np.dtype), st.data()
    )
    @examples(100)
    def test_output_arrays(self, problem, dtype, data):
        name, x, w, options = problem
        kind = data.draw(st.sampled_from(["new", "view", "input", "overlap"]))
        expected = getattr(scipy.ndimage, name)(
            x, w, output=x.dtype if kind in ("input", "overlap") else dtype, **options
        )
        if kind == "input":
            out = x
        elif kind == "overlap":
            room = np.zeros((x.shape[0] + 1, *x.shape[1:]), x.dtype)
            room[1:] = x
            x, out = room[1:], room[:-1]
        else:
            out = np.zeros([2 * n for n in x.shape] if kind == "view" else x.shape, dtype)
            out = out[tuple(slice(None, None, -2) for _ in x.shape)] if kind == "view" else out
        found = here(name, x, w, output=out, **options)
        assert found is out
        assert np.array_equal(out, expected)

    @pytest.mark.parametrize("dtype", FLOATS)
    @pytest.mark.parametrize(
        "weights", [[[0, 1, 0], [1, 1e-17, 1], [0, 1, 0]], np.ones((3, 3)), [[np.nan, 1]]]
    )
    @pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
    def test_infinities_and_what_weights_of_zero_stand_on(self, dtype, weights, number):
        x = np.arange(400.0).reshape(20, 20).astype(dtype)
        x[0, 5], x[9, 9], x[19, 0] = number, -number, number
        for mode in MODES:
            same("correlate", x, np.array(weights), mode=mode)

    def test_integers_as_large_as_they_can_be(self):
        for dtype in INTEGERS:
            info = np.iinfo(dtype)
            x = np.array([info.max, info.min, 1, 0, info.max] * 9, dtype)
            for weights in ([0.5, 0, 0], [0, 1, 1e-3], [0.1, -0.3, 0.2], [1, 1, 1], [-1, -2, 3]):
                expected = scipy.ndimage.correlate(x, weights)
                assert np.array_equal(ndimage.correlate(x, weights), expected)

    def test_byte_orders_and_lists(self):
        x = np.arange(60).reshape(6, 10)
        for dtype in (">f4", ">i2", ">u4", "<f8"):
            same("convolve", x.astype(dtype), np.ones((3, 4)))
        w = [[1, 2], [3, 4]]
        assert np.array_equal(here("correlate", x.tolist(), w), scipy.ndimage.correlate(x.tolist(), w))

    @pytest.mark.parametrize("output", [float, "f", "d", np.int16, np.dtype("u1"), ">i4"])
    def test_ways_to_say_a_dtype(self, output):
        if isinstance(output, str) and output not in ("f", "d") and not HAS_AXES:
            pytest.skip("older versions of SciPy know few names")
        same("correlate", np.arange(60.0).reshape(6, 10), np.ones((3, 4)), output=output)

    def test_a_kernel_of_four_axes(self):
        rng = np.random.default_rng(0)
        x, w = rng.standard_normal((5, 4, 6, 7)), rng.standard_normal((2, 3, 2, 3))
        same("convolve", x, w)


@pytest.mark.parametrize("shape", [(70_000,), (300, 260), (40, 50, 60), (2, 40, 50, 60)])
@pytest.mark.parametrize("taps", [3, 8])
@pytest.mark.parametrize("mode", ["reflect", "constant", "wrap"])
def test_large_images(shape, taps, mode):
    rng = np.random.default_rng(0)
    whole = rng.integers(-4, 5, shape)
    kernel = rng.integers(-2, 3, [1] * (len(shape) - min(3, len(shape))) + [taps] * min(3, len(shape)))
    for dtype in ("float32", "float64", "int16"):
        same("correlate", whole.astype(dtype), kernel, mode=mode)
        same("convolve", whole.astype(dtype), kernel, mode=mode, cval=2)


def test_floats_to_rounding():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((300, 200)), rng.standard_normal((7, 5))
    for dtype, error in (("float32", 1e-5), ("float64", 1e-13)):
        expected = scipy.ndimage.correlate(x.astype(dtype), w)
        np.testing.assert_allclose(here("correlate", x.astype(dtype), w), expected, atol=error)
    # Summed in float64, as more than float32 came or is wanted.
    for dtype, output in (("float32", np.float64), ("float64", np.float32), ("uint8", np.float32)):
        expected = scipy.ndimage.correlate(x.astype(dtype), w, output=output)
        found = here("correlate", x.astype(dtype), w, output=output)
        np.testing.assert_allclose(found, expected, rtol=1e-7 if output is np.float32 else 1e-12, atol=1e-12)


X = np.arange(12.0).reshape(3, 4)
K = np.ones((3, 3))


@pytest.mark.parametrize("name", ["correlate", "convolve"])
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((X, np.ones(3)), {}),
        ((X, np.ones((3, 0))), {}),
        ((X, K), {"mode": "edge"}),
        ((X, K), {"mode": ["reflect", "wrap"]}),
        ((X, K), {"mode": None}),
        ((X, K), {"cval": "a"}),
        ((X, K), {"cval": None}),
        ((X, K), {"origin": 2}),
        ((X, K), {"origin": (0, -2)}),
        ((X, K), {"origin": (0, 0, 0)}),
        ((X, K), {"origin": "a"}),
        ((X, K), {"output": np.zeros((4, 3))}),
        ((X, K), {"output": np.broadcast_to(0.0, (3, 4))}),
        ((X, K), {"output": "bool"}),
        ((X, K), {"output": "complex"}),
        ((X, K), {"output": "nothing"}),
        ((X, K), {"output": 3}),
        ((X > 3, K), {}),
        ((X.astype("float16"), K), {}),
        ((X.astype("longdouble"), K), {}),
        ((X.astype(object), K), {}),
        ((X, [["a"]]), {}),
        ((X, [[1, 2], [3]]), {}),
        ((None, K), {}),
        ((X, None), {}),
        *(
            [
                ((X, K), {"axes": (0, 2)}),
                ((X, K), {"axes": (0, 0)}),
                ((X, K), {"axes": 0}),
                ((X, K), {"axes": 1.5}),
            ]
            if HAS_AXES
            else []
        ),
    ],
)
def test_errors_are_scipy_s(name, arguments, named, monkeypatch):
    monkeypatch.setattr(filters, "FEWEST_PRODUCTS", 0)
    raised = []
    for module in (scipy.ndimage, ndimage):
        try:
            raised.append(getattr(module, name)(*arguments, **named))
        except Exception as error:
            raised.append((type(error), str(error)))
    assert np.array_equal(raised[0], raised[1])


@pytest.mark.parametrize(
    "dtypes", [("complex64", "float64"), ("float64", "complex128"), ("float32", "float32")]
)
def test_complex_arrays_scalars_and_empty_ones_are_scipy_s(dtypes):
    x, w = (array.astype(dtype) for array, dtype in zip((X + 1, K), dtypes, strict=True))
    for name in ("correlate", "convolve"):
        for a, b in ((x * (1 + 1j) if x.dtype.kind == "c" else x, w), (x[0, 0], w[0, 0]), (x[:0], w)):
            expected = getattr(scipy.ndimage, name)(a, b)
            found = getattr(ndimage, name)(a, b)
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)


def test_signatures_are_scipy_s():
    for name in ndimage.__all__:
        ours, theirs = (inspect.signature(getattr(module, name)) for module in (ndimage, scipy.ndimage))
        for parameter in theirs.parameters.values():
            assert ours.parameters[parameter.name].kind == parameter.kind
            assert ours.parameters[parameter.name].default == parameter.default
    assert dir(ndimage) == ndimage.__all__
