"""`fastconv.dask.register`: dask-image's filters give what they gave, computed by fastconv."""

import pickle
import sys
from functools import partial
from importlib import import_module
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("dask.array")
import dask
import dask.array as da

import fastconv
from fastconv import dask as fd
from fastconv import ndimage
from fastconv.dask import images
from fastconv.ndimage import filters

MODES = ("reflect", "mirror", "nearest", "constant", "wrap")


@pytest.fixture
def ndfilters(monkeypatch):
    """dask-image's filters; its functions for chunks of NumPy are put back afterwards."""
    found = pytest.importorskip("dask_image.ndfilters")
    dispatchers = pytest.importorskip(images.DISPATCHERS)
    monkeypatch.setattr(filters, "FEWEST_PRODUCTS", 0)
    for dispatcher in (dispatchers.dispatch_convolve, dispatchers.dispatch_correlate):
        monkeypatch.setitem(dispatcher._lookup, np.ndarray, dispatcher._lookup[np.ndarray])
    with dask.config.set(scheduler="sync"):
        yield found


def refuse(*arguments, **named):
    raise AssertionError("handed to SciPy")


@pytest.mark.parametrize("name", ["convolve", "correlate"])
@pytest.mark.parametrize("mode", MODES)
def test_filters_give_what_they_gave(name, mode, ndfilters):
    rng = np.random.default_rng(0)
    calls = []
    for shape, kernel, origin in (((40, 50), (5, 4), 0), ((12, 10, 14), (3, 3, 3), (1, 0, -1))):
        for dtype in ("float32", "float64", "uint8"):
            x = da.from_array(rng.integers(0, 9, shape).astype(dtype), chunks=[n // 2 + 1 for n in shape])
            w = rng.integers(-3, 4, kernel)
            calls.append(partial(getattr(ndfilters, name), x, w, mode=mode, cval=2, origin=origin))
    before = [call().compute() for call in calls]
    fd.register()
    fd.register()
    with patch.object(filters.scipy.ndimage, name, refuse):
        found = [call().compute() for call in calls]
    for a, b in zip(before, found, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_a_task_is_a_function_that_travels(ndfilters):
    fd.register()
    dispatcher = import_module(images.DISPATCHERS).dispatch_correlate
    function = dispatcher(da.ones(3))
    assert function is images.correlate
    assert pickle.loads(pickle.dumps(function)) is function


def test_a_chunk_takes_one_thread(monkeypatch):
    seen = []
    monkeypatch.setattr(ndimage, "correlate", lambda *_: seen.append(fastconv.get_num_threads()))
    monkeypatch.setattr(ndimage, "convolve", lambda *_: seen.append(fastconv.get_num_threads()))
    images.correlate(None)
    images.convolve(None)
    assert seen == [1, 1]


def test_without_dask_image():
    with (
        patch.dict(sys.modules, {"dask_image": None}),
        pytest.raises(ImportError, match="pip install dask-image"),
    ):
        fd.register()


def test_another_layout_of_dask_image(ndfilters, monkeypatch):
    monkeypatch.setattr(images, "DISPATCHERS", "dask_image.dispatch._elsewhere")
    with pytest.raises(ImportError, match=r"no dask_image.dispatch._elsewhere.dispatch_convolve"):
        fd.register()
