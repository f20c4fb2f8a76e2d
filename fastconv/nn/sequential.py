"""Layers called in order, and in reverse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from fastconv.arguments import Array, flag, must_be
from fastconv.nn.activations import ReLU, Sigmoid, Tanh
from fastconv.nn.convolution import Conv1d, Conv2d, Conv3d, ConvTranspose2d
from fastconv.nn.dense import Flatten, Linear
from fastconv.nn.layer import Layer
from fastconv.nn.pooling import AvgPool2d, MaxPool2d

# Layers that hand back new arrays and keep none of them: the next layer may write to those, which saves a
# quarter of the memory that a step goes through. Only the classes themselves: a subclass may keep its output.
_NEW_OUTPUTS = {Conv1d, Conv2d, Conv3d, ConvTranspose2d, Linear, MaxPool2d, AvgPool2d}
_NEW_GRADIENTS = _NEW_OUTPUTS | {ReLU, Sigmoid, Tanh}

_SequentialType = TypeVar("_SequentialType", bound="Sequential")


class Sequential(Layer):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer
        In the order in which an input passes them; a Sequential may be one of them.

    Attributes
    ----------
    layers : tuple of Layer
        The same.

    Raises
    ------
    TypeError
        For an argument that is not a layer.

    Notes
    -----
    ``backward(grad, needs_input=False)`` is what training wants: it goes back only as far as there are
    parameters to train, so that the first layer's input gradient (and all that lies below the first
    trainable layer) is not computed.

    Examples
    --------
    >>> from fastconv import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 3, 5), nn.ReLU(), nn.Flatten(), nn.Linear(1728, 10))
    >>> len(net.parameters())
    4
    >>> net.layers[0].frozen = True
    >>> [array.shape for array in net.parameters()]
    [(10, 1728), (10,)]
    """

    def __init__(self, *layers: Layer) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                must_be(TypeError, f"layers[{i}]", "a Layer", layer)
        super().__init__()
        self.layers = layers

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]

    @property
    def frozen(self) -> bool:
        """Whether every layer is frozen; setting it sets every layer."""
        return all(layer.frozen for layer in self.layers)

    @frozen.setter
    def frozen(self, value: bool) -> None:
        for layer in self.layers:
            layer.frozen = value

    def forward(self, x: Array) -> Array:
        """The last layer's output for the batch ``x``."""
        ours = False  # whether nobody else has x
        for layer in self.layers:
            x = layer.forward_in_place(x) if ours else layer.forward(x)
            ours = type(layer) in _NEW_OUTPUTS
        return x

    def backward(self, grad: Array, needs_input: bool = True) -> Array | None:
        """The gradient of the last input (None without ``needs_input``); keeps those of the parameters."""
        lowest = 0 if needs_input else self._lowest_trainable()
        ours = False  # whether nobody else has grad
        for layer in self.layers[:lowest:-1]:
            # Only the lowest layer may return None, and the loop ends above it.
            grad = layer.backward_in_place(grad) if ours else layer.backward(grad)  # type: ignore[assignment]
            ours = type(layer) in _NEW_GRADIENTS or (ours and type(layer) is Flatten)
        if lowest < len(self.layers):
            return self.layers[lowest].backward(grad, needs_input)
        return grad if needs_input else None

    def _lowest_trainable(self) -> int:
        for i, layer in enumerate(self.layers):
            if layer.parameters():
                return i
        return len(self.layers)

    def parameters(self) -> list[Array]:
        """The parameters of all layers that are not frozen."""
        return [array for layer in self.layers for array in layer.parameters()]

    def gradients(self) -> list[Array]:
        """The gradients of `parameters`, in the same order."""
        return [array for layer in self.layers for array in layer.gradients()]

    def state(self) -> dict[str, Array]:
        """Every layer's arrays, as "0.weight", "0.bias", ..."""
        return {
            f"{i}.{name}": array
            for i, layer in enumerate(self.layers)
            for name, array in layer.state().items()
        }

    def _steps(self) -> Iterator[tuple[str, Layer]]:
        for i, layer in enumerate(self.layers):
            for place, step in layer._steps():
                yield f"{i}.{place}" if place else f"{i}", step

    def train(self: _SequentialType, mode: bool = True) -> _SequentialType:
        """Switch every layer to training (or, with False, to use) and return the network."""
        self.training = flag("mode", mode)
        for layer in self.layers:
            layer.train(mode)
        return self
