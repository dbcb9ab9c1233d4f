"""Random draws that are the same on every device, in as few operations as possible.

The draws equal those of `tf.random` with `alg="philox"`, bit for bit. Every layer draws in every
sample, so the extra operations around each draw would slow down the tracing of a model.
"""

import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.seeds import stream


def normal(shape, seed: tf.Tensor, dtype=tf.float32) -> tf.Tensor:
    """Draw from the standard normal distribution.

    Args:
        shape: Shape as a tensor, or as a sequence of integers and scalar tensors.
        seed: int32 tensor of shape (2,).
        dtype: A floating-point dtype.
    """
    return tf.raw_ops.StatelessRandomNormalV2(shape=_as_tensor(shape), **stream(seed), dtype=dtype)


def uniform(shape, seed: tf.Tensor, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """Draw float32 numbers uniformly from [low, high). See `normal` for the arguments."""
    drawn = tf.raw_ops.StatelessRandomUniformV2(
        shape=_as_tensor(shape), **stream(seed), dtype=tf.float32
    )
    if (low, high) == (0.0, 1.0):
        return drawn
    return drawn * (np.float32(high) - np.float32(low)) + np.float32(low)


def coins(shape, seed: tf.Tensor) -> tf.Tensor:
    """Draw 0 or 1 as int32, each with probability 1/2. See `normal` for the arguments."""
    return tf.raw_ops.StatelessRandomUniformIntV2(
        shape=_as_tensor(shape), **stream(seed), minval=0, maxval=2
    )


def _as_tensor(shape) -> tf.Tensor:
    return tf.convert_to_tensor(shape, tf.int32)  # the shape () alone would become float32
