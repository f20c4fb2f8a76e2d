"""The book's functions and layers against plain loops; a program in the book's style with and without."""

import importlib
import sys

import numpy as np
import pytest
from course_problems import layers, ref_zero_padded_pool
from helpers import assert_equal
from hypothesis import given
from oracles import (
    ref_bias_gradient,
    ref_col2im,
    ref_conv,
    ref_conv_backward_input,
    ref_conv_backward_weight,
    ref_im2col,
)
from strategies import examples

from fastconv.adapters import HostError, dlfs

# A package laid out and imported as the book's is: columns in `util`, which `layers` binds at its import,
# and layers that programs take by a star import.
PACKAGE = {
    "__init__.py": "",
    "util.py": """
import numpy as np

def im2col(input_data, filter_h, filter_w, stride=1, pad=0):
    x = np.pad(input_data, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out_h, out_w = (x.shape[2] - filter_h) // stride + 1, (x.shape[3] - filter_w) // stride + 1
    rows = [x[n, :, i * stride:i * stride + filter_h, j * stride:j * stride + filter_w].ravel()
            for n in range(len(x)) for i in range(out_h) for j in range(out_w)]
    return np.array(rows, np.float64)

def col2im(col, input_shape, filter_h, filter_w, stride=1, pad=0):
    n, c, h, w = input_shape
    out_h, out_w = (h + 2 * pad - filter_h) // stride + 1, (w + 2 * pad - filter_w) // stride + 1
    x = np.zeros((n, c, h + 2 * pad, w + 2 * pad))
    for row, (k, i, j) in zip(col, np.ndindex(n, out_h, out_w)):
        window = x[k, :, i * stride:i * stride + filter_h, j * stride:j * stride + filter_w]
        window += row.reshape(window.shape)
    return x[:, :, pad:pad + h, pad:pad + w]
""",
    "layers.py": """
import numpy as np
from common.util import im2col, col2im

class Convolution:
    def __init__(self, W, b, stride=1, pad=0):
        self.W, self.b, self.stride, self.pad = W, b, stride, pad
        self.x = self.col = self.col_W = self.dW = self.db = None

    def forward(self, x):
        filters, _, h, w = self.W.shape
        out_h, out_w = ((n + 2 * self.pad - k) // self.stride + 1 for n, k in zip(x.shape[2:], (h, w)))
        self.x, self.col = x, im2col(x, h, w, self.stride, self.pad)
        self.col_W = self.W.reshape(filters, -1).T
        out = self.col @ self.col_W + self.b
        return out.reshape(len(x), out_h, out_w, filters).transpose(0, 3, 1, 2)

    def backward(self, dout):
        rows = dout.transpose(0, 2, 3, 1).reshape(-1, len(self.W))
        self.db, self.dW = rows.sum(0), (rows.T @ self.col).reshape(self.W.shape)
        return col2im(rows @ self.col_W.T, self.x.shape, *self.W.shape[2:], self.stride, self.pad)

class Pooling:
    def __init__(self, pool_h, pool_w, stride=2, pad=0):
        self.pool_h, self.pool_w, self.stride, self.pad = pool_h, pool_w, stride, pad
        self.x = self.arg_max = None

    def forward(self, x):
        out_h, out_w = ((n - k) // self.stride + 1 for n, k in zip(x.shape[2:], (self.pool_h, self.pool_w)))
        col = im2col(x, self.pool_h, self.pool_w, self.stride, self.pad)
        col = col.reshape(-1, self.pool_h * self.pool_w)
        self.x, self.arg_max = x, col.argmax(1)
        return col.max(1).reshape(len(x), out_h, out_w, -1).transpose(0, 3, 1, 2)

    def backward(self, dout):
        dcol = np.zeros((dout.size, self.pool_h * self.pool_w))
        dcol[np.arange(dout.size), self.arg_max] = dout.transpose(0, 2, 3, 1).ravel()
        dcol = dcol.reshape(len(dout) * dout.shape[2] * dout.shape[3], -1)
        return col2im(dcol, self.x.shape, self.pool_h, self.pool_w, self.stride, self.pad)
""",
}
PROGRAM = """
import numpy as np
from common.layers import *
from common.util import im2col as columns

rng = np.random.default_rng(0)

def network():
    rng = np.random.default_rng(1)
    return [Convolution(rng.standard_normal((4, 2, 3, 3)), rng.standard_normal(4), 1, 1), Pooling(3, 3, 2),
            Convolution(rng.standard_normal((3, 4, 2, 2)), rng.standard_normal(3), 2)]

def train(net, steps):
    rng = np.random.default_rng(0)
    x, losses = rng.standard_normal((5, 2, 9, 9)), []
    for _ in range(steps):
        out = x
        for layer in net:
            out = layer.forward(out)
        losses.append((out ** 2).sum())
        dout = 2 * out
        for layer in reversed(net):
            dout = layer.backward(dout)
        for layer in net[::2]:
            assert isinstance(layer, Convolution)
            layer.W -= 1e-6 * layer.dW
            layer.b -= 1e-6 * layer.db
    return losses, dout, net[0].W, net[0].col, net[1].arg_max, columns(x, 2, 3, 2, 1)
"""


