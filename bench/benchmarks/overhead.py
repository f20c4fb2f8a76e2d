"""What a call costs besides the work: 16 cells convolved through the function, a plan and the algorithm."""

import numpy as np


class TinyCall:
    """A call of next to no work, by the way it takes."""

    params = ["function", "plan", "kernel"]
    param_names = ("through",)
    pretty_name = "Call of a tiny layer"

    def setup(self, through):
        import fastconv
        from fastconv.geometry import normal_form

        x, w = np.ones((1, 1, 4, 4), np.float32), np.ones((1, 1, 3, 3), np.float32)
        plan = fastconv.plan_conv2d(x.shape, w.shape)
        out = plan(x, w)
        arrays = [normal_form(array, False) for array in (x, w, out)]
        algorithm = plan._passes.algorithm("forward")
        self.call = {
            "function": lambda: fastconv.conv2d(x, w),
            "plan": lambda: plan(x, w),
            "kernel": lambda: algorithm.forward(arrays[0], arrays[1], None, arrays[2]),
        }[through]
        self.call()

    def time_call(self, through):
        """Seconds of one call."""
        self.call()
