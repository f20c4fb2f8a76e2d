"""Networks of ONNX's `data/light` in its reference evaluator, alone and on fastconv, and in ONNX Runtime.

Run with `python bench/hosts/onnx.py`, in an environment with the extras `onnx` and `bench`, and onnxruntime.
"""

from side_by_side import Case, compare, hold_threads

THREADS = hold_threads()
import math  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from fastconv.adapters.onnx import FastReferenceEvaluator  # noqa: E402

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
NETWORKS = {
    "ResNet-50": "resnet50",
    "Inception v1": "inception_v1",
    "SqueezeNet": "squeezenet",
    "ShuffleNet": "shufflenet",
}


def weighted(model):
    """The model with random weights for initializers, where it fills each with one number at every run."""
    rng = np.random.default_rng(0)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            shape = shapes[node.input[0]].tolist()
            if len(shape) > 1:
                weight = rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
            else:  # scales and variances among them, which are positive
                weight = rng.uniform(0.5, 1.5, shape)
            tensor = numpy_helper.from_array(weight.astype(np.float32), node.output[0])
            model.graph.initializer.append(tensor)
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def in_onnxruntime(model):
    """A session of as many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def main():
    """Print both tables."""
    own, runtime = [], []
    for label, name in NETWORKS.items():
        model = weighted(onnx.load(LIGHT / f"light_{name}.onnx"))
        filled = {tensor.name for tensor in model.graph.initializer}
        (value,) = (value for value in model.graph.input if value.name not in filled)
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        feeds = {value.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
        slow, fast = ReferenceEvaluator(model), FastReferenceEvaluator(model)
        session = in_onnxruntime(model)

        def run(evaluator, feeds=feeds):
            return lambda: evaluator.run(None, feeds)

        np.testing.assert_allclose(run(fast)()[0], run(slow)()[0], rtol=1e-3, atol=1e-5)
        own.append(Case(label, run(slow), run(fast)))
        runtime.append(Case(label, run(session), run(fast)))
    compare("before: onnx.reference; after: on fastconv", own, rounds=3)
    compare("before: ONNX Runtime; after: onnx.reference on fastconv", runtime)


if __name__ == "__main__":
    main()
