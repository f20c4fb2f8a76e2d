"""Filters with the names, the arguments and the results of `scipy.ndimage`, computed by fastconv.

    from fastconv import ndimage

    smoothed = ndimage.correlate(image, kernel)               # as scipy.ndimage.correlate, and faster
    edges = ndimage.convolve(image, kernel, mode="nearest")

What stands here takes the place of SciPy's function of the same name: the same borders, the same origins,
the same dtypes, the same errors. Floats are summed in another order than SciPy's, and float32 in float32
instead of float64, so the last digits may differ. Results of integers are the same to the bit. What fastconv
doesn't compute, such as complex images, goes to SciPy.
"""

from fastconv.ndimage.filters import convolve, correlate

__all__ = ["convolve", "correlate"]


def __dir__() -> list[str]:
    """The public names alone."""
    return sorted(__all__)
