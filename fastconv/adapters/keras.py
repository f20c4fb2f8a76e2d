"""Keras 3 on its NumPy backend: convolution and pooling on fastconv, and no JAX needed.

In this backend Keras computes with NumPy, but borrows convolution and pooling from JAX, without which the
backend does not even import. Here they are fastconv's::

    import fastconv.adapters.keras

    fastconv.adapters.keras.install()  # before keras is imported

    import keras

``install`` imports Keras with the NumPy backend; ``KERAS_BACKEND`` need not be set. Where JAX is installed,
all but convolution and pooling stays with it. Where it is not, Fourier transforms run on SciPy, and what else
a version of Keras wants of JAX raises ``ImportError`` when it is called.

Floats keep their dtype: float64 stays float64, which JAX makes float32 by default. float16 and bfloat16 are
computed in float32, integers in float64 (exact up to 2**53) and wrapped to their own size.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import scipy.fft

import fastconv
from fastconv.adapters.installation import HostError, Installation, Replacement
from fastconv.arguments import Array, Size, must_be, one_of
from fastconv.geometry import LAYOUTS, effective, layout_size

_found = find_spec("keras")
if _found is None:
    raise ImportError("fastconv.adapters: keras is not there; pip install keras brings it")

_FILE = Path((_found.submodule_search_locations or [""])[0], "src", "backend", "numpy", "nn.py")

_CONV: dict[int, Callable[..., Any]] = {1: fastconv.conv1d, 2: fastconv.conv2d, 3: fastconv.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Any]] = {
    1: fastconv.conv_transpose1d,
    2: fastconv.conv_transpose2d,
    3: fastconv.conv_transpose3d,
}
_MAX_POOL: dict[int, Callable[..., Any]] = {
    1: fastconv.max_pool1d,
    2: fastconv.max_pool2d,
    3: fastconv.max_pool3d,
}
_AVG_POOL: dict[int, Callable[..., Any]] = {
    1: fastconv.avg_pool1d,
    2: fastconv.avg_pool2d,
    3: fastconv.avg_pool3d,
}
_ADAPTIVE_MAX_POOL: dict[int, Callable[..., Any]] = {
    1: fastconv.adaptive_max_pool1d,
    2: fastconv.adaptive_max_pool2d,
    3: fastconv.adaptive_max_pool3d,
}
_ADAPTIVE_AVG_POOL: dict[int, Callable[..., Any]] = {
    1: fastconv.adaptive_avg_pool1d,
    2: fastconv.adaptive_avg_pool2d,
    3: fastconv.adaptive_avg_pool3d,
}
# What each reduction of windows is computed by.
_POOLS: dict[object, tuple[Any, dict[str, int]]] = {
    np.maximum: (_MAX_POOL, {}),
    np.add: (_AVG_POOL, {"divisor_override": 1}),
}

# The spatial axes, by whether the channels are last.
_SPATIAL = {False: slice(2, None), True: slice(1, -1)}


def install() -> None:
    """Import Keras with its NumPy backend, if that is not done, and put fastconv into it.

    Raises
    ------
    HostError
        If Keras runs, or is to run, on another backend, or if it is not a version that this knows.
    """
    _installation.install()


def uninstall() -> None:
    """Give the backend JAX's functions back; without JAX, functions that say that it is needed."""
    _installation.uninstall()


def installed() -> AbstractContextManager[None]:
    """Have fastconv in Keras inside a ``with`` block."""
    return _installation.installed()


# What the backend calls of jax.lax, with the names that the arguments have there.


class ConvDimensionNumbers(NamedTuple):
    """The axes of input, kernel and output in the order (batch or filters, channels, spatial ones)."""

    lhs_spec: Size
    rhs_spec: Size
    out_spec: Size


