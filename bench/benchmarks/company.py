"""Convolution in company: other threads were at work just before, as in every network with a dense layer."""

from .common import COMPANY, THREADS, Threads, prepared


class BetweenProducts(Threads):
    """Matrix products of NumPy and convolutions in turn, on one thread and on all."""

    params = (COMPANY, THREADS, ["fastconv", "numpy", "torch"])
    param_names = ("layer", "threads", "implementation")
    pretty_name = "Matrix product and convolution in turn"

    def setup(self, layer, threads, implementation):
        self.call = prepared("after_product", layer, "float32", implementation)
        self.hold(threads, implementation)

    def time_product_and_forward(self, layer, threads, implementation):
        """Seconds of a product of (256, 1024) by (1024, 256) and a forward pass."""
        self.call.before()
        self.call()
