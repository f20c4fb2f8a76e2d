"""autograd's convolution beside fastconv in its place: ``python bench/hosts/autograd_convolve.py``.

The file is not named as the host: Python would take it for autograd itself.
"""
# ruff: noqa: E402 (the pools read the environment when they are imported)

from side_by_side import Case, compare, hold_threads

hold_threads()

from importlib.metadata import version
from pathlib import Path

import autograd.numpy as np
import autograd.scipy.signal
from autograd import value_and_grad

from fastconv.adapters.autograd import convolve, max_pool2d

HOSTS_OWN = autograd.scipy.signal.convolve
PROGRAM = Path(__file__).with_name("autograd_lenet.py")


def layer(function, dtype, differentiated):
    """16 images (16, 32, 32), padded by one cell, and 32 filters of 3x3."""
    rng = np.random.RandomState(0)
    x, w = rng.randn(16, 16, 34, 34).astype(dtype), rng.randn(32, 16, 3, 3).astype(dtype)

    def forward(x, w):
        return function(x, w, axes=([2, 3], [2, 3]), dot_axes=([1], [1]), mode="valid")

    if not differentiated:
        return lambda: forward(x, w)
    gradients = value_and_grad(lambda x, w: np.sum(forward(x, w)), (0, 1))
    return lambda: gradients(x, w)


def training_step(size, **changes):
    """Loss and gradients of the program's network, with other functions under some of its names."""
    names = {"__name__": PROGRAM.stem}
    exec(compile(PROGRAM.read_text(encoding="utf-8"), PROGRAM.name, "exec"), names)
    names.update(changes)
    parameters, (images, labels) = names["beginning"](), next(names["batches"](1, size))
    gradients = value_and_grad(names["loss"])
    return lambda: gradients(parameters, images, labels)


def cases():
    """The lines of the table."""
    for dtype in ("float32", "float64"):
        for label, both in (("forward", False), ("forward and gradients", True)):
            yield Case(f"layer, {dtype}: {label}", *(layer(f, dtype, both) for f in (HOSTS_OWN, convolve)))
    pools = {"convolve": convolve, "max_pool": lambda images: max_pool2d(images, 2)}
    host_step = training_step(64)
    yield Case("LeNet, a step of 64 images: convolve", host_step, training_step(64, convolve=convolve))
    yield Case("LeNet, a step of 64 images: convolve and max_pool2d", host_step, training_step(64, **pools))


if __name__ == "__main__":
    versions = ", ".join(f"{name} {version(name)}" for name in ("autograd", "numpy"))
    compare(f"autograd's own convolve and fastconv's ({versions})", list(cases()))