def conv_general_dilated(
    lhs: Any,
    rhs: Any,
    window_strides: Sequence[int],
    padding: str,
    *,
    rhs_dilation: Sequence[int],
    dimension_numbers: ConvDimensionNumbers,
    feature_group_count: int,
) -> Array:
    """Convolve ``lhs`` with the filters ``rhs``."""
    x, weight, dtype, last = _operands(lhs, rhs, dimension_numbers)
    padding = _named_padding(padding)
    spatial = _SPATIAL[last]
    output = _none_fits(x.shape[spatial], weight.shape[spatial], window_strides, padding, rhs_dilation)
    if output is not None:
        return _zeros(len(x), len(weight), output, last, dtype)
    result = _CONV[x.ndim - 2](
        x,
        weight,
        None,
        window_strides,
        padding,
        rhs_dilation,
        feature_group_count,
        layout=LAYOUTS[x.ndim - 2][last],
    )
    return _in_dtype(result, dtype)


def conv_transpose(
    lhs: Any,
    rhs: Any,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    rhs_dilation: Sequence[int],
    dimension_numbers: ConvDimensionNumbers,
    transpose_kernel: bool,
) -> Array:
    """Spread ``lhs`` out through ``rhs``, the kernel of the convolution that this is the adjoint of."""
    if not transpose_kernel:
        must_be(ValueError, "transpose_kernel", "True", transpose_kernel)
    x, weight, dtype, last = _operands(lhs, rhs, dimension_numbers)
    spatial = _SPATIAL[last]
    reach = [effective(k, d) for k, d in zip(weight.shape[spatial], rhs_dilation, strict=True)]
    # Padding stands around the spread-out input here: r - 1 cells on a side leave all that a kernel of
    # reach r writes, fewer crop that, more add zeros to it.
    crops = [(r - 1 - before, r - 1 - after) for r, (before, after) in zip(reach, padding, strict=True)]
    output = tuple(
        max(0, (n - 1) * s + r - sum(crop))
        for n, s, r, crop in zip(x.shape[spatial], strides, reach, crops, strict=True)
    )
    if 0 in output:
        return _zeros(len(x), weight.shape[_channels(last)], output, last, dtype)
    result = _CONV_TRANSPOSE[x.ndim - 2](
        x,
        weight,
        None,
        strides,
        [(max(0, before), max(0, after)) for before, after in crops],
        dilation=rhs_dilation,
        layout=LAYOUTS[x.ndim - 2][last],
    )
    if min(map(min, crops)) < 0:
        zeros = [(0, 0)] * x.ndim
        zeros[spatial] = [(max(0, -before), max(0, -after)) for before, after in crops]
        result = np.pad(result, zeros)
    return _in_dtype(result, dtype)


def reduce_window(
    operand: Any,
    init_value: float,
    computation: object,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: str,
) -> Array:
    """The maximum or the sum of every window; padding counts as ``init_value``, which is -inf or 0."""
    x = _spatial_array(operand)
    if not len(window_dimensions) == len(window_strides) == x.ndim:
        expected = f"{x.ndim} numbers, as window_dimensions {window_dimensions}"
        must_be(ValueError, "window_strides", expected, window_strides)
    # Where neither of these axes is pooled, either may be the channels.
    last = window_dimensions[-1] == window_strides[-1] == 1
    spatial = _SPATIAL[last]
    window, strides = tuple(window_dimensions[spatial]), tuple(window_strides[spatial])
    padding = _named_padding(padding)
    output = _none_fits(x.shape[spatial], window, strides, padding, (1,) * len(window))
    if output is not None:
        return _zeros(len(x), x.shape[_channels(last)], output, last, x.dtype)
    if computation not in _POOLS:
        must_be(ValueError, "computation", "lax.max or lax.add", computation)
    pool, options = _POOLS[computation]
    dtype = x.dtype
    if pool is _AVG_POOL and dtype == np.bool_:
        must_be(TypeError, "inputs", "numbers", x)
    if pool is _AVG_POOL or dtype.kind not in "iu":
        x = x.astype(_compute_dtype(dtype), copy=False)
    result = pool[x.ndim - 2](x, window, strides, padding, layout=LAYOUTS[x.ndim - 2][last], **options)
    return _in_dtype(result, dtype)


# What the backend has of its own, as loops over NumPy arrays: ours for float16, float32 and float64.


