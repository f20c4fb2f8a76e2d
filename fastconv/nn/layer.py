"""What layers share: training and use, freezing, saving and loading; a weight and a bias."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy, deepcopy
from math import prod, sqrt
from operator import is_
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from fastconv.annotations import Shape
from fastconv.arguments import Array, Size, addressable, flag, float_dtype, must_be, must_be_said, size
from fastconv.nn.checks import generator
from fastconv.nn.configured import Configured
from fastconv.nn.summary import Row, table

Owners: TypeAlias = "list[tuple[Layer, str]]"
_LayerType = TypeVar("_LayerType", bound="Layer")


class _Vector(NamedTuple):
    """A vector, its parts, one for each array that lives in it, and whose those are."""

    whole: Array
    parts: list[Array]
    owners: Owners

    @property
    def is_one(self) -> bool:
        """Whether the parts are views of the vector; those of a copy are not."""
        return all(part.base is self.whole for part in self.parts)


class Layer(Configured):
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

    Notes
    -----
    Copies and pickles of the layers here have the parameters and their gradients, and not what the last
    forward pass kept for `backward`: they are as small after a large batch as before it.

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

    _flat_parameters: _Vector | None = None
    _flat_gradients: _Vector | None = None

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

    def flat_parameters(self) -> Array:
        """One vector in which all of `parameters` live from now on, one after the other.

        The layers' arrays become views of it: what is written to either is in both, training and `load_state`
        included. The next call gives the same vector, unless a layer has been frozen, unfrozen or given
        another array since.

        Returns
        -------
        array (number of parameters,)

        Raises
        ------
        TypeError
            If the parameters are of several dtypes.
        ValueError
            If a layer does not hold a parameter as an attribute.

        Examples
        --------
        >>> from fastconv import nn
        >>> net = nn.Sequential(nn.Linear(2, 3, rng=0), nn.ReLU(), nn.Linear(3, 1, rng=0))
        >>> vector = net.flat_parameters()
        >>> vector.shape
        (13,)
        >>> vector[:] = 1
        >>> net.layers[0].state()["weight"]
        array([[1., 1.],
               [1., 1.],
               [1., 1.]], dtype=float32)
        """
        arrays, held = self.parameters(), self._flat_parameters
        if held is None or not (held.is_one and _same(arrays, held.parts)):
            owners = _owners_of(self, arrays)
            held = self._flat_parameters = _vector_for(arrays, owners)
            for (layer, name), view in zip(owners, held.parts, strict=True):
                setattr(layer, name, view)
        return held.whole

    def flat_gradients(self) -> Array:
        """One vector with all of `gradients`, in the order of `flat_parameters`.

        Every backward pass writes to it; until the first one it holds zeros. A layer of your own that has
        parameters writes where it likes: its gradients are copied when this function is called.

        Returns
        -------
        array (number of parameters,)
            The same one in the next call, unless a layer has been frozen, unfrozen or given another array.

        Raises
        ------
        TypeError
            If the parameters are of several dtypes.

        Examples
        --------
        A step by hand:

        >>> import numpy as np
        >>> from fastconv import nn
        >>> net = nn.Sequential(nn.Linear(2, 3, rng=0), nn.ReLU(), nn.Linear(3, 1, rng=0))
        >>> weights, gradients = net.flat_parameters(), net.flat_gradients()
        >>> output = net.forward(np.ones((4, 2), np.float32))
        >>> _ = net.backward(output - 1)
        >>> weights -= 0.1 * gradients
        """
        arrays, held = self.parameters(), self._flat_gradients
        owners = _owners_of(self, arrays)
        if held is None or not (held.is_one and owners == held.owners):
            held = self._flat_gradients = _vector_for([np.zeros_like(array) for array in arrays], owners)
        copied = []
        for i, ((layer, name), view) in enumerate(zip(owners, held.parts, strict=True)):
            if isinstance(layer, Weighted) and name in ("weight", "bias"):
                layer._keep_gradient(f"grad_{name}", view)
            else:
                copied.append((i, view))
        gradients = self.gradients() if copied else []
        for i, view in copied:
            view[...] = gradients[i]
        return held.whole

    def summary(self, input_size: Shape) -> str:
        """A table of the layers: the shape of each one's output, its parameters, its multiply-adds.

        Nothing is computed but on an empty batch.

        Parameters
        ----------
        input_size : tuple of int
            The input's whole shape, batch included.

        Returns
        -------
        str
            Multiply-adds are those of the products of a forward pass of the whole batch.

        Raises
        ------
        TypeError, ValueError
            If a layer does not take its input.

        Examples
        --------
        >>> from fastconv import nn
        >>> net = nn.Sequential(
        ...     nn.Conv2d(1, 3, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(432, 10)
        ... )
        >>> print(net.summary((32, 1, 28, 28)))
        layer                output           parameters  multiply-adds
        0  Conv2d(1, 3, 5)   (32, 3, 24, 24)          78      1,382,400
        1  ReLU()            (32, 3, 24, 24)           0              0
        2  MaxPool2d(2)      (32, 3, 12, 12)           0              0
        3  Flatten()         (32, 432)                 0              0
        4  Linear(432, 10)   (32, 10)              4,330        138,240
        total                                      4,408      1,520,640
        """
        shape = size("input_size", input_size, range(1, 6))
        addressable("input_size", shape, 8)
        try:
            return table([*self._rows(shape)])
        except ValueError as error:
            expected = "the shape of what the layers take, batch included"
            raise ValueError(f"input_size must be {expected}, got {shape}: {error}") from None

    def _steps(self) -> Iterator[tuple[str, Layer]]:
        """The layers that an input passes one after the other, each with its place in the network."""
        yield "", self

    def _rows(self, input_size: Size) -> Iterator[Row]:
        batch, x = input_size[0], np.empty((0, *input_size[1:]), np.float32)
        for place, layer in self._steps():
            # A copy, which shares the arrays if no layers are inside: the layer keeps what its next
            # backward pass needs.
            twin = deepcopy(layer) if len([*layers_in(layer)]) > 1 else copy(layer)
            for inner in layers_in(twin):
                inner.training, inner._frozen = False, False
            y = twin.forward(x)
            size_in, size_out = (batch, *x.shape[1:]), (batch, *y.shape[1:])
            parameters = sum(array.size for array in twin.parameters())
            yield Row(place, repr(layer), size_out, parameters, twin._products(size_in, size_out))
            x = y

    def _products(self, input_size: Size, output_size: Size) -> int:
        """Multiply-adds of a forward pass with a weight, between arrays of these shapes."""
        return 0

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


def _same(arrays: list[Array], others: list[Array]) -> bool:
    return len(arrays) == len(others) and all(map(is_, arrays, others))


def _vector_for(arrays: list[Array], owners: Owners) -> _Vector:
    """A new vector with the values of all arrays, and a view of it in each one's shape."""
    dtypes = sorted({str(array.dtype) for array in arrays})
    if len(dtypes) > 1:
        must_be_said(TypeError, "parameters", "of one dtype to be one vector", " and ".join(dtypes))
    whole = np.empty(sum(array.size for array in arrays), dtypes[0] if dtypes else np.float32)
    parts, first = [], 0
    for array in arrays:
        parts.append(whole[first : first + array.size].reshape(array.shape))
        parts[-1][...] = array
        first += array.size
    return _Vector(whole, parts, owners)


def layers_in(layer: Layer) -> Iterator[Layer]:
    """The layer and all that it has as attributes."""
    yield layer
    for value in vars(layer).values():
        for inner in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(inner, Layer):
                yield from layers_in(inner)


def owners_of(network: Layer, arrays: list[Array]) -> Owners | None:
    """The layer and its attribute that each array is; None where one is of no layer or two are the same."""
    owners = {
        id(value): (layer, name)
        for layer in layers_in(network)
        for name, value in vars(layer).items()
        if isinstance(value, np.ndarray)
    }
    found = [owners[id(array)] for array in arrays if id(array) in owners]
    return found if len(found) == len({id(array) for array in arrays}) == len(arrays) else None


def _owners_of(network: Layer, arrays: list[Array]) -> Owners:
    owners = owners_of(network, arrays)
    if owners is None:
        must_be_said(ValueError, "parameters", "attributes of layers, each of one", "others")
    return owners


class _Gradient:
    """A parameter's gradient: what it is set to, copied to where `Layer.flat_gradients` keeps it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, layer: Weighted, owner: type | None = None) -> Array | None:
        gradient: Array | None = vars(layer).get(self._name)
        return gradient

    def __set__(self, layer: Weighted, value: Array | None) -> None:
        view = layer._kept_gradients.get(self._name)
        if value is not None and view is not None:
            view[...] = value
            value = view
        vars(layer)[self._name] = value


class Weighted(Layer):
    """A layer with a weight and, maybe, a bias."""

    weight: Array
    bias: Array | None
    _kept_for_backward = ("_input",)
    grad_weight = _Gradient()
    grad_bias = _Gradient()

    def __init__(self) -> None:
        super().__init__()
        self._kept_gradients: dict[str, Array] = {}
        self._input: Array | None = None

    def _keep_gradient(self, name: str, view: Array) -> None:
        """Hold a gradient in ``view`` from now on."""
        if self._kept_gradients.get(name) is not view:
            gradient = getattr(self, name)
            self._kept_gradients[name] = view
            setattr(self, name, view if gradient is None else gradient)

    def _argument(self, name: str, default: Any) -> Any:
        if name == "bias":
            return self.bias is not None
        return self.weight.dtype.name if name == "dtype" else super()._argument(name, default)

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
