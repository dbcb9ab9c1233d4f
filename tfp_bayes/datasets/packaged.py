"""Data sets that are part of the package and need neither network nor TensorFlow."""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import io
from collections.abc import Iterable
from importlib import resources

import numpy as np

from tfp_bayes.datasets.dataset import SPLITS, Dataset
from tfp_bayes.datasets.resize import resize_all

MNIST_FILES = {
    "train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
}
BLOOD_CELLS_FILES = {
    "cells.png": "8df08792fe7ddae790223aed2f69a25c541b9c9f4aece966694288778891c5c5",
    "cells.csv": "75d35b8ef4d4b28ba1185c8843bbb27b53daf4948696a2b87cb4a620810a240e",
}
# Noise of RepeatedMNIST: 0.1 on standardized pixels, whose standard deviation is 78.6.
REPEATED_NOISE = 7.86
TILE = 32  # side of the crop of a blood cell in pixels


def mnist(image_size: tuple[int, int] | None) -> Dataset:
    """Reads the four files of MNIST."""
    return from_idx(map(_verified, MNIST_FILES), image_size)


def from_idx(
    files: Iterable[bytes],
    image_size: tuple[int, int] | None,
    class_names: tuple[str, ...] = tuple("0123456789"),
) -> Dataset:
    """Reads the four files of MNIST or of a data set in the same format."""
    x_train, y_train, x_test, y_test = (_parse_idx(gzip.decompress(file)) for file in files)
    x_train, x_test = x_train[..., np.newaxis], x_test[..., np.newaxis]
    if image_size is not None:
        x_train, x_test = resize_all(x_train, image_size), resize_all(x_test, image_size)
    labels = y_train.astype("int64"), y_test.astype("int64")
    return Dataset(x_train, labels[0], x_test, labels[1], class_names)


def repeated_mnist(image_size: tuple[int, int] | None) -> Dataset:
    """Repeats each training image of MNIST three times, with Gaussian noise on each copy."""
    data = mnist(image_size)
    rng = np.random.default_rng(0)
    num, *shape = data.x_train.shape
    copies = np.empty([num, 3, *shape], "uint8")
    for i in range(3):
        noise = rng.standard_normal(data.x_train.shape, dtype="float32") * REPEATED_NOISE
        copies[:, i] = np.clip(np.rint(data.x_train + noise), 0, 255)
    return data._replace(x_train=copies.reshape(-1, *shape), y_train=np.repeat(data.y_train, 3))


def blood_cells(image_size: tuple[int, int] | None) -> Dataset:
    """Reads the crops of blood cells, split by smear as published.

    Cells of one photograph share stain and light. If some of them were in training, results on the
    others would be too optimistic.
    """
    import PIL.Image

    mosaic = np.asarray(PIL.Image.open(io.BytesIO(_verified("cells.png"))).convert("RGB"))
    side = mosaic.shape[0] // TILE
    tiles = mosaic.reshape(side, TILE, side, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
    table = list(csv.DictReader(io.StringIO(_verified("cells.csv").decode())))
    labels, smears, splits = (
        np.array([row[column] for row in table]) for column in ("label", "smear", "split")
    )
    class_names, classes = np.unique(labels, return_inverse=True)
    x, y, sources = {}, {}, {}
    for split, name in zip(SPLITS, ("train", "val", "test")):
        rows = np.flatnonzero(splits == name)
        x[split] = tiles[rows] if image_size is None else resize_all(tiles[rows], image_size)
        y[split] = classes[rows].astype("int64")
        sources[split] = smears[rows]
    return Dataset(
        x["train"],
        y["train"],
        x["test"],
        y["test"],
        tuple(class_names.tolist()),
        x["validation"],
        y["validation"],
        sources,
    )


@functools.cache
def _verified(name: str) -> bytes:
    """Reads a packaged file once per process, and checks its SHA-256."""
    folder = "mnist" if name in MNIST_FILES else "blood_cells"
    path = resources.files("tfp_bayes") / "data" / folder / name
    content = path.read_bytes() if path.is_file() else None
    digest = "no file" if content is None else hashlib.sha256(content).hexdigest()
    expected = {**MNIST_FILES, **BLOOD_CELLS_FILES}[name]
    if content is None or digest != expected:
        raise ValueError(
            f"Expected SHA-256 {expected} for the packaged file {path}. "
            f"Received: {digest}. Hint: reinstall tfp_bayes."
        )
    return content


def _parse_idx(raw: bytes) -> np.ndarray:
    """Parses idx: two zero bytes, type (8: uint8), rank, sizes as big-endian int32, values."""
    rank = raw[3]
    shape = tuple(np.frombuffer(raw, ">i4", count=rank, offset=4).tolist())
    values = np.frombuffer(raw, "uint8", offset=4 + 4 * rank)
    if raw[:3] != b"\x00\x00\x08" or values.size != np.prod(shape):
        raise ValueError(
            "Expected an idx file of uint8 (magic number 000008) whose length matches its header. "
            f"Received: magic number {raw[:3].hex()}, shape {shape} and {values.size} values."
        )
    return values.reshape(shape).copy()  # a view of bytes would be read-only


LOADERS = {"mnist": mnist, "repeated_mnist": repeated_mnist, "blood_cells": blood_cells}
