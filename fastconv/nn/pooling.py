"""Pooling as layers: the maximum or the mean of each window."""

from __future__ import annotations

from fastconv.annotations import Extents, Layout2d, Padding
from fastconv.arguments import Array, Size, float_array, number_array
from fastconv.nn.checks import no_forward
from fastconv.nn.layer import Layer
from fastconv.pool import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward


class MaxPool2d(Layer):
    """The maximum of each window, `fastconv.max_pool2d`.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode, layout
        As `fastconv.max_pool2d` takes them; they are checked by the first forward pass.

    Notes
    -----
    Input (N, C, H, W), output (N, C, OH, OW). The gradient goes to the first maximum of each window.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> layer = nn.MaxPool2d(2)
    >>> layer(np.array([[[[1.0, 2.0], [3.0, 0.0]]]]))
    array([[[[3.]]]])
    >>> layer.backward(np.ones((1, 1, 1, 1)))
    array([[[[0., 0.],
             [1., 0.]]]])
    """

    _kept_for_backward = ("_indices",)

    def __init__(
        self,
        kernel_size: Extents,
        stride: Extents | None = None,
        padding: Padding = 0,
        dilation: Extents = 1,
        ceil_mode: bool = False,
        *,
        layout: Layout2d = "NCHW",
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.ceil_mode = dilation, ceil_mode
        self.layout = layout
        self._indices: Array | None = None
        self._input_size: Size = ()

    def forward(self, x: Array) -> Array:
        """The maxima of ``x``."""
        x = number_array("x", x)
        windows = (self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)
        output, self._indices = max_pool2d(x, *windows, return_indices=True, layout=self.layout)
        self._input_size = x.shape
        return output

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input (None without ``needs_input``)."""
        if self._indices is None:
            no_forward()
        if not needs_input:
            return None
        return max_pool2d_backward(grad, self._indices, self._input_size, layout=self.layout)


class AvgPool2d(Layer):
    """The mean of each window, `fastconv.avg_pool2d`.

    Parameters
    ----------
    kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, layout
        As `fastconv.avg_pool2d` takes them; they are checked by the first forward pass.

    Notes
    -----
    Input (N, C, H, W), output (N, C, OH, OW).

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> nn.AvgPool2d(2)(np.array([[[[1.0, 2.0], [3.0, 0.0]]]]))
    array([[[[1.5]]]])
    """

    _kept_for_backward = ("_input_size",)

    def __init__(
        self,
        kernel_size: Extents,
        stride: Extents | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        layout: Layout2d = "NCHW",
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding, self.ceil_mode = kernel_size, stride, padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override
        self.layout = layout
        self._input_size: Size | None = None

    @property
    def _windows(self) -> tuple[Extents, Extents | None, Padding, bool, bool, int | None]:
        windows = (self.kernel_size, self.stride, self.padding, self.ceil_mode)
        return (*windows, self.count_include_pad, self.divisor_override)

    def forward(self, x: Array) -> Array:
        """The means of ``x``."""
        x = float_array("x", x)
        output = avg_pool2d(x, *self._windows, layout=self.layout)
        self._input_size = x.shape
        return output

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input (None without ``needs_input``)."""
        if self._input_size is None:
            no_forward()
        if not needs_input:
            return None
        return avg_pool2d_backward(grad, self._input_size, *self._windows, layout=self.layout)
