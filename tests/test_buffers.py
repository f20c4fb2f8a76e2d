"""Memory that is kept for the next large array: never shared, never more than stated."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numba
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
    monkeypatch.setattr(buffers.Kept, "_start_timer", lambda kept: None)


@pytest.mark.parametrize("elements", [1, 100, LARGE - 1, LARGE, LARGE + 5, 33 * LARGE])
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


@pytest.mark.parametrize("elements", [LARGE, LARGE + 5, 33 * LARGE])
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


@pytest.mark.parametrize("nbytes", [1, 2, 3, 5, 8, 9, 1000, 2**15, 2**15 + 1, 3 * 2**20 + 7])
def test_a_block_is_at_most_a_quarter_larger(nbytes):
    assert nbytes <= buffers._rounded(nbytes) <= nbytes + nbytes // 4
    assert buffers._rounded(buffers._rounded(nbytes)) == buffers._rounded(nbytes)


def owner(array):
    """The end of an array's chain of bases."""
    while array.base is not None:
        array = array.base
    return array


def test_large_memory_comes_back_and_small_memory_is_not_kept():
    first = buffers.aligned(4 * LARGE, FLOAT)
    address = owner(first).ctypes.data
    del first
    buffers.aligned(LARGE - 1, FLOAT)
    again = buffers.aligned(4 * LARGE - 100, FLOAT)
    assert owner(again).ctypes.data == address
    assert len(buffers.KEPT.blocks()) == 1
    assert owner(buffers.aligned(4 * LARGE, FLOAT)).ctypes.data != address  # which `again` has
    assert len(buffers.KEPT.blocks()) == 2


@pytest.mark.parametrize(
    "hold",
    [
        lambda result: result,
        lambda result: result.T[3:5, ::2][1],
        lambda result: result.reshape(-1).view(np.uint8)[7:],
        memoryview,
        lambda result: np.asarray(memoryview(result)),
        lambda result: np.lib.stride_tricks.as_strided(result, (3,), (0,)),
        lambda result: result.flat,
        lambda result: result.base,
    ],
)
def test_whatever_holds_the_memory_keeps_it(hold):
    result = buffers.new_result((4, LARGE), FLOAT)
    result[...] = 7
    address = owner(result).ctypes.data
    held = hold(result)
    del result
    other = buffers.new_result((4, LARGE), FLOAT)
    assert owner(other).ctypes.data != address
    del held
    assert owner(buffers.new_result((4, LARGE), FLOAT)).ctypes.data == address


def test_a_compiled_function_s_array_keeps_it():
    identity = numba.njit(lambda array: array[1:])
    result = buffers.new_result((LARGE,), FLOAT)
    address = owner(result).ctypes.data
    held = identity(result)
    del result
    assert owner(buffers.new_result((LARGE,), FLOAT)).ctypes.data != address
    del held


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: fastconv.conv2d(x, w, padding=1),
        lambda x, w: fastconv.conv2d_backward_input(x, w, x.shape, padding=1),
        lambda x, w: fastconv.max_pool2d(x, 2),
        lambda x, w: fastconv.avg_pool2d(x, 2),
        lambda x, w: fastconv.im2col(x, 3),
    ],
)
@pytest.mark.parametrize("images", [1, 8])
def test_results_are_arrays_that_can_be_locked(call, images):
    """MyGrad locks what a result's chain of bases ends in while a graph is alive, and unlocks it later."""
    x, w = np.ones((images, 64, 56, 56), np.float32), np.ones((64, 64, 3, 3), np.float32)
    for _ in range(2):
        result = call(x, w)
        kind, last = type(result), owner(result)
        assert kind is type(last) is np.ndarray
        assert last.flags.owndata
        last.flags.writeable = result.flags.writeable = False
        last.flags.writeable = result.flags.writeable = True
        last.flags.writeable = False
        del result, last
    assert call(x, w).flags.writeable  # in memory that its last holder left locked


