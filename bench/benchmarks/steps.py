"""Whole training steps of the seed networks."""

from .common import NETS, prepared


class TrainingStep:
    params = (NETS, ["fastconv", "numpy", "torch"])
    param_names = ("net", "implementation")

    def setup(self, net, implementation):
        self.call = prepared("step", net, "float32", implementation)

    def time_step(self, net, implementation):
        self.call()
