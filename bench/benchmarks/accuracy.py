"""The largest error against a float64 oracle, in units of the bound of accumulated rounding.

A sum of n products in an arithmetic of unit roundoff u is off by at most n*u / (1 - n*u) times the sum of the
products' magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1): the unit.
"""

import numpy as np

from .common import LAYERS, TABLE, arrays, find_layer, prepared

if TABLE is not None:
    from fastconv.bench.implementations import (
        _numpy_backward_input,
        _numpy_backward_weight,
        _numpy_forward,
    )


def _oracle(operation, layer, x, w, dy):
    if operation == "forward":
        return _numpy_forward(x, w, layer)
    if operation == "backward_input":
        return _numpy_backward_input(dy, w, layer)
    return _numpy_backward_weight(dy, x, layer)


def _terms(operation, layer):
    """The most products in one sum of a pass."""
    oh, ow = layer.output
    return {
        "forward": layer.c // layer.groups * layer.r * layer.s,
        "backward_input": layer.k // layer.groups * layer.r * layer.s,
        "backward_weight": layer.n * oh * ow,
    }[operation]


class MaxError:
    """The error of a pass, by layer and implementation."""

    params = (LAYERS, ["forward", "backward_input", "backward_weight"], ["fastconv", "numpy", "torch"])
    param_names = ("layer", "operation", "implementation")
    unit = "of the rounding bound"
    pretty_name = "Largest error of a pass, in rounding bounds"

    def setup(self, layer, operation, implementation):
        self.got = prepared(operation, layer, "float32", implementation)()

    def track_max_error(self, layer, operation, implementation):
        """The largest error of any cell against float64."""
        sizes, data = find_layer(layer), arrays(layer, "float32")
        exact = [data[name].astype(np.float64) for name in ("x", "w", "dy")]
        expected = _oracle(operation, sizes, *exact)
        magnitudes = _oracle(operation, sizes, *[np.abs(array) for array in exact])
        spread = _terms(operation, sizes) * np.finfo(np.float32).eps / 2
        bound = spread / (1 - spread) * magnitudes
        return float(np.max(np.abs(self.got - expected)[bound > 0] / bound[bound > 0]))
