"""Memory that is kept for the next large array: never shared, never more than stated."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastconv
from fastconv import buffers
from fastconv.kernels.vectors import VECTOR_BYTES

FLOAT = np.dtype(np.float32)
LARGE = buffers.LEAST_KEPT // FLOAT.itemsize


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    monkeypatch.setattr(buffers, "KEPT", buffers.Kept())


@pytest.mark.parametrize("elements", [1, 100, buffers.LARGE_RESULT, LARGE - 1, LARGE, LARGE + 5])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint16"])
def test_memory_begins_with_a_vector_and_is_of_the_size(elements, dtype):
    memory = buffers.aligned(elements, np.dtype(dtype))
    assert memory.shape == (elements,)
    assert memory.dtype == dtype
    assert memory.flags.writeable
    assert memory.ctypes.data % VECTOR_BYTES == 0
    memory[...] = 1
    memory[-1] = 2
    assert np.sum(memory, dtype=np.float64) == elements + 1


@pytest.mark.parametrize("elements", [buffers.LARGE_RESULT, LARGE, LARGE + 5])
@pytest.mark.parametrize("offset", [0, 16, 64, 100, 208, 2048, 4092])
def test_results_begin_before_the_place_in_a_page_where_their_source_does(elements, offset):
    memory = np.zeros(buffers.PAGE * 2, np.uint8)
    source = memory[(offset - memory.ctypes.data) % buffers.PAGE :]
    for _ in range(2):  # the second time in memory that was kept for any other place
        result = buffers.new_result((elements,), FLOAT, source)
        assert result.ctypes.data % VECTOR_BYTES == 0
        apart = (source.ctypes.data - result.ctypes.data) % buffers.PAGE
        assert buffers.APART <= apart < buffers.APART + VECTOR_BYTES
        result[...] = 1
        assert np.sum(result, dtype=np.float64) == elements
        del result
        buffers.aligned(elements, FLOAT)


def test_large_memory_comes_back_and_small_memory_does_not():
    first = buffers.aligned(LARGE, FLOAT)
    address = first.ctypes.data
    del first
    assert buffers.aligned(LARGE - LARGE // 8, FLOAT).ctypes.data != address  # less than is kept at all
    assert buffers.aligned(LARGE, FLOAT).ctypes.data == address
    assert len(buffers.KEPT.memories) == 1
    buffers.aligned(LARGE // 2, FLOAT)
    assert len(buffers.KEPT.memories) == 1


def test_arrays_that_live_keep_their_memory_by_any_view():
    result = buffers.new_result((4, LARGE), FLOAT)
    result[...] = 7
    view = result.T[3:5, ::2][1]
    address = result.ctypes.data
    del result
    other = buffers.new_result((4, LARGE), FLOAT)
    other[...] = 8
    assert np.all(view == 7)
    assert other.ctypes.data != address
    del view
    assert buffers.new_result((4, LARGE), FLOAT).ctypes.data == address


def test_much_larger_memory_is_not_given_for_less():
    buffers.aligned(2 * LARGE, FLOAT)
    buffers.aligned(LARGE, FLOAT)
    assert [memory.nbytes for memory in buffers.KEPT.memories] == [8 * LARGE, 4 * LARGE]


def test_no_more_is_kept_than_stated():
    some = buffers.MOST_KEPT // 4 // FLOAT.itemsize
    alive = [buffers.aligned(some + i, FLOAT) for i in range(6)]
    alive.clear()
    assert buffers.KEPT.nbytes <= buffers.MOST_KEPT
    assert len(buffers.KEPT.memories) == 3  # each a little more than a quarter
    many = [buffers.aligned(LARGE, FLOAT) for _ in range(buffers.MOST_ARRAYS + 5)]
    many.clear()
    assert len(buffers.KEPT.memories) == buffers.MOST_ARRAYS
    buffers.aligned(2 * buffers.MOST_KEPT // FLOAT.itemsize, FLOAT)
    assert buffers.KEPT.nbytes <= buffers.MOST_KEPT


def test_what_is_kept_is_let_go_before_memory_is_short(monkeypatch):
    buffers.aligned(LARGE, FLOAT)
    made = buffers.Memory

    def short(nbytes):
        if buffers.KEPT.memories:
            raise MemoryError
        return made(nbytes)

    monkeypatch.setattr(buffers, "Memory", short)
    assert buffers.aligned(3 * LARGE, FLOAT).size == 3 * LARGE

    def none(nbytes):
        raise MemoryError

    monkeypatch.setattr(buffers, "Memory", none)
    with pytest.raises(MemoryError):
        buffers.aligned(9 * LARGE, FLOAT)


def test_threads_never_share_memory():
    def work(number):
        for turn in range(200):
            own = buffers.aligned(LARGE + turn % 3, FLOAT)
            mark = number * 1000 + turn
            own[::512] = mark
            if not np.all(own[::512] == mark):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert len(buffers.KEPT.memories) <= buffers.MOST_ARRAYS


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_results_of_all_passes_stay_as_they_are(layout):
    """Later calls, which find the memory of dead results, leave those that live alone."""
    rng = np.random.default_rng(0)
    size = (2, 32, 96, 96) if layout == "NCHW" else (2, 96, 96, 32)
    x = rng.standard_normal(size, dtype=np.float32)
    w = rng.standard_normal((32, 32, 3, 3) if layout == "NCHW" else (32, 3, 3, 32), dtype=np.float32)

    def results():
        y = fastconv.conv2d(x, w, padding=1, layout=layout)
        dx, dw, db = fastconv.conv2d_backward(y, x, w, padding=1, layout=layout)
        pooled, indices = fastconv.max_pool2d(y, 2, return_indices=True, layout=layout)
        back = fastconv.max_pool2d_backward(pooled, indices, y.shape, layout=layout)
        return y, dx, dw, db, pooled, indices, back, fastconv.avg_pool2d(y, 2, layout=layout)

    first = results()
    copies = [array.copy() for array in first]
    for _ in range(3):
        for again, copy in zip(results(), copies, strict=True):
            assert np.array_equal(again, copy)
    for array, copy in zip(first, copies, strict=True):
        assert np.array_equal(array, copy)