@pytest.fixture
def book(tmp_path, monkeypatch):
    """Lets the package and the program be imported, from a folder of its own; forgets them afterwards."""
    (tmp_path / "common").mkdir()
    for name, text in PACKAGE.items():
        (tmp_path / "common" / name).write_text(text, encoding="utf-8")
    (tmp_path / "book_program.py").write_text(PROGRAM, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "common"
    dlfs.uninstall()
    for name in [name for name in sys.modules if name.split(".")[0] in ("common", "book_program")]:
        del sys.modules[name]


def state():
    """All names in the book's modules and classes."""
    program, layers, util = map(sys.modules.get, ("book_program", "common.layers", "common.util"))
    return [dict(vars(owner)) for owner in (program, layers, util, layers.Convolution, layers.Pooling)]


@pytest.mark.parametrize("when", ["first", "after"])
def test_a_program_gives_the_same_numbers(book, when):
    if when == "first":
        dlfs.install()
    program = importlib.import_module("book_program")
    made_before = program.network()
    if when == "after":
        expected = program.train(program.network(), 4)
        dlfs.install()
    assert program.columns.__module__ == "fastconv.adapters.dlfs"
    assert program.Convolution.forward.__module__ == "fastconv.adapters.dlfs"
    got = program.train(made_before, 4)
    dlfs.uninstall()
    assert program.columns.__module__ == "common.util"
    if when == "first":
        expected = program.train(program.network(), 4)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_uninstall_leaves_no_trace(book):
    importlib.import_module("book_program")
    before = state()
    with dlfs.installed():
        made = state()
        assert made != before
        dlfs.install()
        assert state() == made
    assert state() == before
    dlfs.uninstall()
    assert state() == before


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("util.py", "(col, input_shape", "(columns, input_shape", r"common.util.col2im takes \(columns, "),
        ("layers.py", "class Pooling", "class Pool", r"common.layers.Pooling is not there"),
        (
            "layers.py",
            "def backward(self, dout)",
            "def backward(self, d)",
            r"Convolution.backward takes \(se",
        ),
    ],
)
def test_other_code_is_refused(book, file, old, new, message):
    (book / file).write_text(PACKAGE[file].replace(old, new), encoding="utf-8")
    with pytest.raises(HostError, match=message):
        dlfs.install()
    convolution = importlib.import_module("common.layers").Convolution
    assert convolution.forward.__module__ == "common.layers"


def test_a_folder_without_the_book_is_named():
    with pytest.raises(ImportError, match="common is not there; put the folder that holds common on"):
        dlfs.install()


def rows_of(layer, dtype):
    """The columns (N, C*R*S, OH*OW) of the oracle, and as rows of the book."""
    stride, padding, dilation, _ = layer.oracle
    columns = ref_im2col(layer.x.astype(dtype), layer.kernel, dilation, padding, stride)
    return columns, columns.transpose(0, 2, 1).reshape(columns.shape[0] * columns.shape[2], columns.shape[1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.uint8, bool])
@given(layers())
@examples(15)
def test_columns_keep_the_dtype(dtype, layer):
    columns, rows = rows_of(layer, dtype)
    got = dlfs.im2col(layer.x.astype(dtype), *layer.kernel, layer.stride, layer.pad)
    assert_equal(got, rows)
    assert got.dtype == dtype
    stride, padding, dilation, _ = layer.oracle
    image = dlfs.col2im(rows, layer.x.shape, *layer.kernel, layer.stride, layer.pad)
    expected = ref_col2im(columns, layer.x.shape[2:], layer.kernel, dilation, padding, stride)
    assert_equal(image, expected)
    assert image.dtype == (dtype if np.dtype(dtype).kind == "f" else np.float64)


@given(layers())
@examples(40)
def test_convolution(layer):
    ours = dlfs.Convolution(layer.w, layer.b, layer.stride, layer.pad)
    assert ours.x is ours.col is ours.col_W is ours.dW is ours.db is None
    ours.forward(layer.x[:0])
    assert len(ours.col) == 0
    out = ours.forward(layer.x)
    assert_equal(out, ref_conv(layer.x, layer.w, *layer.oracle) + layer.b.reshape(-1, 1, 1))
    assert out.dtype == layer.x.dtype
    assert ours.x is layer.x
    assert_equal(ours.col, rows_of(layer, layer.x.dtype)[1])
    assert_equal(ours.col_W, layer.w.reshape(len(layer.w), -1).T)
    dx = ours.backward(layer.dout)
    assert_equal(dx, ref_conv_backward_input(layer.dout, layer.w, layer.x.shape[2:], *layer.oracle))
    assert_equal(ours.dW, ref_conv_backward_weight(layer.dout, layer.x, layer.kernel, *layer.oracle))
    assert_equal(ours.db, ref_bias_gradient(layer.dout))


@given(layers(pool=True))
@examples(40)
def test_pooling(layer):
    ours = dlfs.Pooling(*layer.kernel, layer.stride, layer.pad)
    assert ours.x is ours.arg_max is None
    stride, pad = (layer.stride,) * 2, (layer.pad,) * 2
    maxima, taps, dx = ref_zero_padded_pool(layer.x, layer.kernel, stride, pad, layer.dout)
    assert_equal(ours.forward(layer.x), maxima)
    assert_equal(ours.arg_max, taps.transpose(0, 2, 3, 1).ravel())
    assert ours.x is layer.x
    assert_equal(ours.backward(layer.dout), dx)


def test_whole_numbers_are_computed_with_as_float64():
    x = np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)
    out = dlfs.Convolution(np.ones((1, 1, 2, 2), np.float32), np.zeros(1, np.float32), 2).forward(x)
    assert_equal(out, np.array([[[[10.0, 18.0], [42.0, 50.0]]]]))
    assert out.dtype == np.float64
    out = dlfs.Pooling(2, 2).forward(x)
    assert_equal(out, np.array([[[[5.0, 7.0], [13.0, 15.0]]]]))
    assert out.dtype == np.float64
