"""Convolution forward and backward as matrix multiplication over columns, for NumPy, on the CPU."""

try:
    from fastconv import kernels
except ImportError as error:
    if error.name not in ("fastconv", "fastconv.kernels"):
        raise
    raise ImportError(
        "this fastconv is a source checkout that is not installed: run `python -m pip install -e .` in it"
    ) from None

from fastconv import compiling, nn, tuning
from fastconv.annotations import (
    ALGORITHMS,
)
from fastconv.columns import (
    col2im,
    conv_matrix,
    im2col,
)
from fastconv.config import (
    show_config,
)
from fastconv.conv import (
    ConvGrads,
    conv1d,
    conv1d_backward,
    conv1d_backward_input,
    conv1d_backward_weight,
    conv2d,
    conv2d_backward,
    conv2d_backward_input,
    conv2d_backward_weight,
    conv3d,
    conv3d_backward,
    conv3d_backward_input,
    conv3d_backward_weight,
    conv_transpose1d,
    conv_transpose1d_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
    conv_transpose3d,
    conv_transpose3d_backward,
)
from fastconv.explaining import (
    Explanation,
    explain,
)
from fastconv.plan import (
    ConvPlan,
    plan_conv1d,
    plan_conv2d,
    plan_conv3d,
)
from fastconv.pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool1d_backward,
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    adaptive_avg_pool3d,
    adaptive_avg_pool3d_backward,
    adaptive_max_pool1d,
    adaptive_max_pool1d_backward,
    adaptive_max_pool2d,
    adaptive_max_pool2d_backward,
    adaptive_max_pool3d,
    adaptive_max_pool3d_backward,
    avg_pool1d,
    avg_pool1d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool3d,
    avg_pool3d_backward,
    max_pool1d,
    max_pool1d_backward,
    max_pool1d_backward_ties,
    max_pool2d,
    max_pool2d_backward,
    max_pool2d_backward_ties,
    max_pool3d,
    max_pool3d_backward,
    max_pool3d_backward_ties,
    max_unpool1d,
    max_unpool1d_backward,
    max_unpool2d,
    max_unpool2d_backward,
    max_unpool3d,
    max_unpool3d_backward,
)
from fastconv.threads import (
    get_num_threads,
    num_threads,
    set_num_threads,
)
from fastconv.tuning import (
    load_tuning,
    save_tuning,
)

__version__ = "0.1.0"

compiling.watch()
tuning.load_from_environment()

__all__ = [
    "ALGORITHMS",
    "ConvGrads",
    "ConvPlan",
    "Explanation",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool1d_backward",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_avg_pool3d",
    "adaptive_avg_pool3d_backward",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_backward",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "col2im",
    "conv1d",
    "conv1d_backward",
    "conv1d_backward_input",
    "conv1d_backward_weight",
    "conv2d",
    "conv2d_backward",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "conv3d",
    "conv3d_backward",
    "conv3d_backward_input",
    "conv3d_backward_weight",
    "conv_matrix",
    "conv_transpose1d",
    "conv_transpose1d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "conv_transpose3d",
    "conv_transpose3d_backward",
    "explain",
    "get_num_threads",
    "im2col",
    "kernels",
    "load_tuning",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool1d_backward_ties",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool2d_backward_ties",
    "max_pool3d",
    "max_pool3d_backward",
    "max_pool3d_backward_ties",
    "max_unpool1d",
    "max_unpool1d_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "max_unpool3d",
    "max_unpool3d_backward",
    "nn",
    "num_threads",
    "plan_conv1d",
    "plan_conv2d",
    "plan_conv3d",
    "save_tuning",
    "set_num_threads",
    "show_config",
]


def __dir__() -> list[str]:
    """The public names alone; ``from fastconv import *`` takes the same, but for the version."""
    return sorted([*__all__, "__version__"])
