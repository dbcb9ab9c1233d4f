"""Detection of NaN and infinity, which layers such as max pooling would turn into numbers."""

import functools
from collections.abc import Iterable

import keras
import tensorflow as tf


def finite_rows(inputs) -> tf.Tensor:
    """Return booleans (N,): whether all inputs of a row are finite."""
    flat = keras.tree.flatten(inputs)
    rows = tf.fill(tf.shape(flat[0])[:1], True)
    for x in flat:
        if x.dtype.is_floating:
            axes = list(range(1, x.shape.rank))
            rows = tf.logical_and(rows, tf.reduce_all(tf.math.is_finite(x), axis=axes))
    return rows


def nan_unless(rows: tf.Tensor, value: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """Replace rows of a tensor by NaN.

    Args:
        rows: Booleans (N,). Rows where this is False become NaN.
        value: Tensor of size N on `axis`.
        axis: Axis of the rows.
    """
    shape = [1] * value.shape.rank
    shape[axis] = -1
    return tf.where(tf.reshape(rows, shape), value, tf.constant(float("nan"), value.dtype))


class FiniteWeights:
    """Check that weights are finite, in one pass over them.

    Args:
        weights: Weights to check. Non-trainable ones may be infinite, such as an attention mask.
            Scalars are not checked, because they may be NaN while unknown, such as `kl_weight`.
    """

    def __init__(self, weights: Iterable[keras.Variable]):
        self._weights = [
            v for v in weights if keras.backend.is_float_dtype(v.dtype) and len(v.shape)
        ]
        # For a method, TensorFlow would count the traces of all instances together, and warn.
        flags = functools.partial(_flags, self._weights)
        self._is_bad = tf.function(flags, autograph=False)

    def check(self) -> None:
        """Raise ValueError, with the names of the weights, if some are not finite."""
        if not self._weights:
            return
        bad = [v.path for v, is_bad in zip(self._weights, self._is_bad().numpy()) if is_bad]
        if bad:
            raise ValueError(
                f"Expected finite weights. Received: NaN or infinity in {', '.join(bad)}. "
                "Hint: training diverged; lower the learning rate, or look for NaN in the data."
            )

    def all_finite(self) -> tf.Tensor:
        """Build the graph of a boolean: whether all weights are finite. Use it inside graphs."""
        return ~tf.reduce_any(_flags(self._weights)) if self._weights else tf.constant(True)


def _flags(weights: Iterable[keras.Variable]) -> tf.Tensor:
    """Return one boolean per weight: whether it has a forbidden value."""
    flags = []
    for variable in weights:
        value = tf.convert_to_tensor(variable)
        is_bad = ~tf.math.is_finite(value) if variable.trainable else tf.math.is_nan(value)
        flags.append(tf.reduce_any(is_bad))
    return tf.stack(flags)
