"""Pooling, forward with indices and backward."""

from .common import DTYPES, POOLS, prepared


class Pooling:
    """One pass of a pooling layer, by dtype and implementation."""

    params = (
        POOLS,
        DTYPES,
        ["max_pool", "max_pool_backward", "avg_pool", "avg_pool_backward"],
        ["fastconv", "numpy", "torch"],
    )
    param_names = ("layer", "dtype", "operation", "implementation")
    pretty_name = "Pooling"

    def setup(self, layer, dtype, operation, implementation):
        self.call = prepared(operation, layer, dtype, implementation)

    def time_pooling(self, layer, dtype, operation, implementation):
        """Seconds of one pass."""
        self.call()