def adaptive_average_pool(inputs: Array, output_size: int | Size, data_format: str | None = None) -> Array:
    """The averages of windows that share the input out."""
    pool = _ADAPTIVE_AVG_POOL[_spatial_array(inputs).ndim - 2]
    return pool(inputs, output_size, layout=_layout(inputs, data_format))


def adaptive_max_pool(inputs: Array, output_size: int | Size, data_format: str | None = None) -> Array:
    """The maxima of windows that share the input out."""
    pool = _ADAPTIVE_MAX_POOL[_spatial_array(inputs).ndim - 2]
    return pool(inputs, output_size, layout=_layout(inputs, data_format))


_OWN: dict[str, Callable[..., Array]] = {
    "adaptive_average_pool": adaptive_average_pool,
    "adaptive_max_pool": adaptive_max_pool,
    "fold": fastconv.col2im,
    "unfold": fastconv.im2col,
}


def _for_floats(ours: Callable[..., Array], host: Callable[..., Array]) -> Callable[..., Array]:
    """``ours`` for arrays that fastconv takes as they are, ``host`` for others."""

    @wraps(host)
    def function(array: Any, *arguments: Any, **named: Any) -> Array:
        return (ours if np.asarray(array).dtype.char in "efd" else host)(array, *arguments, **named)

    return function


def _channels(last: bool) -> int:
    return -1 if last else 1


def _operands(
    lhs: Any, rhs: Any, dimension_numbers: ConvDimensionNumbers
) -> tuple[Array, Array, np.dtype[Any], bool]:
    """Input and weight in the layout of the input, the result's dtype, and whether the channels are last."""
    x, kernel = _spatial_array(lhs), np.asarray(rhs)
    dtype = np.result_type(x, kernel)
    compute = _compute_dtype(dtype)
    weight = kernel.astype(compute, copy=False).transpose(dimension_numbers.rhs_spec)
    last = dimension_numbers.lhs_spec[1] != 1
    return x.astype(compute, copy=False), np.moveaxis(weight, 1, _channels(last)), dtype, last


def _spatial_array(value: Any) -> Array:
    array = np.asarray(value)
    if array.ndim - 2 not in LAYOUTS:
        must_be(ValueError, "inputs", "of 1, 2 or 3 spatial dimensions", array)
    return array


def _layout(x: Array, data_format: str | None) -> str:
    backend = importlib.import_module("keras.src.backend")
    return LAYOUTS[x.ndim - 2][backend.standardize_data_format(data_format) == "channels_last"]


def _named_padding(padding: str) -> str:
    return one_of("padding", padding.lower(), ("valid", "same"))


