"""The filters of dask-image, computed by `fastconv.ndimage`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from fastconv import ndimage
from fastconv.arguments import Array
from fastconv.threads import num_threads

# Where dask-image keeps which function filters which kind of chunk.
DISPATCHERS = "dask_image.dispatch._dispatch_ndfilters"


def correlate(*arguments: Any, **named: Any) -> Array:
    """`fastconv.ndimage.correlate` of a chunk, on one thread."""
    with num_threads(1):
        return ndimage.correlate(*arguments, **named)


def convolve(*arguments: Any, **named: Any) -> Array:
    """`fastconv.ndimage.convolve` of a chunk, on one thread."""
    with num_threads(1):
        return ndimage.convolve(*arguments, **named)


def register() -> None:
    """Let dask-image's ``convolve`` and ``correlate`` filter chunks of NumPy with `fastconv.ndimage`.

    From then on, arrays that `dask_image.ndfilters` returns are computed by fastconv: the results are those
    of SciPy, which dask-image calls otherwise, but for the last digits of floats. A chunk takes one thread.
    Calling it again changes nothing. Other processes, such as workers, need not call it.

    Raises
    ------
    ImportError
        If dask-image is not installed, or keeps its functions elsewhere than the versions that are known.

    See Also
    --------
    fastconv.ndimage.correlate : Says in which precision sums are computed.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from fastconv import dask as fd
    >>> from dask_image import ndfilters  # doctest: +SKIP
    >>> fd.register()  # doctest: +SKIP
    >>> image = da.ones((2000, 3000), chunks=1000, dtype="float32")
    >>> smoothed = ndfilters.correlate(image, np.ones((7, 7)) / 49)  # doctest: +SKIP
    """
    try:
        import_module("dask_image")
    except ImportError as error:
        raise ImportError("fastconv.dask.register needs dask-image: pip install dask-image") from error
    for name, function in (("convolve", convolve), ("correlate", correlate)):
        try:
            dispatcher = getattr(import_module(DISPATCHERS), f"dispatch_{name}")
            dispatcher.register(np.ndarray, _giving(function))
        except (ImportError, AttributeError) as error:
            raise ImportError(
                f"this version of dask-image has no {DISPATCHERS}.dispatch_{name} to register with"
            ) from error


def _giving(function: Callable[..., Array]) -> Callable[..., Callable[..., Array]]:
    """What dask-image asks for the function that filters a kind of chunk."""
    return lambda *arguments, **named: function
