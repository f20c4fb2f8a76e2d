"""Small things several test files need: function lookup by dimension, layouts, and arrays in odd clothes."""

import numpy as np

import fastconv

FIRST = {1: "NCW", 2: "NCHW", 3: "NCDHW"}
LAST = {1: "NWC", 2: "NHWC", 3: "NDHWC"}
LAYOUTS = [(ndim, layout[ndim]) for ndim in (1, 2, 3) for layout in (FIRST, LAST)]


def function(name, ndim):
    """`function("conv{}_backward", 2)` is `fastconv.conv2d_backward`."""
    return getattr(fastconv, name.format(f"{ndim}d"))


def is_last(layout):
    return layout.endswith("C")


def to_layout(array, layout):
    """A channels-first array (input, weight or output) as `layout` wants it, C-contiguous."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if is_last(layout) else array


def from_layout(array, layout):
    """The channels-first view of an array in `layout`."""
    return np.moveaxis(array, -1, 1) if is_last(layout) else array


def layout_shape(shape, layout):
    """The channels-first shape as `layout` writes it."""
    return (shape[0], *shape[2:], shape[1]) if is_last(layout) else tuple(shape)


def integers(rng, shape, dtype=np.float64, low=-3, high=3):
    """Small whole numbers as floats, so that sums are exact and compare with ==."""
    return rng.integers(low, high, shape, endpoint=True).astype(dtype)


# --- the same values in other memory ---------------------------------------------------------------------


def strided(array):
    """Every second element of a wider array along the last axis, every third along the first."""
    if array.ndim == 0:
        return array
    wide = np.full((array.shape[0] * 3, *array.shape[1:-1], array.shape[-1] * 2), 99, array.dtype)
    if array.ndim == 1:
        wide = np.full(array.shape[0] * 2, 99, array.dtype)
        view = wide[::2]
    else:
        view = wide[::3, ..., ::2]
    view[...] = array
    return view


def negative(array):
    """A view that runs backwards along every axis."""
    turn = (slice(None, None, -1),) * array.ndim
    return np.ascontiguousarray(array[turn])[turn]


def transposed(array):
    """Fortran order."""
    return np.asfortranarray(array)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def misaligned(array):
    """The same array one byte off its alignment."""
    view = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def swapped(array):
    """The other byte order."""
    return array.astype(array.dtype.newbyteorder("S"))


DISGUISES = {f.__name__: f for f in (np.copy, strided, negative, transposed, read_only, misaligned, swapped)}


def assert_equal(got, expected):
    """Same shape and exactly the same values, the oracle's float64 cast to the result's dtype."""
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got, expected.astype(got.dtype))


def assert_fresh(array):
    """The array is C-contiguous and owns or wholly is its memory, as a new result must."""
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.dtype.isnative
