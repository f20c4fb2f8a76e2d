"""What the suites share: a short list of layers, and a case set up or skipped.

Parameters are the same whatever is installed: a missing peer, and a commit from before the table, raise
NotImplementedError in ``setup``, which asv takes as a skip.
"""

try:
    from fastconv import blas, set_num_threads
    from fastconv.bench import cases
    from fastconv.bench.cases import POOLING_LAYERS, STEP_LAYERS, Case, load_suite
    from fastconv.bench.implementations import TABLE, Absent, Data
except ImportError:  # an old commit
    TABLE = cases = None

# Newer than the table.
COMPANY_LAYERS = getattr(cases, "COMPANY_LAYERS", ())

# One layer of each kind, from the suites that the command line knows.
NAMES = {
    "seeds": ["s000_conv1", "s000_conv2", "s001", "cs231n"],
    "resnet50": [
        "r50_224_3-64_7s2",
        "r50_56_64-64_3",
        "r50_56_256-64_1",
        "r50_56_256-128_1s2",
        "r50_14_256-256_3",
        "r50_7_512-512_3",
    ],
    "alexnet": ["alex_27_96-256_5g2"],
    "mobilenet_v1_depthwise": ["mbv1_28_256-256_3g256"],
    "irregular": ["irr_28_256-256_3g32", "irr_56_64-64_3d2", "irr_56_64-64_3s2d2"],
}
LAYERS = [name for names in NAMES.values() for name in names]
POOLS = ["pool_112_64_3s2", "pool_112_64_2s2", "pool_28_256_3s2", "pool_24_3_2s2"]
NETS = ["s000", "s002", "s003", "s004"]
COMPANY = ["company_28_128-128_3", "company_56_64-64_1", "company_28_16-32_3"]
DTYPES = ["float32", "float64"]
THREADS = [1, "all"]


def find_layer(name):
    """A layer of any suite by name."""
    if TABLE is None:
        raise NotImplementedError("this commit has no table of implementations")
    layers = [*POOLING_LAYERS, *STEP_LAYERS, *COMPANY_LAYERS]
    for suite, names in NAMES.items():
        if name in names:
            layers += load_suite(suite)
    for layer in layers:
        if layer.name == name:
            return layer
    raise NotImplementedError(f"this commit has no layer {name}")


def prepared(operation, name, dtype, implementation):
    """The call of one implementation, run once: compiled, pages touched."""
    layer = find_layer(name)
    make = TABLE.get(operation, {}).get(implementation)
    if make is None:
        raise NotImplementedError(f"{implementation} has no {operation}")
    try:
        call = make(Case(operation, layer, dtype))
        call()
    except Absent as reason:
        raise NotImplementedError(str(reason)) from None
    return call


class Threads:
    """Hold fastconv, NumPy's BLAS and PyTorch to one thread, or let them take all; a process a benchmark."""

    def hold(self, threads, implementation):
        if threads == "all":
            return
        set_num_threads(threads)
        self.blas = blas.one_thread()
        self.blas.__enter__()
        if implementation == "torch":
            import torch

            torch.set_num_threads(threads)


def arrays(name, dtype):
    """The arrays of a layer: a mapping with x, w and dy."""
    return Data(Case("forward", find_layer(name), dtype))
