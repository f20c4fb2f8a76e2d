"""Time and share of the FMA peak of the three passes, by layer, dtype and implementation."""

from time import perf_counter

from .common import DTYPES, LAYERS, find_layer, prepared

IMPLEMENTATIONS = [
    "fastconv",
    "fastconv:im2col",
    "kernel",
    "numpy",
    "torch",
    "onnxruntime",
    "openvino",
    "jax",
]


class _Pass:
    """One pass of a layer, by dtype and implementation."""

    params = (LAYERS, DTYPES, IMPLEMENTATIONS)
    param_names = ("layer", "dtype", "implementation")
    operation = ""

    def setup(self, layer, dtype, implementation):
        self.call = prepared(self.operation, layer, dtype, implementation)


class Forward(_Pass):
    """Output from input and weight."""

    operation = "forward"
    pretty_name = "Forward pass"

    def time_forward(self, layer, dtype, implementation):
        """Seconds of the forward pass."""
        self.call()


class BackwardInput(_Pass):
    """The input's gradient from the output's and the weight."""

    operation = "backward_input"
    pretty_name = "Backward pass by the input"

    def time_backward_input(self, layer, dtype, implementation):
        """Seconds of the input's gradient."""
        self.call()


class BackwardWeight(_Pass):
    """The weight's gradient from the output's and the input."""

    operation = "backward_weight"
    pretty_name = "Backward pass by the weight"

    def time_backward_weight(self, layer, dtype, implementation):
        """Seconds of the weight's gradient."""
        self.call()


class PercentOfPeak:
    """Of the multiply-add ceiling, measured just before; one thread."""

    params = (LAYERS, DTYPES, ["forward", "backward_input", "backward_weight"])
    param_names = ("layer", "dtype", "operation")
    unit = "% of the FMA peak"
    pretty_name = "Share of the multiply-add peak"

    def setup(self, layer, dtype, operation):
        import fastconv
        from fastconv.bench.peak import fma_gflops

        fastconv.set_num_threads(1)
        self.call = prepared(operation, layer, dtype, "fastconv")
        self.flops = find_layer(layer).flops
        self.peak = fma_gflops(dtype, 1)

    def track_percent_of_peak(self, layer, dtype, operation):
        """Operations of a plain convolution a second, in percent of the peak."""
        best = float("inf")
        for _ in range(5):
            start = perf_counter()
            self.call()
            best = min(best, perf_counter() - start)
        return 100 * self.flops / best / 1e9 / self.peak