def _none_fits(
    extent: Size, window: Size, strides: Sequence[int], padding: str, dilation: Sequence[int]
) -> Size | None:
    """The output's extents where no window fits, however large they are, as Keras has it; else None.

    fastconv refuses windows that are larger than the input by more than a stride.
    """
    reach = list(map(effective, window, dilation))
    if padding == "same" or all(r <= n for r, n in zip(reach, extent, strict=True)):
        return None
    return tuple(max(0, (n - r) // s + 1) for n, r, s in zip(extent, reach, strides, strict=True))


def _zeros(batch: int, channels: int, extent: Size, last: bool, dtype: np.dtype[Any]) -> Array:
    return np.zeros(layout_size((batch, channels, *extent), last), dtype)


def _compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What fastconv computes a dtype in: bfloat16 in float32, integers in float64, others as they are."""
    if dtype.name == "bfloat16":
        return np.dtype(np.float32)
    return np.dtype(np.float64) if dtype.kind in "biu" else dtype


def _in_dtype(result: Array, dtype: np.dtype[Any]) -> Array:
    if result.dtype.kind == "f" and dtype.kind in "biu":
        result = result.astype(np.int64)  # sums that are too large for their dtype wrap, as in any loop
    return result.astype(dtype, copy=False)


# Keras without JAX, and the replacements.


class _Overlay:
    """A module with some of its names replaced."""

    def __init__(self, module: Any, **names: object) -> None:
        vars(self).update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _HandedOver:
    """A new array that ``np.array``, through which Keras passes every result, takes as it is.

    Of an array itself it makes a copy: 8 % of MobileNetV2's time with four images, and nothing that could be
    told from noise with one or in ResNet50 (float32, AVX-512 Xeon).
    """

    def __init__(self, array: Array) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self._array


def _handing_over(function: Callable[..., Array]) -> Callable[..., _HandedOver]:
    @wraps(function)
    def handing_over(*arguments: Any, **named: Any) -> _HandedOver:
        return _HandedOver(function(*arguments, **named))

    return handing_over


class _Missing(ModuleType):
    """Stands for a module of JAX where JAX is not installed."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(f"{self.__name__}.{name} needs JAX, which is not installed (pip install jax)")


def _fft(x: Any) -> tuple[Array, Array]:
    return _transformed(scipy.fft.fft, x)


def _fft2(x: Any) -> tuple[Array, Array]:
    return _transformed(scipy.fft.fft2, x)


def _transformed(transform: Any, x: Any) -> tuple[Array, Array]:
    """The transform of a pair (real, imaginary), as such a pair; Keras has the checks and the sum."""
    math = importlib.import_module("keras.src.backend.numpy.math")
    result = transform(math._get_complex_tensor_from_tuple(x))
    return result.real, result.imag


def _without_jax() -> dict[str, ModuleType]:
    """The modules that the backend imports of JAX, or that import JAX, as far as it uses them."""
    lax, jax = _Missing("jax.lax"), _Missing("jax")
    jax.lax = lax  # type: ignore[attr-defined]
    jax_math = ModuleType("keras.src.backend.jax.math")
    jax_math.fft, jax_math.fft2 = _fft, _fft2  # type: ignore[attr-defined]
    modules = (jax, lax, ModuleType("keras.src.backend.jax"), jax_math)
    return {module.__name__: module for module in modules}


@contextmanager
def _holding(mapping: MutableMapping[str, Any], entries: dict[str, Any]) -> Iterator[None]:
    """Have entries in a mapping inside a ``with`` block, and afterwards what was there."""
    before = {name: mapping[name] for name in entries if name in mapping}
    mapping.update(entries)
    try:
        yield
    finally:
        for name in entries:
            mapping.pop(name, None)
        mapping.update(before)


def _numpy_backend() -> Any:
    """The module ``keras.src.backend.numpy.nn``, imported now if Keras was not."""
    if not _FILE.exists():
        raise HostError(f"{_FILE} is not there, and fastconv's adapter knows Keras 3")
    config = sys.modules.get("keras.src.backend.config")
    backend = os.environ.get("KERAS_BACKEND") or "numpy" if config is None else config.backend()
    if backend != "numpy":
        raise HostError(
            f"Keras {'is to run' if config is None else 'runs'} on {backend}: install() comes before "
            "`import keras`, with KERAS_BACKEND unset or numpy"
        )
    stand_ins = {} if find_spec("jax") else _without_jax()
    with _holding(os.environ, {"KERAS_BACKEND": "numpy"}), _holding(sys.modules, stand_ins):
        importlib.import_module("keras")
        return importlib.import_module("keras.src.backend.numpy.nn")


def _replacements() -> list[Replacement]:
    nn = _numpy_backend()
    for name in ("jax", "lax"):
        if name not in vars(nn):
            raise HostError(
                f"{nn.__name__} has no {name} for fastconv's adapter to replace: another version of Keras?"
            )
    lax = _Overlay(
        nn.lax,
        ConvDimensionNumbers=ConvDimensionNumbers,
        add=np.add,
        conv_general_dilated=_handing_over(conv_general_dilated),
        conv_transpose=_handing_over(conv_transpose),
        max=np.maximum,
        reduce_window=_handing_over(reduce_window),
    )
    # Not all versions have these.
    own = [(nn, name, _for_floats(ours, vars(nn)[name])) for name, ours in _OWN.items() if name in vars(nn)]
    return [(nn, "lax", lax), (nn, "jax", _Overlay(nn.jax, lax=lax)), *own]


_installation = Installation(_replacements)
