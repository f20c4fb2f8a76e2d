"""Files that a command writes at its end, looked at before it begins."""

from __future__ import annotations

import os
from pathlib import Path


class OutputError(Exception):
    """A file that can't be written; the message is one line."""


def check_file(path: Path | None) -> None:
    """Refuse a path that no file can be written to; None is no file.

    Raises
    ------
    OutputError
        Saying what is in the way.
    """
    if path is None:
        return
    if path.is_dir():
        raise OutputError(f"{path}: is a folder")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OutputError(f"{path}: may not be written")


def check_picture(path: Path | None) -> None:
    """Refuse a path that no picture can be written to; None is no picture.

    Raises
    ------
    OutputError
        Saying what is in the way; where it is the ending, which there are.
    """
    if path is None:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise OutputError(f"{path}: must end in one of .{', .'.join(sorted(known))}")
    check_file(path)
