"""The one table of implementations: who does an operation, and how it is called.

``TABLE[operation][implementation]`` is a function of a `Case` that sets everything up and returns a call
without arguments, whose result is a NumPy array in the case's layout (or a tuple of them): what is timed,
and what the tests compare. A peer that is not installed raises `Absent` while it is set up; one that has
no such operation has no entry.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import fastconv
from fastconv.arguments import Array
from fastconv.bench.cases import Case, Layer
from fastconv.engine.select import ALGORITHMS

Call = Callable[[], Any]
Make = Callable[[Case], Call]


class Absent(Exception):
    """A peer that can't take part, and why."""


def _import(name: str, package: str | None = None) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Absent(f"{package or name} is not installed") from None


# --- data ---------------------------------------------------------------------------------------------


def _nhwc(array: Array) -> Array:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


class Data:
    """The arrays of a case: the same numbers for every implementation, pages touched."""

    def __init__(self, case: Case) -> None:
        layer, rng = case.layer, np.random.default_rng(0)
        self.layer, self.layout = layer, case.layout
        sizes = {
            "x": (layer.n, layer.c, layer.h, layer.w),
            "w": (layer.k, layer.c // layer.groups, layer.r, layer.s),
            "dy": (layer.n, layer.k, *layer.output),
        }
        # Sums of taps products of these stay near 1, whatever the layer.
        self.nchw = {name: rng.uniform(-1, 1, size).astype(case.dtype) for name, size in sizes.items()}
        self.nchw["w"] /= np.sqrt(layer.c // layer.groups * layer.r * layer.s)

    def __getitem__(self, name: str) -> Array:
        """An array in the case's layout."""
        array = self.nchw[name]
        return array if self.layout == "NCHW" else _nhwc(array)


# --- fastconv -----------------------------------------------------------------------------------------


def _steps(layer: Layer) -> dict[str, Any]:
    return {
        "stride": layer.stride,
        "padding": layer.pad,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }


def _fastconv_pass(algorithm: str) -> Make:
    """The public functions."""

    def make(case: Case) -> Call:
        data = Data(case)
        x, w, dy = data["x"], data["w"], data["dy"]
        options: dict[str, Any] = {**_steps(case.layer), "layout": case.layout, "algorithm": algorithm}
        plan = fastconv.plan_conv2d(x.shape, w.shape, dtype=case.dtype, **options)
        if case.operation not in plan.algorithms:
            raise Absent(f"{algorithm} can't serve {case.operation} of {case.layer.name}")
        calls: dict[str, Call] = {
            "forward": lambda: fastconv.conv2d(x, w, None, **options),
            "backward_input": lambda: fastconv.conv2d_backward_input(dy, w, x.shape, **options),
            "backward_weight": lambda: fastconv.conv2d_backward_weight(dy, x, w.shape, **options),
        }
        return calls[case.operation]

    return make


def _plan_pass(case: Case) -> Call:
    """A plan: the same work without looking at arguments."""
    data = Data(case)
    x, w, dy = data["x"], data["w"], data["dy"]
    plan = fastconv.plan_conv2d(x.shape, w.shape, **_steps(case.layer), dtype=case.dtype, layout=case.layout)
    calls: dict[str, Call] = {
        "forward": lambda: plan(x, w),
        "backward_input": lambda: plan.backward_input(dy, w),
        "backward_weight": lambda: plan.backward_weight(dy, x),
    }
    return calls[case.operation]


def _kernel_pass(case: Case) -> Call:
    """The algorithm itself on arrays in normal form: what is left when all dispatch is gone."""
    from fastconv.geometry import normal_form
    from fastconv.plan import ConvPlan

    data, last = Data(case), case.layout == "NHWC"
    x, w, dy = data["x"], data["w"], data["dy"]
    plan: ConvPlan = fastconv.plan_conv2d(
        x.shape, w.shape, **_steps(case.layer), dtype=case.dtype, layout=case.layout
    )
    run = getattr(plan._passes.algorithm(case.operation), case.operation)  # type: ignore[arg-type]
    sources = {"forward": (x, w), "backward_input": (dy, w), "backward_weight": (dy, x)}[case.operation]
    out = np.ones_like({"forward": dy, "backward_input": x, "backward_weight": w}[case.operation])
    arrays = [normal_form(array, last) for array in (*sources, out)]
    if case.operation == "forward":
        arrays.insert(2, None)  # type: ignore[arg-type]

    def call() -> Array:
        run(*arrays)
        return out

    return call


def _fastconv_pool(case: Case) -> Call:
    data, layer = Data(case), case.layer
    x, dy, layout = data["x"], data["dy"], case.layout
    window = (layer.r, layer.s), layer.stride, layer.pad
    if case.operation == "max_pool":
        return lambda: fastconv.max_pool2d(x, *window, return_indices=True, layout=layout)
    if case.operation == "max_pool_backward":
        indices = fastconv.max_pool2d(x, *window, return_indices=True, layout=layout)[1]
        return lambda: fastconv.max_pool2d_backward(dy, indices, x.shape, layout=layout)
    if case.operation == "avg_pool":
        return lambda: fastconv.avg_pool2d(x, *window, layout=layout)
    return lambda: fastconv.avg_pool2d_backward(dy, x.shape, *window, layout=layout)


# --- plain NumPy, as users write it -------------------------------------------------------------------


def _windows(x: Array, layer: Layer, filling: float = 0.0) -> Array:
    """(N, C, OH, OW, R, S): a view of the image, padded with ``filling``."""
    pad, reach = layer.pad, layer.dilation
    padding = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    x = np.pad(x, padding, constant_values=filling) if pad else x
    extents = reach * (layer.r - 1) + 1, reach * (layer.s - 1) + 1
    view = np.lib.stride_tricks.sliding_window_view(x, extents, axis=(2, 3))
    return view[:, :, :: layer.stride, :: layer.stride, ::reach, ::reach]


def _numpy_columns(x: Array, layer: Layer) -> Array:
    """(G, N*OH*OW, C/G*R*S), copied."""
    windows = _windows(x, layer)
    n, _, oh, ow = windows.shape[:4]
    grouped = windows.reshape(n, layer.groups, layer.c // layer.groups, oh, ow, layer.r, layer.s)
    return grouped.transpose(1, 0, 3, 4, 2, 5, 6).reshape(layer.groups, n * oh * ow, -1)


def _numpy_rows(dy: Array, layer: Layer) -> Array:
    """(G, N*OH*OW, K/G)."""
    n, k, oh, ow = dy.shape
    grouped = dy.reshape(n, layer.groups, k // layer.groups, oh, ow)
    return grouped.transpose(1, 0, 3, 4, 2).reshape(layer.groups, n * oh * ow, -1)


def _numpy_forward(x: Array, w: Array, layer: Layer) -> Array:
    oh, ow = layer.output
    # (G, N*OH*OW, K/G) = (G, N*OH*OW, C/G*R*S) @ (G, C/G*R*S, K/G)
    y = _numpy_columns(x, layer) @ w.reshape(layer.groups, layer.k // layer.groups, -1).transpose(0, 2, 1)
    y = y.reshape(layer.groups, layer.n, oh, ow, -1).transpose(1, 0, 4, 2, 3)
    return y.reshape(layer.n, layer.k, oh, ow)


def _numpy_backward_weight(dy: Array, x: Array, layer: Layer) -> Array:
    # (G, K/G, C/G*R*S) = (G, K/G, N*OH*OW) @ (G, N*OH*OW, C/G*R*S)
    dw = _numpy_rows(dy, layer).transpose(0, 2, 1) @ _numpy_columns(x, layer)
    return dw.reshape(layer.k, layer.c // layer.groups, layer.r, layer.s)


def _numpy_backward_input(dy: Array, w: Array, layer: Layer) -> Array:
    oh, ow = layer.output
    # (G, N*OH*OW, C/G*R*S) = (G, N*OH*OW, K/G) @ (G, K/G, C/G*R*S)
    columns = _numpy_rows(dy, layer) @ w.reshape(layer.groups, layer.k // layer.groups, -1)
    columns = columns.reshape(layer.groups, layer.n, oh, ow, layer.c // layer.groups, layer.r, layer.s)
    columns = columns.transpose(1, 0, 4, 5, 6, 2, 3).reshape(layer.n, layer.c, layer.r, layer.s, oh, ow)
    return _numpy_fold(columns, layer)


def _numpy_fold(columns: Array, layer: Layer) -> Array:
    """Columns (N, C, R, S, OH, OW) added up into images (N, C, H, W)."""
    (oh, ow), pad, step, reach = layer.output, layer.pad, layer.stride, layer.dilation
    padded = np.zeros((layer.n, layer.c, layer.h + 2 * pad, layer.w + 2 * pad), columns.dtype)
    for r in range(layer.r):
        for s in range(layer.s):
            top, left = r * reach, s * reach
            padded[:, :, top : top + step * oh : step, left : left + step * ow : step] += columns[:, :, r, s]
    return padded[:, :, pad : pad + layer.h, pad : pad + layer.w]


def _numpy_pass(case: Case) -> Call:
    data, layer = Data(case), case.layer
    if case.layout != "NCHW":
        raise Absent("plain NumPy code is written for NCHW")
    x, w, dy = data["x"], data["w"], data["dy"]
    calls: dict[str, Call] = {
        "forward": lambda: _numpy_forward(x, w, layer),
        "backward_input": lambda: _numpy_backward_input(dy, w, layer),
        "backward_weight": lambda: _numpy_backward_weight(dy, x, layer),
    }
    return calls[case.operation]


def _numpy_max_pool(x: Array, layer: Layer) -> tuple[Array, Array]:
    """The maxima, and where each stands in its plane."""
    windows = _windows(x, layer, -np.inf)
    n, c, oh, ow, r, s = windows.shape
    windows = windows.reshape(n, c, oh, ow, r * s)
    first = windows.argmax(-1)
    rows = first // s + layer.stride * np.arange(oh)[:, None] - layer.pad
    columns = first % s + layer.stride * np.arange(ow) - layer.pad
    return np.take_along_axis(windows, first[..., None], -1)[..., 0], rows * layer.w + columns


def _numpy_max_pool_backward(dy: Array, indices: Array, layer: Layer) -> Array:
    planes = layer.n * layer.c
    dx = np.zeros((planes, layer.h * layer.w), dy.dtype)
    if layer.stride >= max(layer.r, layer.s):  # no cell lies in two windows
        np.put_along_axis(dx, indices.reshape(planes, -1), dy.reshape(planes, -1), 1)
    else:
        np.add.at(dx, (np.arange(planes)[:, None], indices.reshape(planes, -1)), dy.reshape(planes, -1))
    return dx.reshape(layer.n, layer.c, layer.h, layer.w)


def _numpy_avg_pool_backward(dy: Array, layer: Layer) -> Array:
    share = dy / (layer.r * layer.s)
    columns = np.broadcast_to(share[:, :, None, None], (*dy.shape[:2], layer.r, layer.s, *dy.shape[2:]))
    return _numpy_fold(columns, layer)


def _numpy_pool(case: Case) -> Call:
    data, layer = Data(case), case.layer
    if case.layout != "NCHW":
        raise Absent("plain NumPy code is written for NCHW")
    x, dy = data["x"], data["dy"]
    indices = _numpy_max_pool(x, layer)[1]
    calls: dict[str, Call] = {
        "max_pool": lambda: _numpy_max_pool(x, layer),
        "max_pool_backward": lambda: _numpy_max_pool_backward(dy, indices, layer),
        "avg_pool": lambda: _windows(x, layer).mean((-2, -1)),
        "avg_pool_backward": lambda: _numpy_avg_pool_backward(dy, layer),
    }
    return calls[case.operation]


def _scipy_forward(case: Case) -> Call:
    """``scipy.signal.correlate`` for each pair of filter and channel: what SciPy has."""
    signal = _import("scipy.signal", "scipy")
    data, layer = Data(case), case.layer
    if case.layout != "NCHW" or layer.groups > 1 or layer.dilation > 1:
        raise Absent("scipy.signal has no groups, dilation or channels-last")
    x, w = data["x"], data["w"]
    if layer.n * layer.k * layer.c > 4096:
        raise Absent("scipy.signal is called once for each image, filter and channel: too many here")
    pad, step = layer.pad, layer.stride

    def call() -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        y = np.empty((layer.n, layer.k, *layer.output), x.dtype)
        for n, k in np.ndindex(layer.n, layer.k):
            planes = [signal.correlate(padded[n, c], w[k, c], "valid") for c in range(layer.c)]
            y[n, k] = np.sum(planes, axis=0)[::step, ::step]
        return y

    return call


# --- PyTorch ------------------------------------------------------------------------------------------


def _torch_tensors(case: Case, data: Data) -> dict[str, Any]:
    """The arrays in PyTorch's shapes, in the memory format of the case's layout."""
    torch = _import("torch")
    form = torch.channels_last if case.layout == "NHWC" else torch.contiguous_format
    return {
        name: torch.from_numpy(array.copy()).contiguous(memory_format=form)
        for name, array in data.nchw.items()
    }


def _from_torch(case: Case, tensor: Any) -> Any:
    """What a call hands back, as an array in the case's layout: a view, so that nothing is timed."""
    array = tensor.detach().numpy()
    return array if case.layout == "NCHW" else array.transpose(0, 2, 3, 1)


def _torch_pass(case: Case) -> Call:
    torch = _import("torch")
    layer, tensors = case.layer, _torch_tensors(case, Data(case))
    x, w, dy = tensors["x"], tensors["w"], tensors["dy"]
    pair = {name: [value] * 2 for name, value in _steps(layer).items()}
    if case.operation == "forward":

        def forward() -> Any:
            with torch.inference_mode():
                y = torch.nn.functional.conv2d(
                    x, w, None, layer.stride, layer.pad, layer.dilation, layer.groups
                )
                return _from_torch(case, y)

        return forward
    wanted = [case.operation == "backward_input", case.operation == "backward_weight", False]
    which = wanted.index(True)
    backward = torch.ops.aten.convolution_backward

    def call() -> Any:
        with torch.inference_mode():
            grads = backward(
                dy, x, w, None, pair["stride"], pair["padding"], pair["dilation"], False, [0, 0],
                layer.groups, wanted,
            )  # fmt: skip
            return _from_torch(case, grads[which])

    return call


def _torch_pool(case: Case) -> Call:
    torch = _import("torch")
    layer, tensors = case.layer, _torch_tensors(case, Data(case))
    x, dy = tensors["x"], tensors["dy"]
    window = [layer.r, layer.s], [layer.stride] * 2, [layer.pad] * 2
    aten = torch.ops.aten

    def max_pool() -> Any:
        y, indices = aten.max_pool2d_with_indices(x, *window, [1, 1], False)
        return _from_torch(case, y), _from_torch(case, indices)

    indices = aten.max_pool2d_with_indices(x, *window, [1, 1], False)[1]
    calls: dict[str, Call] = {
        "max_pool": max_pool,
        "max_pool_backward": lambda: _from_torch(
            case, aten.max_pool2d_with_indices_backward(dy, x, *window, [1, 1], False, indices)
        ),
        "avg_pool": lambda: _from_torch(case, aten.avg_pool2d(x, *window, False, True)),
        "avg_pool_backward": lambda: _from_torch(
            case, aten.avg_pool2d_backward(dy, x, *window, False, True, None)
        ),
    }
    call = calls[case.operation]

    def quiet() -> Any:
        with torch.inference_mode():
            return call()

    return quiet


# --- ONNX Runtime, OpenVINO, JAX (forward only) --------------------------------------------------------


def _onnx_model(case: Case, weight: Array) -> bytes:
    onnx = _import("onnx")
    helper, layer = onnx.helper, case.layer
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
    node = helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        strides=[layer.stride] * 2,
        pads=[layer.pad] * 4,
        dilations=[layer.dilation] * 2,
        group=layer.groups,
    )
    size = [layer.n, layer.c, layer.h, layer.w]
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", kind, size)],
        [helper.make_tensor_value_info("y", kind, [layer.n, layer.k, *layer.output])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _forward_nchw_only(case: Case, who: str) -> None:
    if case.layout != "NCHW":
        raise Absent(f"{who} takes NCHW")


def _onnxruntime_forward(case: Case) -> Call:
    import os

    runtime = _import("onnxruntime")
    _forward_nchw_only(case, "ONNX Runtime")
    data, options = Data(case), runtime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
    try:
        session = runtime.InferenceSession(
            _onnx_model(case, data["w"]), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its own exceptions: an operator or dtype that it does not have
        raise Absent(f"ONNX Runtime: {str(error).splitlines()[0]}") from None
    x = data["x"]
    return lambda: session.run(None, {"x": x})[0]


def _openvino_forward(case: Case) -> Call:
    import os

    openvino = _import("openvino")
    _import("onnx")
    _forward_nchw_only(case, "OpenVINO")
    data = Data(case)
    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "float64": "f64"}[case.dtype],
        "INFERENCE_NUM_THREADS": int(os.environ.get("OMP_NUM_THREADS", "0")),
    }
    try:
        model = core.read_model(_onnx_model(case, data["w"]), b"")
        compiled = core.compile_model(model, "CPU", settings)
    except Exception as error:  # likewise
        raise Absent(f"OpenVINO: {str(error).splitlines()[0]}") from None
    request = compiled.create_infer_request()
    x = openvino.Tensor(data["x"])  # its own copy: what it shares it does not keep alive
    request.set_input_tensor(x)

    def call() -> Array:
        request.infer()
        return request.get_output_tensor().data  # type: ignore[no-any-return]

    return call


def _jax_pass(case: Case) -> Call:
    jax = _import("jax")
    jax.config.update("jax_enable_x64", True)
    data, layer = Data(case), case.layer
    names = ("NCHW", "OIHW", "NCHW") if case.layout == "NCHW" else ("NHWC", "OHWI", "NHWC")
    x, w, dy = (jax.numpy.asarray(data[name]) for name in ("x", "w", "dy"))

    def conv(x: Any, w: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x,
            w,
            (layer.stride,) * 2,
            ((layer.pad,) * 2,) * 2,
            rhs_dilation=(layer.dilation,) * 2,
            dimension_numbers=names,
            feature_group_count=layer.groups,
        )

    functions: dict[str, Callable[[Any, Any], Any]] = {
        "forward": conv,
        "backward_input": lambda dy, w: jax.linear_transpose(lambda x_: conv(x_, w), x)(dy)[0],
        "backward_weight": lambda dy, x: jax.linear_transpose(lambda w_: conv(x, w_), w)(dy)[0],
    }
    compiled = jax.jit(functions[case.operation])
    arguments = {"forward": (x, w), "backward_input": (dy, w), "backward_weight": (dy, x)}[case.operation]
    return lambda: np.asarray(compiled(*arguments).block_until_ready())


# --- whole training steps ------------------------------------------------------------------------------


def _step(layers: str) -> Make:
    """A training step of a seed network in `fastconv.nn` or in plain NumPy."""

    def make(case: Case) -> Call:
        from fastconv.demo.networks import RECIPES

        training = importlib.import_module("fastconv.demo.training")
        trainer = training.Trainer(RECIPES[case.layer.name], importlib.import_module(layers), seed=0)
        images, labels = _step_data(case)
        return lambda: trainer.step(images, labels)

    return make


def _step_data(case: Case) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    images = rng.random((case.layer.n, 1, 28, 28), dtype=np.float32)
    return images, rng.integers(0, 10, case.layer.n)


def _torch_step(case: Case) -> Call:
    """The same network, optimiser and loss in eager PyTorch."""
    torch = _import("torch")
    nn = torch.nn

    from fastconv.demo.networks import RECIPES

    recipe = RECIPES[case.layer.name]
    network = nn.Sequential(*_torch_layers(nn, recipe.build(fastconv.nn, 0)))
    squared = recipe.loss is fastconv.nn.MSELoss
    loss = nn.MSELoss() if squared else nn.CrossEntropyLoss()
    optimiser = torch.optim.Adam(network.parameters(), recipe.learning_rate)
    images, labels = (torch.from_numpy(array) for array in _step_data(case))
    targets = nn.functional.one_hot(labels, 10).float() if squared else labels

    def call() -> float:
        optimiser.zero_grad()
        value = loss(network(images), targets)
        value.backward()
        optimiser.step()
        return float(value)

    return call


def _torch_layers(nn: Any, network: Any) -> list[Any]:
    """PyTorch's layers with the weights of ours."""
    torch = _import("torch")
    made = []
    for ours in network:
        kind = type(ours).__name__
        if kind == "Conv2d":
            theirs = nn.Conv2d(ours.weight.shape[1], ours.weight.shape[0], ours.kernel_size, *ours._arguments)
        elif kind == "Linear":
            theirs = nn.Linear(ours.weight.shape[1], ours.weight.shape[0])
        elif kind == "MaxPool2d":
            theirs = nn.MaxPool2d(2)
        else:
            theirs = getattr(nn, kind)()
        if kind in ("Conv2d", "Linear"):
            with torch.no_grad():
                theirs.weight.copy_(torch.from_numpy(ours.weight))
                theirs.bias.copy_(torch.from_numpy(ours.bias))
        made.append(theirs)
    return made


# --- in company ------------------------------------------------------------------------------------------


class AfterProduct:
    """A call that comes right after a matrix product of NumPy, (256, 1024) by (1024, 256)."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._left, self._right = (np.ones(size, np.float32) for size in ((256, 1024), (1024, 256)))

    def before(self) -> None:
        """The product, which the clock leaves out."""
        self._left @ self._right

    def __call__(self) -> Any:
        """What is timed."""
        return self._call()


def _after_product(make: Make) -> Make:
    return lambda case: AfterProduct(make(replace(case, operation="forward")))


# --- the table ----------------------------------------------------------------------------------------

_PASS: dict[str, Make] = {
    "fastconv": _fastconv_pass("auto"),
    **{f"fastconv:{algorithm.label}": _fastconv_pass(algorithm.label) for algorithm in ALGORITHMS},
    "plan": _plan_pass,
    "kernel": _kernel_pass,
    "numpy": _numpy_pass,
    "torch": _torch_pass,
    "jax": _jax_pass,
}
_FORWARD: dict[str, Make] = {
    **_PASS,
    "scipy": _scipy_forward,
    "onnxruntime": _onnxruntime_forward,
    "openvino": _openvino_forward,
}
_POOL: dict[str, Make] = {"fastconv": _fastconv_pool, "numpy": _numpy_pool, "torch": _torch_pool}

TABLE: dict[str, dict[str, Make]] = {
    "forward": _FORWARD,
    "backward_input": _PASS,
    "backward_weight": _PASS,
    "max_pool": _POOL,
    "max_pool_backward": _POOL,
    "avg_pool": _POOL,
    "avg_pool_backward": _POOL,
    "step": {
        "fastconv": _step("fastconv.nn"),
        "numpy": _step("fastconv.demo.plain"),
        "torch": _torch_step,
    },
    "after_product": {name: _after_product(make) for name, make in _FORWARD.items()},
}

# Implementations of our own, which are not peers.
BY_NAME = ("fastconv", *(f"fastconv:{algorithm.label}" for algorithm in ALGORITHMS))
OURS = ("fastconv", "plan", "kernel", *BY_NAME[1:])
# The packages of the peers, and what else each needs.
PEERS: dict[str, tuple[str, ...]] = {
    "torch": (),
    "onnxruntime": ("onnx",),
    "openvino": ("onnx",),
    "jax": (),
    "numpy": (),
    "scipy": (),
}
