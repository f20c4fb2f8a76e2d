"""Pooling, forward with indices and backward."""

from .common import DTYPES, POOLS, prepared


class Pooling:
    params = (
        POOLS,
        DTYPES,
        ["max_pool", "max_pool_backward", "avg_pool", "avg_pool_backward"],
        ["fastconv", "torch"],
    )
    param_names = ("layer", "dtype", "operation", "implementation")

    def setup(self, layer, dtype, operation, implementation):
        self.call = prepared(operation, layer, dtype, implementation)

    def time_pooling(self, layer, dtype, operation, implementation):
        self.call()
