"""Batches of model inputs from whatever Keras users hold: arrays, tf.data, PyDataset."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_finite_rows


def batches(x, batch_size: int) -> Iterator:
    """Yields batches of inputs; targets and sample weights beside them are left out.

    Args:
        x: Array (N, ...), structure of arrays, data frame, `tf.data.Dataset` or
            `keras.utils.PyDataset`. The last two bring their own batches.
        batch_size: Rows of a batch of arrays.

    Raises:
        ValueError: If the arrays differ in length, `batch_size` is below 1, or the source is none
            of these or has no end.
    """
    return (keras.tree.map_structure(_as_array, batch) for batch in _batches(x, batch_size))


def labelled_batches(x, y, sample_weight, batch_size: int) -> Iterator[tuple]:
    """Yields batches of inputs, targets and sample weights; None stands for what is not there.

    Args:
        x: As for `batches`; a dataset brings its own targets and weights, if it has any.
        y: Array (N, ...) of targets beside arrays, or None.
        sample_weight: Array (N,) beside arrays, or None.
        batch_size: Rows of a batch of arrays.

    Raises:
        ValueError: As `batches`, or if there are targets beside a dataset.
    """
    if isinstance(x, tf.data.Dataset | keras.utils.PyDataset):
        if y is not None or sample_weight is not None:
            raise ValueError(
                "Expected a dataset that yields its own targets and weights. Received: "
                f"a {type(x).__name__} as `x`, with y or sample_weight beside. "
                "Hint: a dataset of (x, y) or (x, y, sample_weight)."
            )
        check_has_end(x)
        source = x if isinstance(x, tf.data.Dataset) else (x[i] for i in range(x.num_batches))
        yield from map(keras.utils.unpack_x_y_sample_weight, source)
        return
    given = {"x": x, "y": y, "sample_weight": sample_weight}
    parts = {name: part for name, part in given.items() if part is not None}
    for batch in batches(parts, batch_size):
        yield tuple(batch.get(name) for name in given)


def unweighted_batches(x, y, batch_size: int) -> Iterator[tuple]:
    """Yields batches as `labelled_batches` does, inputs and targets, of examples that count alike.

    Raises:
        ValueError: As `labelled_batches`, or if a dataset has sample weights.
    """
    for inputs, targets, sample_weight in labelled_batches(x, y, None, batch_size):
        if sample_weight is not None:
            raise ValueError(
                "Expected examples of equal weight. Received: a dataset with sample weights. "
                "Hint: dataset.map(lambda x, y, weight: (x, y))."
            )
        yield inputs, targets


def unpack_validation_data(validation_data: Any) -> tuple[Any, Any]:
    """Returns x and y of a pair, or a dataset and None.

    Raises:
        ValueError: If there are more or fewer than two values.
    """
    if not isinstance(validation_data, tuple | list):
        return validation_data, None
    if len(validation_data) != 2:
        raise ValueError(
            "Expected (x, y) or a dataset for `validation_data`. Received: "
            f"{len(validation_data)} values. Hint: validation_data=(x_val, y_val)."
        )
    x, y = validation_data
    return x, y


def without_tuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset whose pipeline TensorFlow does not tune while it runs.

    The tuner's thread may keep `fit` waiting at its end for as long as it ran.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def check_finite_arrays(x: Any) -> None:
    """Raises ValueError with the examples of arrays, in any structure, that are not finite."""
    for array in keras.tree.flatten(x):
        if isinstance(array, np.ndarray):
            check_finite_rows(array, np.arange(len(array)))


def has_end(x) -> bool:
    """Tells whether data can be read to an end, as far as their type says."""
    if isinstance(x, tf.data.Dataset):
        return bool(x.cardinality() != tf.data.INFINITE_CARDINALITY)
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches is not None
    return not isinstance(x, Iterator)


def check_has_end(x) -> None:
    """Raises ValueError unless `has_end`."""
    if not has_end(x):
        raise ValueError(
            f"Expected data with an end. Received: an endless {type(x).__name__}. "
            "Hint: dataset.take(steps), or arrays."
        )


def count_rows(x) -> int:
    """Returns the common length of the arrays in a structure.

    Raises:
        ValueError: If they differ or one has no rows to speak of.
    """
    if isinstance(x, Iterator):
        raise ValueError(
            "Expected arrays, a tf.data.Dataset or a keras.utils.PyDataset for `x`. "
            f"Received: a {type(x).__name__}, which does not tell where it ends and can be read "
            "once. Hint: tf.data.Dataset.from_generator(...).take(steps)."
        )
    flat = keras.tree.flatten(x)
    lengths = {a.shape[0] if len(getattr(a, "shape", ())) else None for a in flat}
    length = lengths.pop() if len(lengths) == 1 else None
    if length is None:
        described = [str(getattr(a, "shape", type(a).__name__)) for a in flat]
        received = ", ".join(described[:5]) + (", ..." if len(described) > 5 else "")
        raise ValueError(
            f"Expected arrays of the same length for `x`. Received: {received or 'none'}. Hint: "
            "the first axis of each is the batch; np.asarray(x) makes an array of nested lists."
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
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(
            "Expected a positive integer for `batch_size`. "
            f"Received: batch_size={batch_size!r}. Hint: leave it out for the default."
        )
    # `or 1`: no rows still make one batch, whose answer has the right shapes.
    starts = range(0, num_examples or 1, int(batch_size))
    return (keras.tree.map_structure(lambda a, s=s: a[s : s + batch_size], x) for s in starts)


def _inputs(batch):
    return keras.utils.unpack_x_y_sample_weight(batch)[0]


def _check_dense(array) -> None:
    if isinstance(array, tf.RaggedTensor | tf.SparseTensor):
        hint = "dataset.map(lambda x: x.to_tensor()) or tf.sparse.to_dense"
        _refuse(f"a {type(array).__name__}", hint)
    if scipy.sparse.issparse(array):
        _refuse(f"a sparse {type(array).__name__}", "x.toarray()")
    if np.ma.is_masked(array):
        _refuse("an array with masked entries", "x.filled(value)")


def _as_array(array):
    """Returns an array that has a shape, and a dtype that TensorFlow knows."""
    _check_dense(array)
    if not tf.is_tensor(array):
        array = np.asarray(array)
        if array.dtype.kind == "O" and not all(isinstance(v, str | bytes) for v in array.flat):
            _refuse("objects", "np.asarray(x, dtype='float32')")
        if array.dtype.kind in "OUS":
            return tf.constant(array, tf.string)
        if array.dtype.kind == "c":  # Keras would drop the imaginary part
            _refuse("complex numbers", "np.abs(x), or real and imaginary parts side by side")
    return array


def _refuse(received: str, hint: str) -> None:
    raise ValueError(f"Expected dense numbers or text for `x`. Received: {received}. Hint: {hint}.")
