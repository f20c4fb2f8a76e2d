"""`fastconv.dask`: equal to the in-memory results, to the bit for whole numbers, for any chunks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

import fastconv

pytest.importorskip("dask.array")
import dask
import dask.array as da

from fastconv import dask as fd
from fastconv.dask.graphs import Layer, pieces

POOLS = ("max_pool{}", "max_pool{}_backward", "avg_pool{}", "avg_pool{}_backward")
LAYOUTS = {1: ("NCW", "NWC"), 2: ("NCHW", "NHWC"), 3: ("NCDHW", "NDHWC")}


@pytest.fixture(autouse=True)
def in_one_thread():
    with dask.config.set(scheduler="sync"):
        yield


def whole(rng, size, dtype):
    return rng.integers(-3, 4, size).astype(dtype)


def chunked(draw, array, whole_axis=None):
    """An array of Dask in any chunks, of one cell and of all."""
    chunks = []
    for axis, extent in enumerate(array.shape):
        cuts = [] if axis == whole_axis else draw(st.lists(st.integers(1, max(1, extent - 1)), max_size=4))
        bounds = sorted({0, extent, *(cut for cut in cuts if cut < extent)})
        chunks.append(tuple(np.diff(bounds)) or (0,))
    return da.from_array(array, chunks=tuple(tuple(map(int, c)) for c in chunks))


@st.composite
def problems(draw):
    ndim = draw(st.sampled_from([1, 2, 2, 2, 3]))
    groups = draw(st.integers(1, 2))
    channels, filters = (groups * draw(st.integers(1, 2)) for _ in range(2))
    kernel = [draw(st.integers(1, 4)) for _ in range(ndim)]
    stride, dilation = ([draw(st.integers(1, 4 - k)) for _ in range(ndim)] for k in (0, 1))
    padding = [(draw(st.integers(0, 5)), draw(st.integers(0, 5))) for _ in range(ndim)]
    most = (24, 12, 8)[ndim - 1]
    least = [max(1, d * (k - 1) + 1 - sum(p)) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    extent = [draw(st.integers(n, max(n, most))) for n in least]
    last, dtype = draw(st.booleans()), draw(st.sampled_from(["float32", "float64"]))
    batch = draw(st.integers(1, 3))
    sizes = (batch, channels, *extent), (filters, channels // groups, *kernel)
    if last:
        sizes = tuple((a, *rest, b) for a, b, *rest in sizes)
    steps = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return ndim, sizes, steps, LAYOUTS[ndim][last], dtype


def same(lazy, expected):
    assert isinstance(lazy, da.Array)
    assert lazy.shape == expected.shape
    assert lazy.dtype == expected.dtype
    assert lazy._meta.dtype == expected.dtype
    for k, chunks in enumerate(lazy.chunks):
        assert sum(chunks) == expected.shape[k]
    found = lazy.compute()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    # Every chunk is of the size that was said.
    for numbers in np.ndindex(*lazy.numblocks):
        said = tuple(chunks[k] for chunks, k in zip(lazy.chunks, numbers, strict=True))
        assert lazy.blocks[numbers].compute().shape == said
        break


@given(problems(), st.data())
@examples(80)
def test_convolution_and_both_gradients_in_any_chunks(problem, data):
    ndim, (input_size, weight_size), steps, layout, dtype = problem
    rng = np.random.default_rng(0)
    x, w, b = (whole(rng, size, dtype) for size in (input_size, weight_size, weight_size[0]))
    axis = ndim + 1 if layout.endswith("C") else 1
    memory, lazily = (
        {name: getattr(of, f"conv{ndim}d{name}") for name in ("", "_backward_input", "_backward_weight")}
        for of in (fastconv, fd)
    )
    y = memory[""](x, w, b, **steps, layout=layout)
    lazy_x = chunked(data.draw, x, axis)
    weight = data.draw(st.sampled_from([w, da.from_array(w, chunks=1)]))
    same(lazily[""](lazy_x, weight, b, **steps, layout=layout), y)
    if 0 in y.shape:
        return
    dy = whole(rng, y.shape, dtype)
    lazy_dy = chunked(data.draw, dy, axis)
    expected = memory["_backward_input"](dy, w, x.shape, **steps, layout=layout)
    same(lazily["_backward_input"](lazy_dy, weight, x.shape, **steps, layout=layout), expected)
    expected = memory["_backward_weight"](dy, x, w.shape, **steps, layout=layout)
    same(lazily["_backward_weight"](lazy_dy, lazy_x, w.shape, **steps, layout=layout), expected)


@given(problems(), st.data())
@examples(40)
def test_transposed_convolution_and_both_gradients_in_any_chunks(problem, data):
    ndim, (_, weight_size), steps, layout, dtype = problem
    last = layout.endswith("C")
    steps["padding"] = [data.draw(st.integers(0, d * (k - 1))) for k, d in zip(
        weight_size[1:-1] if last else weight_size[2:], steps["dilation"], strict=True
    )]  # fmt: skip
    extra = [
        data.draw(st.integers(0, max(s, d) - 1))
        for s, d in zip(steps["stride"], steps["dilation"], strict=True)
    ]
    steps["output_padding"] = extra
    rng = np.random.default_rng(0)
    extent = [data.draw(st.integers(1 + p, 8 + p)) for p in steps["padding"]]
    size = (2, *extent, weight_size[0]) if last else (2, weight_size[0], *extent)
    x, w = whole(rng, size, dtype), whole(rng, weight_size, dtype)
    channels = (weight_size[-1] if last else weight_size[1]) * steps["groups"]
    b = whole(rng, channels, dtype)
    y = getattr(fastconv, f"conv_transpose{ndim}d")(x, w, b, **steps, layout=layout)
    axis = ndim + 1 if last else 1
    lazy_x = chunked(data.draw, x, axis)
    same(getattr(fd, f"conv_transpose{ndim}d")(lazy_x, w, b, **steps, layout=layout), y)
    dy = whole(rng, y.shape, dtype)
    lazy_dy = chunked(data.draw, dy, axis)
    grads = getattr(fastconv, f"conv_transpose{ndim}d_backward")(dy, x, w, **steps, layout=layout)
    lazy = getattr(fd, f"conv_transpose{ndim}d_backward_input")(lazy_dy, w, x.shape, **steps, layout=layout)
    same(lazy, grads.input)
    lazy = getattr(fd, f"conv_transpose{ndim}d_backward_weight")(
        lazy_dy, lazy_x, w.shape, **steps, layout=layout
    )
    same(lazy, grads.weight)


@given(st.data())
@examples(80)
def test_pooling_and_its_gradients_in_any_chunks(data):
    ndim = data.draw(st.sampled_from([1, 2, 2, 3]))
    last, dtype = data.draw(st.booleans()), data.draw(st.sampled_from(["float32", "float64"]))
    layout = LAYOUTS[ndim][last]
    kernel = [data.draw(st.integers(1, 4)) for _ in range(ndim)]
    stride = data.draw(st.one_of(st.none(), st.integers(1, 4)))
    padding = [data.draw(st.integers(0, k // 2)) for k in kernel]
    ceil_mode = data.draw(st.booleans())
    dilation = data.draw(st.integers(1, 3))
    extent = [data.draw(st.integers(max(1, dilation * (k - 1) + 1), 14 if ndim < 3 else 9)) for k in kernel]
    size = (2, *extent, 3) if last else (2, 3, *extent)
    rng = np.random.default_rng(0)
    x = whole(rng, size, dtype)
    if data.draw(st.booleans()):  # windows of the lowest number there is
        x[rng.random(size) < 0.5] = -np.inf
    lazy_x = chunked(data.draw, x)
    windows = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "ceil_mode": ceil_mode,
        "layout": layout,
    }
    memory, lazily = (
        {name: getattr(of, name.format(f"{ndim}d")) for name in POOLS}
        for of in (fastconv, fd)
    )  # fmt: skip
    y, indices = memory["max_pool{}"](x, **windows, dilation=dilation, return_indices=True)
    lazy_y, lazy_indices = lazily["max_pool{}"](lazy_x, **windows, dilation=dilation, return_indices=True)
    same(lazy_y, y)
    same(lazy_indices, indices)
    same(lazily["max_pool{}"](lazy_x, **windows, dilation=dilation), y)
    if 0 in y.shape:
        return
    dy = whole(rng, y.shape, dtype)
    lazy_dy = chunked(data.draw, dy)
    lazy = lazily["max_pool{}_backward"](
        lazy_dy, da.from_array(indices, chunks=lazy_dy.chunks), x.shape, **windows, dilation=dilation
    )
    same(lazy, memory["max_pool{}_backward"](dy, indices, x.shape, layout=layout))
    x[~np.isfinite(x)] = 0
    divided = {
        "count_include_pad": data.draw(st.booleans()),
        "divisor_override": data.draw(st.one_of(st.none(), st.integers(1, 5))),
    }
    y = memory["avg_pool{}"](x, **windows, **divided)
    lazy = lazily["avg_pool{}"](da.from_array(x, chunks=lazy_x.chunks), **windows, **divided)
    assert lazy.dtype == y.dtype
    np.testing.assert_allclose(lazy.compute(), y, rtol=1e-6, atol=1e-6)
    dy = whole(rng, y.shape, dtype)
    lazy = lazily["avg_pool{}_backward"](chunked(data.draw, dy), x.shape, **windows, **divided)
    expected = memory["avg_pool{}_backward"](dy, x.shape, **windows, **divided)
    assert lazy.shape == expected.shape
    np.testing.assert_allclose(lazy.compute(), expected, rtol=1e-5, atol=1e-5)


def test_float16_is_summed_in_float32():
    x = np.full((1, 1, 32, 32), 100, np.float16)
    same(fd.avg_pool2d(da.from_array(x, chunks=16), 32), fastconv.avg_pool2d(x, 32))
    dy = np.full((8, 1, 4, 4), 1000, np.float16)
    dy[4:] *= -1
    x = np.full(dy.shape, 60, np.float16)
    lazy = fd.conv2d_backward_weight(da.from_array(dy, chunks=(1, 1, 4, 4)), da.from_array(x), (1, 1, 1, 1))
    same(lazy, fastconv.conv2d_backward_weight(dy, x, (1, 1, 1, 1)))
    dy = np.ones((1, 1, 1, 1), np.float16)
    lazy = fd.adaptive_avg_pool2d_backward(da.from_array(dy), (1, 1, 512, 512))
    same(lazy, fastconv.adaptive_avg_pool2d_backward(dy, (1, 1, 512, 512)))


def test_results_without_cells():
    x = np.ones((1, 1, 2, 8))
    same(
        fd.conv2d(da.from_array(x, chunks=(1, 1, 1, 3)), np.ones((1, 1, 3, 3))),
        fastconv.conv2d(x, np.ones((1, 1, 3, 3))),
    )
    same(fd.max_pool2d(da.from_array(x, chunks=(1, 1, 1, 3)), 3, 1), fastconv.max_pool2d(x, 3, 1))


def test_windows_without_cells_have_no_index():
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    windows = {"kernel_size": 2, "dilation": 5, "padding": 1}
    values, indices = fd.max_pool2d(da.from_array(x, chunks=2), **windows, return_indices=True)
    expected = fastconv.max_pool2d(x, **windows, return_indices=True)
    same(values, expected[0])
    same(indices, expected[1])
    dy = da.ones_like(values)
    same(fd.max_pool2d_backward(dy, indices, x.shape, **windows), np.zeros(x.shape))
    with pytest.raises(ValueError, match="indices must be"):
        fd.max_pool2d_backward(dy, da.full_like(indices, 16), x.shape, 2, padding=1, dilation=5).compute()


def test_a_border_does_not_keep_its_chunk():
    x = da.ones((1, 8, 6, 3), chunks=(1, 4, 6, 3))
    layer = Layer()
    pieces(layer, x, ((0, 1), (3, 4), (0, 6), (0, 3)))
    layer.finish()
    ((cut, _, places),) = layer.values()
    (part,) = cut(np.ones((1, 4, 6, 3)), places)
    assert part.shape == (1, 1, 6, 3)
    assert part.base is None


def test_an_axis_of_many_chunks():
    x = da.ones((1, 1, 20_000), chunks=(1, 1, 5))
    y = fd.conv1d(x, np.ones((1, 1, 3)), padding=1)
    assert y.chunks == x.chunks
    assert len(y.__dask_graph__()) < 2.1 * x.npartitions + 10 + len(x.__dask_graph__())
    assert y[..., 9_998:10_003].compute().tolist() == [[[3, 3, 3, 3, 3]]]


def test_means_of_whole_planes():
    x = np.random.default_rng(0).integers(0, 9, (2, 3, 7, 8)).astype("float32")
    lazy = da.from_array(x, chunks=(1, 2, 3, 5))
    same(fd.adaptive_avg_pool2d(lazy, 1), fastconv.adaptive_avg_pool2d(x, 1))
    dy = np.ones((2, 3, 1, 1), "float32")
    same(
        fd.adaptive_avg_pool2d_backward(da.from_array(dy), x.shape),
        fastconv.adaptive_avg_pool2d_backward(dy, x.shape),
    )
    with pytest.raises(ValueError, match="output_size must be 1"):
        fd.adaptive_avg_pool2d(lazy, 2)


@given(st.data())
@examples(60)
def test_maxima_of_whole_planes_in_any_chunks(data):
    ndim = data.draw(st.sampled_from([1, 2, 2, 3]))
    last = data.draw(st.booleans())
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64", "int8", "uint64"]))
    extent = [data.draw(st.integers(1, (20, 9, 6)[ndim - 1])) for _ in range(ndim)]
    batch = data.draw(st.sampled_from([(), (0,), (1,), (3,)]))
    size = (*batch, *extent, 2) if last else (*batch, 2, *extent)
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    x = rng.integers(0, 4, size).astype(dtype)
    if x.dtype.kind == "f":
        share = data.draw(st.sampled_from([0, 0.1, 1]))
        x[rng.random(size) < share] = data.draw(st.sampled_from([np.nan, -np.inf, np.inf, -0.0]))
    name, layout = f"adaptive_max_pool{ndim}d", {"layout": LAYOUTS[ndim][last]}
    lazy_x = chunked(data.draw, x)
    y, indices = getattr(fastconv, name)(x, 1, return_indices=True, **layout)
    lazy_y, lazy_indices = getattr(fd, name)(lazy_x, (1,) * ndim, return_indices=True, **layout)
    same(lazy_y, y)
    same(lazy_indices, indices)
    same(getattr(fd, name)(lazy_x, 1, **layout), y)
    dy = whole(rng, y.shape, "float32")
    given_indices = data.draw(st.sampled_from([lazy_indices, chunked(data.draw, indices)]))
    lazy = getattr(fd, f"{name}_backward")(chunked(data.draw, dy), given_indices, x.shape, **layout)
    same(lazy, getattr(fastconv, f"{name}_backward")(dy, indices, x.shape, **layout))


def test_the_first_maximum_may_be_in_a_later_chunk():
    x = np.zeros((1, 2, 4, 4), "float32")
    x[0, 0, 0, 3] = x[0, 0, 1, 0] = 5  # the first of them in row-major order is in the second chunk
    x[0, 1, 1, 1] = x[0, 1, 0, 2] = np.nan
    lazy = da.from_array(x, chunks=(1, 2, 2, 2))
    _, indices = fd.adaptive_max_pool2d(lazy, 1, return_indices=True)
    assert indices.compute().ravel().tolist() == [3, 2]
    last = lazy.transpose(0, 2, 3, 1)
    _, indices = fd.adaptive_max_pool2d(last, 1, True, layout="NHWC")
    assert indices.compute().ravel().tolist() == [3, 2]


def test_chunks_without_cells_have_no_maximum():
    x = np.arange(12.0).reshape(1, 1, 12)
    same(fd.adaptive_max_pool1d(da.from_array(x, chunks=(1, 1, (5, 0, 7, 0))), 1), x.max(2, keepdims=True))


def test_the_gradient_of_a_large_plane_is_in_chunks():
    y = da.ones((1, 1, 1, 1), dtype="float32")
    with dask.config.set({"array.chunk-size": "1MiB"}):
        lazy = fd.adaptive_max_pool2d_backward(y, y.astype("uint8"), (1, 1, 2048, 2048))
    assert max(map(max, lazy.chunks)) <= 1024
    assert lazy.sum().compute() == lazy[0, 0, 0, 1].compute() == 1


@given(st.data())
@examples(30)
def test_gradients_of_pooling_without_a_batch(data):
    ndim, last = data.draw(st.sampled_from([1, 2, 2, 3])), data.draw(st.booleans())
    layout = {"layout": LAYOUTS[ndim][last]}
    extent = [data.draw(st.integers(3, 9)) for _ in range(ndim)]
    x = whole(np.random.default_rng(0), (*extent, 2) if last else (2, *extent), "float64")
    windows = data.draw(st.sampled_from([(2,), (3, 2), (3, 1, 1)]))
    of, lazily = (
        {
            name: getattr(module, f"{name.replace('_backward', '')}{ndim}d{'_backward' * ('_b' in name)}")
            for pool in ("max_pool", "avg_pool", "adaptive_avg_pool")
            for name in (pool, f"{pool}_backward")
        }
        for module in (fastconv, fd)
    )
    y, indices = of["max_pool"](x, *windows, return_indices=True, **layout)
    dy = whole(np.random.default_rng(1), y.shape, "float64")
    lazy_dy = chunked(data.draw, dy)
    lazy = lazily["max_pool_backward"](lazy_dy, da.from_array(indices), x.shape, *windows, **layout)
    same(lazy, of["max_pool_backward"](dy, indices, x.shape, **layout))
    lazy = lazily["avg_pool_backward"](lazy_dy, x.shape, *windows, divisor_override=1, **layout)
    same(lazy, of["avg_pool_backward"](dy, x.shape, *windows, divisor_override=1, **layout))
    dy = of["adaptive_avg_pool"](x, 1, **layout)
    lazy = lazily["adaptive_avg_pool_backward"](chunked(data.draw, dy), x.shape, **layout)
    expected = of["adaptive_avg_pool_backward"](dy, x.shape, **layout)
    assert lazy.shape == expected.shape
    np.testing.assert_allclose(lazy.compute(), expected, rtol=1e-14)
    for name, arguments in (("avg_pool", windows), ("adaptive_avg_pool", ())):
        with pytest.raises(ValueError, match="as many as input_size has"):
            lazily[f"{name}_backward"](da.from_array(dy), (1, *x.shape), *arguments, **layout)


REFUSED = ["bool", "complex64", "object", "longdouble", "S3", "datetime64[s]"]


@pytest.mark.parametrize("dtype", REFUSED)
@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d", "adaptive_max_pool2d", "adaptive_avg_pool2d"])
def test_pooling_refuses_a_dtype_by_the_line_of_the_function_in_memory(name, dtype):
    x = np.zeros((1, 1, 4, 4), dtype)
    lines = []
    for module, arrays in ((fastconv, lambda a: a), (fd, lambda a: da.from_array(a, chunks=a.shape))):
        with pytest.raises(TypeError, match="input must be") as error:
            getattr(module, name)(arrays(x), 1)
        lines.append(str(error.value))
        indices = [arrays(np.zeros(x.shape, np.int64))] * ("max" in name)
        kernel = [1] * (name == "avg_pool2d" or (name == "max_pool2d" and module is fd))
        with pytest.raises(TypeError, match="grad_output must be") as error:
            getattr(module, f"{name}_backward")(arrays(x), *indices, x.shape, *kernel)
        lines.append(str(error.value))
    assert lines[:2] == lines[2:]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: fd.avg_pool2d(x.astype(int), 2), r"got dtype int64; convert it with input.astype"),
        (lambda x: fd.max_pool2d(da.ma.masked_equal(x, 1), 2), r"got a masked array; fill it first"),
        (
            lambda x: fd.adaptive_max_pool2d(x, 2),
            "output_size must be 1, .*adaptive_max_pool2d has no others",
        ),
        (lambda x: fd.adaptive_max_pool2d(x, (1, None)), "output_size must be 1, "),
        (lambda x: fd.adaptive_max_pool2d(x[:, :, :0], 1), "at least 1 in every spatial extent"),
        (lambda x: fd.adaptive_max_pool2d(x, 1, return_indices=1), "return_indices must be True or False"),
        (
            lambda x: fd.max_pool2d(x.astype(int), 2, padding=1, dilation=9),
            "of a float dtype where a window is all padding, got dtype int64",
        ),
        (lambda x: fd.max_pool2d_backward(x, x, (1, 3, 16, 16), 2), "indices must be an int64 array"),
        (
            lambda x: fd.adaptive_max_pool2d_backward(x, x.astype(int), x.shape),
            "grad_output must be of shape",
        ),
        (
            lambda x: fd.adaptive_max_pool2d_backward(x[:, :, :1, :1], x[:, :, :1, :2].astype(int), x.shape),
            "indices must be of shape",
        ),
    ],
)
def test_pooling_refuses_wrong_arguments_before_anything_is_computed(call, words):
    def refuse(block):
        raise AssertionError("computed")

    x = da.ones((1, 3, 8, 8), chunks=(1, 3, 4, 4)).map_blocks(refuse, meta=np.empty((0,) * 4))
    with pytest.raises((ValueError, TypeError), match=words):
        call(x)


def test_other_byte_orders_and_narrow_indices():
    x = np.arange(2 * 3 * 20 * 20).reshape(2, 3, 20, 20) % 50
    swapped = x.astype(np.dtype("float32").newbyteorder())
    lazy = da.from_array(swapped, chunks=(1, 3, 7, 9))
    same(fd.max_pool2d(lazy, 2), fastconv.max_pool2d(swapped, 2))
    same(fd.adaptive_max_pool2d(lazy, 1), fastconv.adaptive_max_pool2d(swapped, 1))
    same(fd.adaptive_avg_pool2d(lazy, 1), fastconv.adaptive_avg_pool2d(swapped, 1))
    dy = np.ones((1, 1, 1, 1))
    lazy = fd.max_pool2d_backward(
        da.from_array(dy), da.full(dy.shape, 200, dtype="uint8"), (1, 1, 20, 20), 20
    )
    same(lazy, fastconv.max_pool2d_backward(dy, np.full(dy.shape, 200), (1, 1, 20, 20)))


def test_a_chain_of_layers_needs_no_rechunking():
    x = da.ones((4, 3, 64, 64), chunks=(2, 3, 16, 32))
    y = fd.conv2d(x, np.ones((4, 3, 3, 3)), padding=1)
    assert y.chunks[2:] == x.chunks[2:]
    pooled = fd.max_pool2d(y, 2)
    strided = fd.conv2d(y, np.ones((4, 4, 3, 3)), stride=2, padding=1)
    shortcut = fd.conv2d(y, np.ones((4, 4, 1, 1)), stride=2)
    assert pooled.chunks[2:] == strided.chunks[2:] == shortcut.chunks[2:] == ((8, 8, 8, 8), (16, 16))
    up = fd.conv_transpose2d(strided, np.ones((4, 2, 2, 2)), stride=2)
    assert up.chunks[2:] == y.chunks[2:]


def test_nothing_is_computed_before_it_is_asked_for():
    def refuse(block):
        raise AssertionError("computed")

    x = da.ones((2, 3, 8, 8), chunks=(1, 3, 4, 4)).map_blocks(refuse, meta=np.empty((0,) * 4))
    y = fd.conv2d(x, np.ones((4, 3, 3, 3)))
    assert (y.shape, y.dtype) == ((2, 4, 6, 6), np.float64)
    assert fd.max_pool2d(y, 2).shape == (2, 4, 3, 3)


def test_a_graph_is_a_few_tasks_a_chunk():
    x = da.ones((1, 3, 6400, 6400), chunks=(1, 3, 64, 64), dtype="float32")
    y = fd.conv2d(x, np.ones((4, 3, 3, 3), "float32"), padding=1)
    assert y.npartitions == 10_000
    # Eight borders of a chunk, the chunk, and the call.
    assert len(y.__dask_graph__()) < 11 * 10_000


def test_borders_travel_and_not_chunks():
    x = da.ones((1, 3, 40, 40), chunks=(1, 3, 20, 20))
    y = fd.conv2d(x, np.ones((4, 3, 3, 3)), padding=1)
    cuts = [value for key, value in dict(y.__dask_graph__()).items() if str(key[0]).startswith("cut-")]
    assert len(cuts) == 4  # a task a chunk, of two edges and a corner
    assert all(len(places) == 3 for _, _, places in cuts)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: fd.conv2d(np.ones((1, 3, 8, 8)), np.ones((2, 3, 3, 3))), "input must be an array of Dask"),
        (lambda x: fd.conv2d(x.rechunk({1: 1}), np.ones((2, 3, 3, 3))), r"pass input.rechunk\(\{1: -1\}\)"),
        (lambda x: fd.conv2d(x[x[:, 0, 0, 0] > 0], np.ones((2, 3, 3, 3))), r"input.compute_chunk_sizes\(\)"),
        (lambda x: fd.conv2d(x.astype(int), np.ones((2, 3, 3, 3), int)), "input must be of float16"),
        (lambda x: fd.conv2d(x, np.ones((2, 4, 3, 3))), "channels"),
        (lambda x: fd.conv2d(x, np.ones((2, 3, 10, 10))), "at least as large as the dilated kernel"),
        (lambda x: fd.conv2d(x, np.ones((2, 3, 3, 3)), np.ones(3)), "bias must be of shape"),
        (lambda x: fd.conv2d(x, np.ones((2, 3, 3, 3)), stride=0), "stride must be"),
        (lambda x: fd.conv2d(x, np.ones((2, 3, 3, 3)), algorithm="fast"), "algorithm must be"),
        (
            lambda x: fd.conv2d_backward_input(x, np.ones((3, 3, 3, 3)), (1, 3, 8, 8)),
            "grad_output must be of shape",
        ),
        (lambda x: fd.max_pool2d(x, 2, padding=2), "at most half the kernel"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_computed(call, words):
    x = da.ones((1, 3, 8, 8), chunks=(1, 3, 4, 4))
    with pytest.raises((ValueError, TypeError), match=words):
        call(x)


def test_results_are_the_same_from_process_to_process_and_by_any_scheduler():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 20, 20)), rng.standard_normal((4, 3, 3, 3))
    lazy = da.from_array(x, chunks=(1, 3, 7, 9))
    y = fd.conv2d(lazy, w)
    gradient = fd.conv2d_backward_weight(y, lazy, w.shape)
    assert y.name == fd.conv2d(lazy, w).name
    found = [gradient.compute(scheduler=name) for name in ("sync", "threads")]
    np.testing.assert_array_equal(*found)
