"""Count the examples in a training set, which determines the weight of the prior."""

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.batches import count_rows, repetitions
from tfp_bayes._plumbing.checks import check_integers

_LOADED = 4  # batches of a PyDataset that are loaded to compare their sizes


def resolve_num_train(
    given: int | None, stated: int | None, x, validation_split: float = 0.0
) -> int | None:
    """Return the number of training examples: as given to `fit`, as stated elsewhere, or counted.

    Args:
        given: Argument `num_train` of `fit`, or None.
        stated: Number that a `KLWeight` callback states, or None.
        x: See `count_examples`.
        validation_split: See `count_examples`.

    Raises:
        ValueError: If a number is not a positive integer, or the two differ.
    """
    if given is None:
        return stated or count_examples(x, validation_split)
    check_integers(1, num_train=given)
    if stated not in (None, given):
        raise ValueError(
            "Expected one number of training examples. Received: num_train="
            f"{given} in `fit`, and KLWeight(num_train={stated}) among the callbacks. "
            "Hint: leave out one of them."
        )
    return given


def count_examples(x, validation_split: float = 0.0) -> int | None:
    """Count the training examples in the argument `x` of `fit`.

    Args:
        x: Arrays, a `tf.data.Dataset` (which is iterated once; examples repeated by `repeat` count
            once) or a `keras.utils.PyDataset` (of which four batches are loaded).
        validation_split: Fraction of the arrays that `fit` holds out.

    Returns:
        The number of examples, or None if it cannot be determined: for a Python generator, an
        endless dataset, a dataset of unknown length, one that repeats only some examples, or a
        PyDataset whose batches (but the last) differ in size.
    """
    if isinstance(x, keras.utils.PyDataset):
        if x.num_batches is None:
            return None
        places = np.linspace(0, x.num_batches - 1, _LOADED).astype(int)
        *sizes, last = (int(_batch_rows(x[i])) for i in np.unique(places).tolist())
        if len(set(sizes)) > 1:
            return None
        return (x.num_batches - 1) * sum(sizes[:1]) + last
    if isinstance(x, tf.data.Dataset):
        if x.cardinality() < 0:  # tf.data.INFINITE_CARDINALITY or UNKNOWN_CARDINALITY
            return None
        repeated = repetitions(x)
        if repeated is None:
            return None
        return int(x.reduce(0, lambda total, *batch: total + _batch_rows(batch))) // repeated
    if all(hasattr(a, "__len__") for a in keras.tree.flatten(x)):
        # Keras rounds the split in the same way.
        return int(count_rows(x) * (1 - validation_split))
    return None


def _batch_rows(batch) -> tf.Tensor:
    return tf.shape(keras.tree.flatten(batch)[0])[0]
