"""Seeds as values: a pair of int32 determines every random draw of the library."""

import random
from typing import NamedTuple

import numpy as np
import tensorflow as tf


def as_seed(seed: int | tuple[int, int] | None) -> np.ndarray:
    """Convert the user's `seed` to the int32 pair that TensorFlow's random operations take.

    Args:
        seed: An integer in [0, 2^64), whose low and high words become the pair (`7` is `[7, 0]`);
            a pair of int32; or None for a new seed, which depends on
            `keras.utils.set_random_seed`.

    Returns:
        Array of shape (2,), int32.

    Raises:
        ValueError: If `seed` is none of these.

    Example:

    >>> as_seed(7)
    array([7, 0], dtype=int32)
    """
    if seed is None:
        seed = random.getrandbits(62)
    if isinstance(seed, int | np.integer) and type(seed) is not bool and 0 <= seed < 2**64:
        seed = int(seed)  # NumPy's integers have no 32 bits to shift out
        return np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32).view(np.int32)
    pair = np.asarray(seed)
    if (
        pair.shape == (2,)
        and pair.dtype.kind in "iu"
        and np.array_equal(pair, pair.astype("int32"))
    ):
        return pair.astype("int32")
    raise ValueError(
        "Expected an integer in [0, 2**64), a pair of int32 or None for `seed`. "
        f"Received: seed={seed!r}. Hint: pass an int such as seed=0."
    )


# The key with which TensorFlow scrambles seeds for Philox, and its number for that algorithm.
_PHILOX_KEY = 0x02461E293EC8F720
_PHILOX = 1


def fold_in(seed: tf.Tensor, *data: tf.Tensor | int) -> tf.Tensor:
    """Derive a new seed from a seed and integers, the same on every device.

    The result equals `tf.random.experimental.stateless_fold_in(seed, value, alg="philox")`, bit
    for bit, with a third of the operations. Every layer folds in every sample, so this matters
    in large graphs.

    Args:
        seed: int32 tensor of shape (2,).
        *data: Integers to fold in from left to right, such as `fold_in(seed, sample, layer)`.

    Returns:
        int32 tensor of shape (2,).
    """
    for value in data:
        seed = tf.stack([_random_word(seed), tf.cast(value, tf.int32)])
    return seed


def _random_word(seed: tf.Tensor) -> tf.Tensor:
    """Return the first int32 in the random stream of a seed."""
    return tf.raw_ops.StatelessRandomUniformFullIntV2(shape=[], **stream(seed), dtype=tf.int32)


def stream(seed: tf.Tensor) -> dict[str, tf.Tensor | int]:
    """Return the arguments with which TensorFlow's raw random operations draw for a seed.

    They equal what `alg="philox"` derives from the seed, bit for bit, with a fifth of the
    operations.

    Args:
        seed: int32 tensor of shape (2,).

    Returns:
        The arguments `key`, `counter` and `alg`.
    """
    mixed = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[2, 2],
        key=tf.constant([_PHILOX_KEY], tf.uint64),
        counter=tf.cast(seed, tf.uint64),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    key, counter = tf.split(tf.bitcast(mixed, tf.uint64), 2)
    counter = tf.concat([tf.zeros([1], tf.uint64), counter], 0)
    return {"key": key, "counter": counter, "alg": _PHILOX}


class RoundSeeds(NamedTuple):
    """The seeds of one round of active learning, one for each use of randomness.

    The order of the fields determines the seeds.
    """

    train: int
    candidates: int
    score: int
    select: int
    evaluate: int
    targets: int
    filter: int

    @classmethod
    def of(cls, seed: int, round: int) -> "RoundSeeds":
        """Derive the seeds of a round from the seed of a learner."""
        states = (np.random.SeedSequence([seed, round, use]) for use in range(len(cls._fields)))
        # 31 bits fit the seed of every library.
        return cls(*(int(state.generate_state(1)[0] >> 1) for state in states))
