"""Draws that are the same on every device, in as few operations as there can be.

They are those of `tf.random` with `alg="philox"`, bit for bit. Every layer of every sample draws,
so that what surrounds a draw counts in the time that a model takes to be traced.
"""

import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.seeds import stream


def normal(shape, seed: tf.Tensor, dtype=tf.float32) -> tf.Tensor:
    """Draws from the standard normal distribution.

    Args:
        shape: Tensor, or sequence of integers and scalar tensors.
        seed: int32 tensor of shape (2,).
        dtype: A floating dtype.
    """
    return tf.raw_ops.StatelessRandomNormalV2(shape=_as_tensor(shape), **stream(seed), dtype=dtype)


def uniform(shape, seed: tf.Tensor, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """Draws float32 numbers uniformly from [low, high); arguments as of `normal`."""
    drawn = tf.raw_ops.StatelessRandomUniformV2(
        shape=_as_tensor(shape), **stream(seed), dtype=tf.float32
    )
    if (low, high) == (0.0, 1.0):
        return drawn
    return drawn * (np.float32(high) - np.float32(low)) + np.float32(low)


def coins(shape, seed: tf.Tensor) -> tf.Tensor:
    """Draws 0 or 1, each with probability 1/2, int32; arguments as of `normal`."""
    return tf.raw_ops.StatelessRandomUniformIntV2(
        shape=_as_tensor(shape), **stream(seed), minval=0, maxval=2
    )


def _as_tensor(shape) -> tf.Tensor:
    return tf.convert_to_tensor(shape, tf.int32)  # that of a scalar has no dtype of its own
