"""Pooling through wide windows: how it is cut into tiles, and what it takes.

The kernels (`fastconv.kernels.pooling_wide`) know windows of one size along each axis, equally far apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from fastconv.arguments import Size
from fastconv.kernels.pooling_wide import ROUTED_CELLS, ROUTED_RUNS

# Cells of a tile's box that stay in a near cache, and that a tile may have before it is cut whatever that
# costs: three such arrays of 12 bytes a cell are 19 MB.
NEAR_CELLS, MOST_CELLS = 2**16, 2**19
# Channels of a tile, if they are last: the fewest where boxes of less space would have much in common.
TILE_CHANNELS, FEWEST_CHANNELS = 64, 8
# A box may have so many times the cells that there are; beyond, windows are mostly padding.
MOST_PADDING = 8


@dataclass(frozen=True)
class WideAxis:
    """Windows along one axis; cell c stands at ``lead + c*spread``, where the first window starts at 0."""

    extent: int
    output: int
    lead: int
    spread: int
    stride: int
    taps: int
    step: int

    @property
    def reach(self) -> int:
        """From a window's first cell to its last, both counted."""
        return (self.taps - 1) * self.step + 1

    def box(self, windows: int) -> int:
        """Cells under so many windows side by side."""
        return (windows - 1) * self.stride + self.reach


@dataclass(frozen=True)
class WideWindows:
    """Windows along depth, height and width of some images; those with the channels first have one each."""

    images: int
    channels: int
    axes: tuple[WideAxis, WideAxis, WideAxis]

    @cached_property
    def tile(self) -> Size:
        """Images, windows along each axis, and channels that are computed at a time."""
        windows = [axis.output for axis in self.axes]
        channels = min(self.channels, TILE_CHANNELS)
        while (cells := self._held(windows) * channels) > NEAR_CELLS:
            # Halves of the axis whose boxes have the least in common, as long as that is little.
            shares = [
                n * axis.stride / axis.reach if n > 1 else 0.0
                for n, axis in zip(windows, self.axes, strict=True)
            ]
            k = max(range(3), key=shares.__getitem__)
            if cells > MOST_CELLS and channels > FEWEST_CHANNELS and shares[k] < 2:
                channels = -(-channels // 2)
                continue
            if windows[k] == 1 or (cells <= MOST_CELLS and shares[k] < 4):
                break
            windows[k] = -(-windows[k] // 2)
        whole = windows == [axis.output for axis in self.axes] and channels == self.channels
        images = min(self.images, max(1, NEAR_CELLS // max(1, cells))) if whole else 1
        return images, *windows, channels

    def _held(self, windows: list[int]) -> int:
        """Cells between the first axis and the second, for a channel; or of a line, if those are more."""
        depth, height, width = self.axes
        line = width.box(windows[2])
        return max(depth.box(windows[0]) * height.box(windows[1]) * windows[2], line)

    @cached_property
    def elements(self) -> int:
        """Of each of the three scratch arrays."""
        images, *windows, channels = self.tile
        return images * self._held(windows) * channels

    @cached_property
    def tiles(self) -> int:
        """How many tiles there are."""
        images, *windows, channels = self.tile
        blocks = [-(-axis.output // n) for n, axis in zip(windows, self.axes, strict=True)]
        return -(-self.images // images) * prod(blocks) * -(-self.channels // channels)

    @cached_property
    def cells(self) -> int:
        """Of all boxes, as many as are visited; 0 where windows are mostly padding."""
        for axis in self.axes:
            if axis.box(axis.output) > MOST_PADDING * (axis.extent * axis.spread + 1):
                return 0
        images, *windows, channels = self.tile
        boxes = [axis.box(n) for n, axis in zip(windows, self.axes, strict=True)]
        return self.tiles * images * prod(boxes) * channels

    @property
    def lines(self) -> int:
        """Of all boxes."""
        _, *windows, channels = self.tile
        return self.cells // (self.axes[2].box(windows[2]) * channels)

    @property
    def sizes(self) -> tuple[object, ...]:
        """What the kernels take."""
        axes = self.axes
        return (
            self.channels,
            tuple(axis.extent for axis in axes),
            tuple(axis.output for axis in axes),
            self.tile,
            tuple(axis.lead for axis in axes),
            tuple(axis.spread for axis in axes),
            tuple(axis.stride for axis in axes),
            tuple(axis.taps for axis in axes),
            tuple(axis.step for axis in axes),
        )


@dataclass(frozen=True)
class WideTies:
    """The gradient of the maxima of wide windows to all that are equal, in tiles of the cells it goes to."""

    windows: WideWindows

    @cached_property
    def tile(self) -> Size:
        """Cells along each axis, and channels, that are computed at a time."""
        axes = self.windows.axes
        cells, channels = [axis.extent for axis in axes], min(self.windows.channels, TILE_CHANNELS)
        while (held := prod(self._box(cells)) * channels) > NEAR_CELLS:
            shares = [n / axis.reach if n > 1 else 0.0 for n, axis in zip(cells, axes, strict=True)]
            k = max(range(3), key=shares.__getitem__)
            if held > MOST_CELLS and channels > FEWEST_CHANNELS and shares[k] < 4:
                channels = -(-channels // 2)
                continue
            if cells[k] == 1 or (held <= MOST_CELLS and shares[k] < 4):
                break
            cells[k] = -(-cells[k] // 2)
        return *cells, channels

    def _over(self, cells: list[int]) -> list[int]:
        """The most windows along each axis over so many cells."""
        return [
            min(axis.output, (n + axis.reach - 2) // axis.stride + 1)
            for n, axis in zip(cells, self.windows.axes, strict=True)
        ]

    def _box(self, cells: list[int]) -> list[int]:
        """The most cells along each axis under those windows."""
        return [axis.box(n) for n, axis in zip(self._over(cells), self.windows.axes, strict=True)]

    @cached_property
    def elements(self) -> Size:
        """Of scratch for values and for gradients.

        First come the cells of a box, and the maxima of windows along its width, its height too, its depth
        too. For values, two of the largest of these follow, and one run of every size for each cell that is
        looked at; for gradients, two numbers for each of those cells.
        """
        *cells, channels = self.tile
        (depth, height, width), (box_d, box_h, box_w) = self._over(cells), self._box(cells)
        sizes = [
            channels * n
            for n in (
                box_d * box_h * box_w,
                box_d * box_h * width,
                box_d * height * width,
                depth * height * width,
            )
        ]
        looked_at = max(
            max(extent * min(beside, ROUTED_CELLS), ROUTED_RUNS)
            for extent, beside in (
                (box_d, height * width * channels),
                (box_h, width * channels),
                (box_w, channels),
            )
        )
        levels = max(axis.taps.bit_length() for axis in self.windows.axes)
        return sum(sizes) + 2 * max(sizes) + levels * looked_at, sum(sizes) + 2 * looked_at

    @cached_property
    def tiles(self) -> int:
        """How many tiles there are."""
        *cells, channels = self.tile
        blocks = [-(-axis.extent // n) for n, axis in zip(cells, self.windows.axes, strict=True)]
        return self.windows.images * prod(blocks) * -(-self.windows.channels // channels)

    @cached_property
    def cells(self) -> int:
        """Of all boxes; 0 where windows are mostly padding."""
        *cells, channels = self.tile
        return self.tiles * prod(self._box(cells)) * channels if self.windows.cells else 0

    @property
    def sizes(self) -> tuple[object, ...]:
        """What the kernel takes."""
        channels, extent, output, _, lead, _, strides, taps, steps = self.windows.sizes
        return channels, extent, output, self.tile, lead, strides, taps, steps
