"""Whole training steps of the seed networks: forward, backward, optimiser."""

from .common import NETS, THREADS, Threads, prepared


class TrainingStep(Threads):
    """One step, by network, on one thread and on all."""

    params = (NETS, THREADS, ["fastconv", "numpy", "torch"])
    param_names = ("net", "threads", "implementation")
    pretty_name = "Training step of a seed network"

    def setup(self, net, threads, implementation):
        self.call = prepared("step", net, "float32", implementation)
        self.hold(threads, implementation)

    def time_step(self, net, threads, implementation):
        """Seconds of one step: forward, backward and Adam."""
        self.call()
