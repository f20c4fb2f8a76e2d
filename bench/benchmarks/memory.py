"""Peak memory of a pass beside that of its arrays alone, and the scratch that a plan states."""

import fastconv

from .common import arrays, find_layer

MEMORY_LAYERS = ["r50_56_64-64_3", "r50_224_3-64_7s2", "r50_7_512-512_3"]


class PeakMemory:
    """Peak memory of a process that computes a pass, by layer."""

    params = MEMORY_LAYERS
    param_names = ("layer",)

    def setup(self, layer):
        data, sizes = arrays(layer, "float32"), find_layer(layer)
        self.x, self.w, self.dy = data["x"], data["w"], data["dy"]
        self.steps = (sizes.stride, sizes.pad, sizes.dilation, sizes.groups)

    def peakmem_reference(self, layer):
        """Bytes of the arrays, and one more of each result's size."""
        return self.x.copy(), self.w.copy(), self.dy.copy()

    peakmem_reference.pretty_name = "Peak memory of the arrays alone"

    def peakmem_forward(self, layer):
        """Bytes with the forward pass."""
        return fastconv.conv2d(self.x, self.w, None, *self.steps)

    peakmem_forward.pretty_name = "Peak memory of the forward pass"

    def peakmem_backward(self, layer):
        """Bytes with both backward passes."""
        return fastconv.conv2d_backward(self.dy, self.x, self.w, *self.steps)

    peakmem_backward.pretty_name = "Peak memory of the backward passes"

    def track_scratch(self, layer):
        """Bytes of scratch that a plan states."""
        return fastconv.plan_conv2d(self.x.shape, self.w.shape, *self.steps).scratch_bytes

    track_scratch.unit = "bytes a thread"
    track_scratch.pretty_name = "Scratch of a plan"
