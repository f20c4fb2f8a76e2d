"""A network's layers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastconv.arguments import Size


class Row(NamedTuple):
    """What the table says of a layer."""

    place: str  # in the network
    layer: str
    output_size: Size
    parameters: int
    products: int  # multiply-adds with them


def table(rows: Sequence[Row]) -> str:
    """Columns under names, and what the numbers sum to."""
    lines = [["layer", "output", "parameters", "multiply-adds"]]
    for row in rows:
        layer = f"{row.place}  {' '.join(row.layer.split())}".lstrip()
        lines.append([layer, str(row.output_size), f"{row.parameters:,}", f"{row.products:,}"])
    totals = sum(row.parameters for row in rows), sum(row.products for row in rows)
    lines.append(["total", "", *(f"{total:,}" for total in totals)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        [text.ljust(width) if i < 2 else text.rjust(width) for i, (text, width) in enumerate(cells)]
        for cells in (zip(line, widths, strict=True) for line in lines)
    ]
    return "\n".join("  ".join(line) for line in aligned)
