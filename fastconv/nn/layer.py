"""What layers share: training and use, freezing, saving and loading; a weight and a bias."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from typing import TypeVar

import numpy as np
from numpy.typing import DTypeLike

from fastconv.arguments import Array, Size, addressable, flag, float_dtype, must_be, must_be_said
from fastconv.nn.checks import generator

_LayerType = TypeVar("_LayerType", bound="Layer")


class Layer:
    """What every layer is: a forward pass, a backward pass, parameters and their gradients.

    A layer of your own derives from this class and defines `forward` and `backward`; one with parameters
    defines `parameters`, `gradients` and `state` as well.

    Attributes
    ----------
    training : bool
        True while the network is trained, False while it is used; see `train` and `eval`.
    frozen : bool
        True to leave the layer's parameters as they are: `parameters` and `gradients` are then empty, and
        `backward` computes no parameter gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fastconv import nn
    >>> from numpy.typing import NDArray
    >>> Array = NDArray[np.float64]
    >>> class Double(nn.Layer):
    ...     def forward(self, x: Array) -> Array:
    ...         return 2 * x
    ...
    ...     def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
    ...         return 2 * grad if needs_input else None
    >>> layer = Double()
    >>> layer(np.ones(2)), layer.backward(np.ones(1))
    (array([2., 2.]), array([2.]))
    """

    def __init__(self) -> None:
        self.training = True
        self._frozen = False

    @property
    def frozen(self) -> bool:
        """Whether the layer's parameters are left as they are."""
        return self._frozen

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self._frozen = flag("frozen", value)

    def forward(self, x: Array) -> Array:
        """The layer's output for the batch ``x``."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input, from the gradient ``grad`` of the last output."""
        raise NotImplementedError(f"{type(self).__name__} defines no backward")

    # What `Sequential` calls on arrays that nobody else has: for layers that can save memory by it.

    def forward_in_place(self, x: Array) -> Array:
        """As `forward`, and may write to ``x``."""
        return self.forward(x)

    def backward_in_place(self, grad: Array) -> Array | None:
        """As `backward`, and may write to ``grad``."""
        return self.backward(grad)

    def __call__(self, x: Array) -> Array:
        """Do the same as `forward`."""
        return self.forward(x)

    def parameters(self) -> list[Array]:
        """The arrays that training changes, in place."""
        return []

    def gradients(self) -> list[Array]:
        """The gradients of `parameters`, in the same order, as the last backward pass left them."""
        return []

    def state(self) -> dict[str, Array]:
        """Every array that makes the layer what it is, frozen or not, by name; for saving."""
        return {}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Copy arrays named as in `state` into the layer.

        Raises
        ------
        ValueError
            Where a name is missing or unknown, or a shape is another; nothing is copied then.
        TypeError
            Where an array's dtype can't be cast to the layer's.
        """
        own = self.state()
        if not isinstance(state, Mapping):
            must_be(TypeError, "state", f"a mapping with arrays named {sorted(own)}", state)
        if set(state) != set(own):
            must_be(ValueError, "state", f"arrays named {sorted(own)}", sorted(map(str, state)))
        for name, array in own.items():
            _check_loaded(name, array, state[name])
        for name, array in own.items():
            array[...] = state[name]

    def train(self: _LayerType, mode: bool = True) -> _LayerType:
        """Switch to training (or, with False, to use) and return the layer."""
        self.training = flag("mode", mode)
        return self

    def eval(self: _LayerType) -> _LayerType:
        """Switch to use: no dropout, and batch normalisation by the running averages."""
        return self.train(False)


def _check_loaded(name: str, own: Array, loaded: Array) -> None:
    if not isinstance(loaded, np.ndarray):
        must_be(TypeError, f"state[{name!r}]", "a NumPy array", loaded)
    if loaded.shape != own.shape:
        must_be_said(ValueError, f"state[{name!r}]", f"of shape {own.shape}", f"shape {loaded.shape}")
    if not np.can_cast(loaded.dtype, own.dtype, "same_kind"):
        must_be_said(TypeError, f"state[{name!r}]", f"of dtype {own.dtype}", f"dtype {loaded.dtype}")


class Weighted(Layer):
    """A layer with a weight and, maybe, a bias."""

    weight: Array
    bias: Array | None

    def __init__(self) -> None:
        super().__init__()
        self.grad_weight: Array | None = None
        self.grad_bias: Array | None = None
        self._input: Array | None = None

    def _initialise(self, shape: Size, filters: int, bias: bool, dtype: DTypeLike, rng: object) -> None:
        """Draw weight and bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

        The fan-in is the number of elements along all axes of the weight's ``shape`` but the first.
        This is PyTorch's ``reset_parameters`` (torch/nn/modules/conv.py and linear.py): Kaiming-uniform
        with a = sqrt(5), so the bound is sqrt(6 / ((1 + a**2) * fan_in)) = 1/sqrt(fan_in). Kaiming:
        He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852, section 2.2.
        """
        uniform, kind, biased = generator(rng).uniform, float_dtype("dtype", dtype), flag("bias", bias)
        addressable("the weight", shape, 8)
        bound = 1 / sqrt(prod(shape[1:]))
        self.weight = uniform(-bound, bound, shape).astype(kind)
        self.bias = uniform(-bound, bound, filters).astype(kind) if biased else None

    def parameters(self) -> list[Array]:
        """The weight and the bias; nothing of a frozen layer."""
        if self._frozen:
            return []
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def gradients(self) -> list[Array]:
        """The gradients of `parameters`, in the same order, as the last backward pass left them."""
        if self._frozen:
            return []
        if self.grad_weight is None:
            must_be_said(ValueError, "gradients", "asked for after backward", "no backward pass")
        return [self.grad_weight] if self.grad_bias is None else [self.grad_weight, self.grad_bias]

    def state(self) -> dict[str, Array]:
        """Weight and bias, frozen or not."""
        return {"weight": self.weight} if self.bias is None else {"weight": self.weight, "bias": self.bias}
