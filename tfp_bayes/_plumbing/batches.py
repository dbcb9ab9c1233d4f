"""Batches of model inputs from all data types of Keras: arrays, tf.data, PyDataset."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_finite_rows, check_integers


def batches(x, batch_size: int) -> Iterator:
    """Return an iterator over batches of inputs, without targets and sample weights.

    Args:
        x: Array (N, ...), structure of arrays, data frame, `tf.data.Dataset` or
            `keras.utils.PyDataset`. The last two are already batched.
        batch_size: Number of rows per batch. Ignored for a dataset.

    Raises:
        ValueError: If the arrays differ in length, `batch_size` is below 1, `x` has another type,
            or a dataset is infinite.
    """
    return (keras.tree.map_structure(_as_array, batch) for batch in _batches(x, batch_size))


def labelled_batches(x, y, sample_weight, batch_size: int) -> Iterator[tuple]:
    """Yield tuples of inputs, targets and sample weights, one per batch.

    Targets or weights that do not exist are None.

    Args:
        x: Inputs, see `batches`. A dataset yields its targets and weights too, if it has any.
        y: Array (N, ...) of targets for the arrays `x`, or None.
        sample_weight: Array (N,) of weights for the arrays `x`, or None.
        batch_size: Number of rows per batch. Ignored for a dataset.

    Raises:
        ValueError: See `batches`. Also if `y` or `sample_weight` is given with a dataset.
    """
    if isinstance(x, tf.data.Dataset | keras.utils.PyDataset):
        check_alone(x, y, sample_weight)
        check_has_end(x)
        source = x if isinstance(x, tf.data.Dataset) else (x[i] for i in range(x.num_batches))
        yield from map(keras.utils.unpack_x_y_sample_weight, source)
        return
    given = {"x": x, "y": y, "sample_weight": sample_weight}
    parts = {name: part for name, part in given.items() if part is not None}
    for batch in batches(parts, batch_size):
        yield tuple(batch.get(name) for name in given)


def check_alone(dataset, y, sample_weight) -> None:
    """Raise ValueError if targets or weights are given in addition to a dataset."""
    if y is not None or sample_weight is not None:
        raise ValueError(
            "Expected a dataset that yields its own targets and weights. Received: "
            f"a {type(dataset).__name__} as `x`, and y or sample_weight as well. "
            "Hint: make a dataset of (x, y) or (x, y, sample_weight)."
        )


def unweighted_batches(x, y, batch_size: int) -> Iterator[tuple]:
    """Yield pairs of inputs and targets, one per batch, of data without sample weights.

    Raises:
        ValueError: See `labelled_batches`. Also if a dataset has sample weights.
    """
    for inputs, targets, sample_weight in labelled_batches(x, y, None, batch_size):
        if sample_weight is not None:
            raise ValueError(
                "Expected examples of equal weight. Received: a dataset with sample weights. "
                "Hint: drop them with dataset.map(lambda x, y, weight: (x, y))."
            )
        yield inputs, targets


def unpack_validation_data(validation_data: Any) -> tuple[Any, Any]:
    """Return the pair (x, y). For a dataset, return the dataset and None.

    Raises:
        ValueError: If a tuple or list does not have exactly two values.
    """
    if not isinstance(validation_data, tuple | list):
        return validation_data, None
    if len(validation_data) != 2:
        raise ValueError(
            "Expected (x, y) or a dataset for `validation_data`. Received: "
            f"{len(validation_data)} values. Hint: pass validation_data=(x_val, y_val)."
        )
    x, y = validation_data
    return x, y


def without_tuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset with TensorFlow's autotuning of the pipeline switched off.

    Otherwise, `fit` may wait at its end for the tuning thread for as long as training took.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def check_finite_arrays(x: Any) -> None:
    """Raise ValueError, listing the examples, if an array in the structure is not finite.

    Args:
        x: Arrays, data frames or tensors (N, ...), or a structure of them. Other data, such as a
            dataset, are not read.
    """
    for each in keras.tree.flatten(x):
        if hasattr(each, "__array__") and np.ndim(each):
            check_finite_rows(np.asarray(each), np.arange(len(each)))


def has_end(x) -> bool:
    """Return whether the data are finite, as far as their type tells."""
    if isinstance(x, tf.data.Dataset):
        return bool(x.cardinality() != tf.data.INFINITE_CARDINALITY)
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches is not None
    return not isinstance(x, Iterator)


def check_has_end(x) -> None:
    """Raise ValueError if the data are infinite."""
    if not has_end(x):
        raise ValueError(
            f"Expected finite data. Received: an infinite {type(x).__name__}. "
            "Hint: pass dataset.take(steps), or arrays."
        )


def check_reads_once(x) -> None:
    """Raise ValueError if a dataset repeats its examples, which would count as new observations."""
    count = repetitions(x) if isinstance(x, tf.data.Dataset) else None
    if count is not None and count > 1:
        raise ValueError(
            "Expected a dataset that yields each example once, because the posterior counts "
            f"examples. Received: a dataset that repeats them {count} times. "
            "Hint: leave out `repeat`; `epochs` sets how often training reads the data."
        )


def repetitions(dataset: tf.data.Dataset) -> int | None:
    """Return how often a finite dataset yields each example, or None if the numbers differ."""
    below = {repetitions(each) for each in dataset._inputs()} or {1}
    count = below.pop()
    if below or count is None:
        return None
    kind = type(dataset).__name__.strip("_")
    if kind == "RepeatDataset":
        own = int(dataset._count)
        return count * own if own > 0 else None
    partial = kind in ("TakeDataset", "SkipDataset", "ShardDataset") and count > 1
    return None if partial else count


def count_rows(x) -> int:
    """Return the common length of the arrays in a structure.

    Raises:
        ValueError: If the lengths differ, or an array has no first axis.
    """
    if isinstance(x, Iterator):
        raise ValueError(
            "Expected arrays, a tf.data.Dataset or a keras.utils.PyDataset for `x`. "
            f"Received: a {type(x).__name__}, whose length is unknown and which can be read only "
            "once. Hint: pass tf.data.Dataset.from_generator(...).take(steps)."
        )
    flat = keras.tree.flatten(x)
    lengths = {a.shape[0] if len(getattr(a, "shape", ())) else None for a in flat}
    length = lengths.pop() if len(lengths) == 1 else None
    if length is None:
        described = [str(getattr(a, "shape", type(a).__name__)) for a in flat]
        received = ", ".join(described[:5]) + (", ..." if len(described) > 5 else "")
        raise ValueError(
            f"Expected arrays of the same length for `x`. Received: {received or 'none'}. Hint: "
            "the first axis of each is the batch; np.asarray(x) turns nested lists into an array."
        )
    return int(length)


def _batches(x, batch_size: int) -> Iterator:
    if isinstance(x, tf.data.Dataset):
        check_has_end(x)
        return (_inputs(batch) for batch in x)
    if isinstance(x, keras.utils.PyDataset):
        check_has_end(x)
        return (_inputs(x[i]) for i in range(x.num_batches))
    keras.tree.map_structure(_check_dense, x)
    num_examples = count_rows(x)
    check_integers(1, batch_size=batch_size)
    # `or 1`: without rows there is still one batch, so that predictions have the right shapes.
    starts = range(0, num_examples or 1, int(batch_size))
    return (keras.tree.map_structure(lambda a, s=s: a[s : s + batch_size], x) for s in starts)


def _inputs(batch):
    return keras.utils.unpack_x_y_sample_weight(batch)[0]


def _check_dense(array) -> None:
    if isinstance(array, tf.RaggedTensor | tf.SparseTensor):
        hint = "use dataset.map(lambda x: x.to_tensor()) or tf.sparse.to_dense"
        _refuse(f"a {type(array).__name__}", hint)
    if scipy.sparse.issparse(array):
        _refuse(f"a sparse {type(array).__name__}", "pass x.toarray()")
    if np.ma.is_masked(array):
        _refuse("an array with masked entries", "pass x.filled(value)")


def _as_array(array):
    """Return an array with a shape and a dtype that TensorFlow supports."""
    _check_dense(array)
    if not tf.is_tensor(array):
        array = np.asarray(array)
        if array.dtype.kind == "O" and not all(isinstance(v, str | bytes) for v in array.flat):
            _refuse("objects", "pass np.asarray(x, dtype='float32')")
        if array.dtype.kind in "OUS":
            return tf.constant(array, tf.string)
        if array.dtype.kind == "c":  # Keras would drop the imaginary part
            _refuse("complex numbers", "pass np.abs(x), or stack the real and imaginary parts")
    return array


def _refuse(received: str, hint: str) -> None:
    raise ValueError(f"Expected dense numbers or text for `x`. Received: {received}. Hint: {hint}.")
