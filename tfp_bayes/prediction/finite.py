"""NaN and infinity stay visible: layers such as max pooling would turn them into plain numbers."""

import functools
from collections.abc import Iterable

import keras
import tensorflow as tf


def finite_rows(inputs) -> tf.Tensor:
    """Returns for each row of a batch whether all its inputs are finite, (N,)."""
    flat = keras.tree.flatten(inputs)
    rows = tf.fill(tf.shape(flat[0])[:1], True)
    for x in flat:
        if x.dtype.is_floating:
            axes = list(range(1, x.shape.rank))
            rows = tf.logical_and(rows, tf.reduce_all(tf.math.is_finite(x), axis=axes))
    return rows


def nan_unless(rows: tf.Tensor, value: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """Returns a value with NaN for each of the rows (N,), its size on an axis, that is False."""
    shape = [1] * value.shape.rank
    shape[axis] = -1
    return tf.where(tf.reshape(rows, shape), value, tf.constant(float("nan"), value.dtype))


class FiniteWeights:
    """Checks weights before their numbers are used, in one pass over them.

    Args:
        weights: Those to check. Infinity is allowed where they are not trained, as in the mask of
            an attention; a scalar may be NaN for what nobody knows yet, as `kl_weight`.
    """

    def __init__(self, weights: Iterable[keras.Variable]):
        self._weights = [
            v for v in weights if keras.backend.is_float_dtype(v.dtype) and len(v.shape)
        ]
        # Of a method TensorFlow would count the traces of all instances, and warn of them.
        flags = functools.partial(_flags, self._weights)
        self._is_bad = tf.function(flags, autograph=False)

    def check(self) -> None:
        """Raises ValueError with the names of the weights that are not finite."""
        if not self._weights:
            return
        bad = [v.path for v, is_bad in zip(self._weights, self._is_bad().numpy()) if is_bad]
        if bad:
            raise ValueError(
                f"Expected finite weights. Received: NaN or infinity in {', '.join(bad)}. "
                "Hint: training diverged; lower the learning rate, or look for NaN in the data."
            )

    def all_finite(self) -> tf.Tensor:
        """Builds the graph of one boolean for all of them, where nobody can call `check`."""
        return ~tf.reduce_any(_flags(self._weights)) if self._weights else tf.constant(True)


def _flags(weights: Iterable[keras.Variable]) -> tf.Tensor:
    """Returns for each weight whether it is bad, (number of weights,)."""
    flags = []
    for variable in weights:
        value = tf.convert_to_tensor(variable)
        is_bad = ~tf.math.is_finite(value) if variable.trainable else tf.math.is_nan(value)
        flags.append(tf.reduce_any(is_bad))
    return tf.stack(flags)
