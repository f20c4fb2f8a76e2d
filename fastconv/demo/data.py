"""Images for the demo: scikit-learn's digits, or MNIST's IDX files from a folder."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
from scipy.ndimage import zoom

from fastconv.arguments import Array

EDGE = 28
CLASSES = 10
# The IDX format, http://yann.lecun.com/exdb/mnist/: two zero bytes, the type (8: unsigned bytes), the
# number of dimensions; then each dimension as a big-endian 32-bit number; then the bytes.
_UNSIGNED_BYTES = 8


class DemoError(Exception):
    """Something about a file or an option that the user can put right; the message is one line."""


@dataclass(frozen=True)
class Images:
    """Images to train on and to test with: float32 in [0, 1], (N, 1, 28, 28), and their classes, int64."""

    name: str
    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array


def load(folder: str | None) -> Images:
    """MNIST from ``folder``; without one, the digits that come with scikit-learn.

    Raises
    ------
    DemoError
        Where a file of the folder is missing or damaged; the message names it.
    """
    return digits() if folder is None else mnist(Path(folder))


def digits() -> Images:
    """scikit-learn's 1797 digits, 8x8, scaled to 28x28; the same fifth of each class for testing.

    Examples
    --------
    >>> from fastconv.demo.data import digits
    >>> data = digits()
    >>> data.train_images.shape, data.test_images.shape
    ((1437, 1, 28, 28), (360, 1, 28, 28))
    """
    # Here, so that training steps on other images (the bench) need no scikit-learn.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    small, labels = load_digits(return_X_y=True)
    small = small.reshape(-1, 8, 8).astype(np.float32) / 16
    large = np.clip(zoom(small, (1, EDGE / 8, EDGE / 8), order=1), 0, 1)[:, None]
    split = train_test_split(large, labels.astype(np.int64), test_size=0.2, random_state=0, stratify=labels)
    train_images, test_images, train_labels, test_labels = map(np.ascontiguousarray, split)
    return Images(
        "scikit-learn's digits, scaled to 28x28", train_images, train_labels, test_images, test_labels
    )


def mnist(folder: Path) -> Images:
    """MNIST (or Fashion-MNIST, ...) from four IDX files, plain or gzipped, with dashes or dots in the names.

    Raises
    ------
    DemoError
        Where a file is missing or damaged; the message names it.
    """
    if not folder.is_dir():
        raise DemoError(f"{folder}: not a folder")
    train_images, train_labels = _pair(folder, "train")
    test_images, test_labels = _pair(folder, "t10k")
    return Images(f"the IDX files of {folder}", train_images, train_labels, test_images, test_labels)


def _pair(folder: Path, part: str) -> tuple[Array, Array]:
    image_file, label_file = _find(folder, f"{part}-images", 3), _find(folder, f"{part}-labels", 1)
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if images.shape[1:] != (EDGE, EDGE):
        raise DemoError(
            f"{image_file}: images must be {EDGE}x{EDGE}, got {images.shape[1]}x{images.shape[2]}"
        )
    if len(labels) != len(images):
        raise DemoError(f"{label_file}: {len(labels)} labels for {len(images)} images")
    if labels.max() >= CLASSES:
        raise DemoError(f"{label_file}: labels must be below {CLASSES}, got {labels.max()}")
    return (images[:, None] / np.float32(255)), labels.astype(np.int64)


def _find(folder: Path, stem: str, ndim: int) -> Path:
    names = [f"{stem}{mark}idx{ndim}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DemoError(f"{folder / names[0]}: no such file (nor {', '.join(names[1:])})")


def read_idx(path: Path, ndim: int) -> Array:
    """The array of unsigned bytes in an IDX file, checked against its header.

    Parameters
    ----------
    path : Path
        The file; one that ends in ``.gz`` is decompressed.
    ndim : int
        How many dimensions it must have.

    Raises
    ------
    DemoError
        Where the file can't be read, is something else, is empty, or is shorter or longer than it says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _parse_idx(path, file, ndim)
    except (OSError, EOFError, zlib.error) as error:
        raise DemoError(f"{path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _parse_idx(path: Path, file: IO[bytes] | gzip.GzipFile, ndim: int) -> Array:
    magic = file.read(4)
    if magic != bytes((0, 0, _UNSIGNED_BYTES, ndim)):
        expected = f"0000{_UNSIGNED_BYTES:02x}{ndim:02x}"
        raise DemoError(f"{path}: must begin with the bytes {expected}, got {magic.hex() or 'an empty file'}")
    header = file.read(4 * ndim)
    if len(header) != 4 * ndim:
        raise DemoError(f"{path}: ends inside its header")
    shape = tuple(int(extent) for extent in np.frombuffer(header, ">u4"))
    if not prod(shape):
        raise DemoError(f"{path}: holds no data, its header says {shape}")
    # A read in pieces: a header that promises too much must not allocate what it promises.
    content = bytearray()
    while len(content) <= prod(shape) and (piece := file.read(1 << 20)):
        content += piece
    if len(content) != prod(shape):
        came = f"{len(content)}" if len(content) < prod(shape) else "more"
        raise DemoError(f"{path}: must hold {prod(shape)} bytes after its header, got {came}")
    return np.frombuffer(content, np.uint8).reshape(shape)
