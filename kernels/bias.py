"""The gradient of a bias."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastconv.kernels.jit import jit
from fastconv.kernels.vectors import VECTOR_BYTES, lane_sum, pointer, vector_load

# Vectors of float64 sums side by side: as many as an addition takes cycles.
CHAINS = 4
LANES = VECTOR_BYTES // 8


@intrinsic
def sum_steps(typingctx, x, first, steps):
    """The sum, in float64, of ``steps`` times `CHAINS` vectors of `LANES` pixels from ``x[first]`` on.

    ``steps`` is at least one.
    """
    return types.float64(x, types.int64, types.int64), _sum_steps_code


def _sum_steps_code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    x, first, steps = arguments
    size = signature.args[0].dtype.bitwidth // 8
    index, wide = ir.IntType(64), ir.VectorType(ir.DoubleType(), LANES)
    narrow = ir.VectorType(ir.FloatType(), LANES) if size == 4 else wide
    start = pointer(context, builder, signature.args[0], x, first)
    before, loop = builder.block, builder.append_basic_block("steps")
    done = builder.append_basic_block("done")
    zero = ir.Constant(wide, [0.0] * LANES)
    builder.branch(loop)
    builder.position_at_end(loop)
    n = builder.phi(index)
    sums = [builder.phi(wide) for _ in range(CHAINS)]
    place = builder.gep(start, [builder.mul(n, ir.Constant(index, CHAINS * LANES))])
    added = []
    for i in range(CHAINS):
        source = builder.gep(place, [ir.Constant(index, i * LANES)])
        pixels = vector_load(builder, source, narrow, size, None)
        added.append(builder.fadd(sums[i], builder.fpext(pixels, wide) if size == 4 else pixels))
    following = builder.add(n, ir.Constant(index, 1))
    builder.cbranch(builder.icmp_signed("<", following, steps), loop, done)
    n.add_incoming(ir.Constant(index, 0), before)
    n.add_incoming(following, loop)
    for i in range(CHAINS):
        sums[i].add_incoming(zero, before)
        sums[i].add_incoming(added[i], loop)
    builder.position_at_end(done)
    total = added[0]
    for one in added[1:]:
        total = builder.fadd(total, one)
    return lane_sum(builder, total, LANES)


@jit
def sum_channels(dy, sums):
    """``sums[k]``: the sum of all pixels of channel k, added up in float64.

    Parameters
    ----------
    dy : float array (N, K, P), C-contiguous
    sums : float array (K,)
        Written.
    """
    images, channels, pixels = dy.shape
    flat = dy.reshape(dy.size)
    steps = pixels // (CHAINS * LANES)
    for k in range(channels):
        total = 0.0
        for n in range(images):
            first = (n * channels + k) * pixels
            if steps > 0:
                total += sum_steps(flat, first, steps)
            for i in range(first + steps * CHAINS * LANES, first + pixels):
                total += flat[max(0, i)]
        sums[k] = total
