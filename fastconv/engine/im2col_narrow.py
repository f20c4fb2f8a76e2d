"""Backward-input to few channels, channels last: a product of BLAS, and its columns added up where they lie.

Vectors along three channels would leave most lanes empty. Those of the product lie along taps and channels;
every pixel of the input then adds up what it gets, and none is read and written twice:

    columns = dY @ W    (pixels, taps*channels) = (pixels, filters) @ (filters, taps*channels)
"""

from __future__ import annotations

from math import prod

import numpy as np

from fastconv import blas
from fastconv.arguments import Array
from fastconv.buffers import aligned
from fastconv.engine.partition import FEW_PIXELS, Grid, ceil_div, wanted_jobs
from fastconv.engine.problem import Counts, Problem
from fastconv.geometry import Geometry
from fastconv.kernels.im2col_narrow import gather_rows
from fastconv.kernels.vectors import VECTOR_BYTES
from fastconv.threads import Job, run_jobs

# Channels that are not worth a vector.
FEW = 8
# Columns of a job: rows at their ends are computed twice.
COLUMN_BYTES = 2**20
MOST_COLUMN_BYTES = 2**23


class Narrow:
    """Backward-input, over bands of rows of the input."""

    def __init__(self, geometry: Geometry) -> None:
        g = self.geometry = geometry
        self.lanes = VECTOR_BYTES // g.compute_dtype.itemsize
        self.pitch = ceil_div(g.taps, self.lanes) * self.lanes
        reach = ceil_div(g.dilation[1] * (g.kernel[1] - 1) + 1, g.stride[1])
        row_bytes = g.output[2] * self.pitch * g.compute_dtype.itemsize
        fitting = max(1, COLUMN_BYTES // row_bytes - reach) * g.stride[1]
        wanted = wanted_jobs(g.multiplications)
        bands = max(ceil_div(g.input[1], fitting), ceil_div(wanted, max(1, g.batch)))
        self.band = max(ceil_div(g.input[1], bands), min(g.input[1], 2 * reach * g.stride[1]))
        self.most_rows = min(g.output[1], ceil_div(self.band, g.stride[1]) + reach)

    @staticmethod
    def serves(geometry: Geometry) -> bool:
        """One plane of few channels in one group, channels last: a product each, of rows not too long."""
        g = geometry
        few = g.channels_last and g.one_plane and g.groups == 1 and g.channels < FEW
        return (
            few
            and g.pixels >= FEW_PIXELS
            and min(g.batch, g.filters) > 0
            and Narrow(g).scratch_bytes <= MOST_COLUMN_BYTES
        )

    @staticmethod
    def counts(p: Problem) -> Counts:
        """A product of BLAS, and what every pixel of the input adds up of it."""
        pixels, gathered = p.batch * prod(p.source), p.batch * prod(p.target)
        pitch = ceil_div(p.filters * p.taps, p.lanes) * p.lanes
        return Counts(
            "im2col/narrow",
            {
                "call": 1,
                "bands": max(p.batch, pixels * pitch * p.itemsize / COLUMN_BYTES),
                "gemm": pixels * pitch / p.lanes * p.channels,
                "gemm_a": pixels * p.channels,
                "columns": pixels * pitch * p.itemsize,
                "gathered": gathered * p.taps / p.phases,
                "cells": gathered,
                "lines": p.batch * p.target[1],
                "weights": p.weight_bytes,
                "source_far": p.source_far,
                "target_far": p.target_far,
            },
        )

    @property
    def scratch_bytes(self) -> int:
        """Columns of one band."""
        g = self.geometry
        return (self.most_rows * g.output[2] * self.pitch + self.lanes) * g.compute_dtype.itemsize

    def run(self, dy: Array, w: Array, dx: Array) -> None:
        """Write all of ``dx``; all arrays are contiguous, with the channels last."""
        g = self.geometry
        gradients = dy.transpose(0, 2, 3, 4, 1).reshape(g.batch, -1, g.filters)
        x = dx.transpose(0, 2, 3, 4, 1).reshape(-1)
        # (filters, taps*channels), rows in whole vectors
        weights = np.zeros((g.filters, self.pitch), w.dtype)
        weights[:, : g.taps] = w.transpose(0, 2, 3, 4, 1).reshape(g.filters, -1)
        jobs = Grid((g.batch, 1), (g.input[1], self.band))
        layer = tuple(some[1:] for some in (g.output, g.kernel, g.stride, g.padding, g.dilation))
        size = prod(g.input[1:]) * g.channels

        def start_worker() -> Job:
            columns = aligned(self.scratch_bytes // w.dtype.itemsize, w.dtype)

            def job(i: int) -> None:
                (image, _), rows = jobs[i]
                first, stop = self._rows_that_reach(rows)
                pixels = (stop - first) * g.output[2]
                product = columns[: pixels * self.pitch].reshape(pixels, self.pitch)
                # Read as lanes that nothing is made of.
                columns[product.size : product.size + self.lanes] = 0
                with np.errstate(all="ignore"):  # infinities and NaN travel without a warning
                    np.matmul(
                        gradients[image, first * g.output[2] : stop * g.output[2]], weights, out=product
                    )
                place = image * size + rows[0] * g.input[2] * g.channels
                gather_rows(columns, first, self.pitch, x, place, g.channels, rows, g.input[2], layer)

            return job

        with blas.one_thread():
            run_jobs(len(jobs), start_worker)

    def _rows_that_reach(self, rows: tuple[int, int]) -> tuple[int, int]:
        """The rows of the output with a tap in a band of the input."""
        g = self.geometry
        reach = g.dilation[1] * (g.kernel[1] - 1) + 1
        first = max(0, ceil_div(rows[0] + g.padding[1] - reach + 1, g.stride[1]))
        stop = min(g.output[1], (rows[1] - 1 + g.padding[1]) // g.stride[1] + 1)
        return first, max(first, stop)
