"""MyGrad's convolution and max-pooling on fastconv, as somebody would move them: by two classes.

MyGrad locks the end of every result's chain of bases while a graph is alive. Its own tests are in its
repository only; there, ``python -m pytest -p mygrad_layers tests/nnet/layers`` runs them with these classes
in place of its own (this folder on ``PYTHONPATH``).
"""

from math import prod
from types import SimpleNamespace

import mygrad.nnet.layers.conv as conv
import mygrad.nnet.layers.pooling as pooling
import numpy as np

import fastconv
from fastconv import buffers

ConvND, MaxPoolND = conv.ConvND, pooling.MaxPoolND


def _of(name, ndim):
    return getattr(fastconv, name.format(ndim))


class FastConvND(ConvND):
    def __call__(self, x, w, **steps):
        # MyGrad's checks, on an empty batch; it has the steps as arrays then.
        super().__call__(SimpleNamespace(data=x.data[:0]), SimpleNamespace(data=w.data), **steps)
        self.variables = (x, w)
        self.steps = [tuple(map(int, step)) for step in (self.stride, self.padding, self.dilation)]
        self.ndim = x.data.ndim - 2
        self.fast = self.ndim <= 3 and "c" not in (x.data.dtype.kind, w.data.dtype.kind)
        if not self.fast:
            return super().__call__(x, w, **steps)
        return _of("conv{}d", self.ndim)(x.data, w.data, None, *self.steps)

    def backward_var(self, grad, index, **kwargs):
        if not self.fast:
            return super().backward_var(grad, index, **kwargs)
        x, w = (variable.data for variable in self.variables)
        if index == 0:
            return _of("conv{}d_backward_input", self.ndim)(grad, w, x.shape, *self.steps)
        return _of("conv{}d_backward_weight", self.ndim)(grad, x, w.shape, *self.steps)


class FastMaxPoolND(MaxPoolND):
    def __call__(self, x, pool, stride):
        ndim, shape = len(pool), x.data.shape
        lead = shape[: len(shape) - ndim]
        # MyGrad's checks, where there is a batch to leave out; it has the steps as arrays then.
        result = super().__call__(SimpleNamespace(data=x.data[:0] if lead else x.data), pool, stride)
        self.variables = (x,)
        self.fast = bool(lead) and ndim <= 3 and x.data.dtype.kind != "c"
        if not self.fast:
            return result
        self.planes = (prod(lead), 1, *shape[len(lead) :])
        pooled, self.indices = _of("max_pool{}d", ndim)(
            x.data.reshape(self.planes),
            tuple(map(int, self.pool)),
            tuple(map(int, self.stride)),
            return_indices=True,
        )
        return pooled.reshape(lead + pooled.shape[2:])

    def backward_var(self, grad, index, **kwargs):
        if not self.fast:
            return super().backward_var(grad, index, **kwargs)
        grad = np.ascontiguousarray(grad).reshape(self.indices.shape)
        result = _of("max_pool{}d_backward", len(self.pool))(grad, self.indices, self.planes)
        return result.reshape(self.variables[index].shape)


def install():
    """Let `conv_nd` and `max_pool` run on fastconv."""
    conv.ConvND, pooling.MaxPoolND = FastConvND, FastMaxPoolND


def uninstall():
    """Let them run as MyGrad has them."""
    conv.ConvND, pooling.MaxPoolND = ConvND, MaxPoolND


def pytest_configure(config):
    """As a plugin of pytest: for a whole run, in which every result is in memory that outlives it."""
    buffers.LEAST_KEPT = 1
    install()
