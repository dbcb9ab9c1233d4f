"""Inputs that are loaded by index, from memory, files or a stream.

A learner's `x` is any object that has a length and returns rows for an array of indices: an array,
an `np.memmap`, an HDF5 data set, or one of the classes here. Only the requested rows are held in
memory.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_finite_rows

_COMPARED = 64  # leading elements of a tf.data.Dataset that must be equal in two passes
_COMPARED_BATCHES = 4  # evenly spaced batches of a PyDataset that must be equal when read again
AT_ONCE = 4096  # maximum number of rows in memory while a pool is scored


class Rows(Protocol):
    """N inputs that can be read by index."""

    def __len__(self) -> int:
        """Return the number of inputs N."""

    def __getitem__(self, indices: np.ndarray, /) -> np.ndarray:
        """Return rows (n, ...) for int64 indices (n,)."""


class LoadedRows:
    """Inputs that a function loads, such as images from files.

    Args:
        load: Function from int64 indices (n,) to an array (n, ...).
        size: Number of inputs N.

    Example:

    >>> rows = LoadedRows(lambda indices: np.stack([np.full([2], i) for i in indices]), 1000)
    >>> len(rows), rows[np.array([7, 3])].tolist()
    (1000, [[7, 7], [3, 3]])
    """

    def __init__(self, load: Callable[[np.ndarray], np.ndarray], size: int):
        self.load = load
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self.load(np.asarray(indices, "int64")))


class DatasetRows:
    """Inputs of a finite, unbatched `tf.data.Dataset` that has the same order in each pass.

    Each request is a complete pass over the data set, so this suits scoring a pool but is slow for
    single rows.

    The constructor compares the first 64 inputs of two passes. A data set whose order or values
    differ only after them is not recognized, and its labels would belong to the wrong inputs.

    Args:
        dataset: Dataset of inputs, or of pairs (input, label), whose labels are ignored.

    Raises:
        ValueError: If the number of examples is unknown, or one of the first 64 inputs differs
            between two passes.
    """

    def __init__(self, dataset: tf.data.Dataset):
        size = int(dataset.cardinality())
        if size < 0:
            raise ValueError(
                "Expected a finite tf.data.Dataset of known length for `x`. "
                f"Received: cardinality {size}. Hint: avoid repeat() and filter(), or use "
                "dataset.apply(tf.data.experimental.assert_cardinality(N))."
            )
        self.size = size
        self.dataset = dataset.map(_inputs)
        first, again = (list(self.dataset.take(_COMPARED).as_numpy_iterator()) for _ in range(2))
        _check_same_order(first, again)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices, "int64")
        wanted = np.zeros(self.size, bool)
        wanted[indices] = True
        chosen = tf.constant(wanted)
        kept = self.dataset.enumerate().filter(lambda i, x: chosen[i])
        found = {int(i): x for i, x in kept.as_numpy_iterator()}
        return np.stack([found[i] for i in indices.tolist()])


class PyDatasetRows:
    """Inputs of a `keras.utils.PyDataset`; a request loads the batches that contain its rows.

    The constructor reads four evenly spaced batches twice and compares them. It does not recognize
    other batches that change.

    Args:
        dataset: Dataset of tuples (inputs, ...) with the same batches in each pass. All batches but
            the last have the same size.

    Raises:
        ValueError: If the number of batches is unknown, or one of the four batches differs when it
            is read again. Reading rows raises it if a batch has another size.
    """

    def __init__(self, dataset: keras.utils.PyDataset):
        if dataset.num_batches is None:
            raise ValueError(
                "Expected a keras.utils.PyDataset with a number of batches for `x`. Received: "
                "num_batches=None. Hint: return it from __len__."
            )
        self.dataset = dataset
        places = np.linspace(0, dataset.num_batches - 1, _COMPARED_BATCHES).round().astype(int)
        batches = {i: _first(dataset[i]) for i in places.tolist()}  # with few batches, each once
        _check_same_order(batches.values(), (_first(dataset[i]) for i in batches))
        self.batch_size = len(batches[0])
        last = dataset.num_batches - 1
        self.size = self.batch_size * last + len(batches[last])

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        batches, places = np.divmod(np.asarray(indices, "int64"), self.batch_size)
        rows: list = [None] * len(batches)
        for batch in np.unique(batches):
            inputs = self._load(int(batch))
            for position in np.flatnonzero(batches == batch):
                rows[position] = inputs[places[position]]
        return np.stack(rows)

    def _load(self, batch: int) -> np.ndarray:
        inputs = _first(self.dataset[batch])
        size = min(self.batch_size, self.size - batch * self.batch_size)
        if len(inputs) != size:
            raise ValueError(
                "Expected batches of the same size, except for the last, from the PyDataset `x`. "
                f"Received: {len(inputs)} rows in batch {batch} instead of {size}. "
                "Hint: otherwise an index does not name one example; pass LoadedRows(load, N)."
            )
        return inputs


def as_rows(x) -> Rows:
    """Wrap a user's `x`, if necessary, so that it returns rows by position."""
    if isinstance(x, tf.data.Dataset):
        return DatasetRows(x)
    if isinstance(x, keras.utils.PyDataset):
        return PyDatasetRows(x)
    if isinstance(x, (list, tuple)) or hasattr(x, "iloc"):  # pandas looks up labels, not positions
        x = np.asarray(x)
    if not hasattr(x, "__len__") or not hasattr(x, "__getitem__") or isinstance(x, (dict, str)):
        raise ValueError(
            "Expected inputs that have a length and return rows by index for `x`. Received: "
            f"x of type {type(x).__name__}. Hint: pass an array, or LoadedRows(load, N)."
        )
    return x


def load_finite(x: Rows, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the inputs (n, ...) of examples (n,).

    Raises:
        ValueError: If an input is not finite; the message names the examples.
    """
    indices = np.asarray(indices, "int64")
    return check_finite_rows(np.asarray(x[indices]), indices)


def check_finite(x: Rows, ignore: np.ndarray) -> None:
    """Check inputs that are in memory now. Others are checked when they are read."""
    if not isinstance(x, np.ndarray) or isinstance(x, np.memmap) or x.dtype.kind != "f":
        return
    indices = np.setdiff1d(np.arange(len(x)), ignore)
    for start in range(0, len(indices), AT_ONCE):
        load_finite(x, indices[start : start + AT_ONCE])


def _check_same_order(first: Iterable[np.ndarray], again: Iterable[np.ndarray]) -> None:
    """Raise ValueError unless two passes returned equal elements, so an index names one example."""
    if not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(first, again)):
        raise ValueError(
            "Expected the same examples in the same order in each pass over `x`. Received: two "
            "passes that differ, so labels would be stored for the wrong examples. "
            "Hint: use shuffle(..., reshuffle_each_iteration=False), and put random augmentation "
            "into the model or its training."
        )


def _inputs(*element):
    return keras.utils.unpack_x_y_sample_weight(element if len(element) > 1 else element[0])[0]


def _first(batch) -> np.ndarray:
    return np.asarray(keras.utils.unpack_x_y_sample_weight(batch)[0])
