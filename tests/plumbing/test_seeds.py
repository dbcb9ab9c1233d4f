"""Derivation of seeds."""

import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes._plumbing.seeds import as_seed, fold_in


@pytest.mark.parametrize("seed", [(0, 0), (7, 0), (-3, 2**31 - 1), (-(2**31), -1)])
@pytest.mark.parametrize("data", [0, 5, 2**31 - 1])
def test_fold_in_is_tensorflows(seed, data):
    expected = tf.random.experimental.stateless_fold_in(tf.constant(seed), data, alg="philox")
    np.testing.assert_array_equal(fold_in(tf.constant(seed), data), expected)
    compiled = tf.function(fold_in, jit_compile=True)
    np.testing.assert_array_equal(compiled(tf.constant(seed), tf.constant(data)), expected)


def test_fold_in_goes_from_left_to_right():
    seed = tf.constant([1, 2])
    np.testing.assert_array_equal(fold_in(seed, 3, 4), fold_in(fold_in(seed, 3), 4))
    assert not np.array_equal(fold_in(seed, 3, 4), fold_in(seed, 4, 3))


@pytest.mark.parametrize(
    ("seed", "pair"),
    [(7, (7, 0)), (2**32 + 7, (7, 1)), (2**64 - 1, (-1, -1)), (np.int64(2**40), (0, 256))],
)
def test_both_words_of_an_integer_count(seed, pair):
    np.testing.assert_array_equal(as_seed(seed), pair)


@pytest.mark.parametrize("seed", [True, -1, 2**64, 1.5, "7", (1, 2, 3), (0, 2**31)])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match="for `seed`"):
        as_seed(seed)