def test_no_more_is_listed_than_stated():
    quarter = buffers.MOST_KEPT // 4 // FLOAT.itemsize
    alive = [buffers.aligned(quarter, FLOAT) for _ in range(6)]
    listed = buffers.KEPT.blocks()
    assert [block.owner is owner(array) for block, array in zip(listed, alive[2:], strict=True)] == [True] * 4
    del alive, listed
    many = [buffers.aligned(LARGE, FLOAT) for _ in range(buffers.MOST_OF_A_SIZE + 5)]
    del many
    assert len(buffers.KEPT.blocks()) == buffers.MOST_OF_A_SIZE + 3  # the oldest of the four gave way
    assert buffers.KEPT.nbytes <= buffers.MOST_KEPT
    buffers.aligned(2 * buffers.MOST_KEPT // FLOAT.itemsize, FLOAT)
    assert buffers.KEPT.nbytes <= buffers.MOST_KEPT


def test_what_is_free_is_given_back_after_a_while():
    free, held = buffers.aligned(LARGE, FLOAT), buffers.aligned(2 * LARGE, FLOAT)
    del free
    began = buffers.KEPT.blocks()[0].used
    buffers.KEPT.give_back(began)
    assert len(buffers.KEPT.blocks()) == 2
    buffers.KEPT.give_back(began + 1000)
    assert [block.owner for block in buffers.KEPT.blocks()] == [owner(held)]


def test_a_thread_looks_after_it(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(buffers, "KEPT", buffers.Kept())
    monkeypatch.setattr(buffers, "KEPT_SECONDS", 0.01)
    buffers.aligned(LARGE, FLOAT)
    for _ in range(1000):
        if not buffers.KEPT.blocks() and buffers.KEPT._timer is None:
            break
        time.sleep(0.01)
    assert buffers.KEPT.blocks() == []
    assert buffers.KEPT._timer is None
    buffers.aligned(LARGE, FLOAT)
    assert buffers.KEPT._timer is not None


def test_without_counts_of_references_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(buffers, "FREE", 0)
    buffers.aligned(LARGE, FLOAT)
    assert buffers.KEPT.blocks() == []


def test_what_is_kept_is_let_go_before_memory_is_short(monkeypatch):
    buffers.aligned(LARGE, FLOAT)
    made = buffers.Block

    def short(nbytes):
        if buffers.KEPT.blocks():
            raise MemoryError
        return made(nbytes)

    monkeypatch.setattr(buffers, "Block", short)
    assert buffers.aligned(3 * LARGE, FLOAT).size == 3 * LARGE

    def none(nbytes):
        raise MemoryError

    monkeypatch.setattr(buffers, "Block", none)
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
    assert len(buffers.KEPT.blocks()) <= 2 * buffers.MOST_OF_A_SIZE


def test_a_block_that_is_taken_and_listed_again_between_two_looks_is_not_shared(monkeypatch):
    """Another thread may come between the look at a block and its removal from the list."""
    buffers.aligned(LARGE, FLOAT)
    look, taken = buffers.Block.references, []

    def interrupted(block):
        seen = look(block)
        if not taken:
            taken.append(None)
            taken.append(buffers.KEPT.array((LARGE,), FLOAT, 4 * LARGE, buffers.WITH_A_VECTOR))
        return seen

    monkeypatch.setattr(buffers.Block, "references", interrupted)
    array = buffers.aligned(LARGE, FLOAT)
    assert not np.shares_memory(array, taken[1])
    assert len(buffers.KEPT.blocks()) == 2


def test_zeros_and_contiguous():
    for size in (3, 200):
        assert not buffers.zeros((size, 100), FLOAT).any()
        array = np.arange(size * 100, dtype=FLOAT).reshape(size, 100)
        assert np.array_equal(buffers.contiguous(array.T), array.T)
        assert buffers.contiguous(array.T).flags.c_contiguous
        assert buffers.contiguous(array) is array
        buffers.new_result((size, 100), FLOAT)[...] = 5  # leaves fives where the next zeros are


FAULTS = """
import resource, sys
import numpy as np
import fastconv
from fastconv import helpers

helpers.LEAST_SHARE = 0.0  # all threads take part in every call, whatever the machine does

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

rng = np.random.default_rng(0)
for threads in (1, 2):
    fastconv.set_num_threads(threads)
    for layout in ("NCHW", "NHWC"):
        for size, filters, kernel, groups in (
            ((1, 64, 28, 28), 64, 3, 1), ((1, 128, 28, 28), 128, 3, 1), ((1, 32, 56, 56), 32, 3, 1),
            ((2, 16, 64, 64), 32, 5, 1), ((1, 256, 28, 28), 64, 1, 1), ((2, 128, 28, 28), 128, 3, 128),
            ((2, 64, 28, 28), 64, 3, 4),
        ):
            x = rng.standard_normal(size).astype("f4")
            w = rng.standard_normal((filters, size[1] // groups, kernel, kernel)).astype("f4")
            if layout == "NHWC":
                x, w = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)) for a in (x, w))
            steps = {"padding": kernel // 2, "groups": groups, "layout": layout}
            y = fastconv.conv2d(x, w, **steps)
            for name, call in (
                ("forward", lambda: fastconv.conv2d(x, w, **steps)),
                ("forward, out=", lambda: fastconv.conv2d(x, w, out=y, **steps)),
                ("backward", lambda: fastconv.conv2d_backward(y, x, w, **steps)),
            ):
                for _ in range(5):
                    call()
                before = faults()
                for _ in range(20):
                    call()
                each = (faults() - before) / 20
                if each > 8:
                    print(threads, layout, size, filters, name, each)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource usage")
def test_a_warm_call_faults_in_no_more_than_a_few_pages():
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", FAULTS],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("", "")


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
