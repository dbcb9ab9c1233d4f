"""Draws equal TensorFlow's with `alg="philox"`, bit for bit."""

import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes._plumbing import noise

RANDOM = tf.random


def signs(shape, seed):
    return RANDOM.stateless_uniform(shape, seed, 0, 2, tf.int32, alg="philox")


def between(shape, seed):
    return RANDOM.stateless_uniform(shape, seed, 1e-7, 1 - 1e-7, tf.float32, alg="philox")


DRAWS = {
    "uniform": (noise.uniform, lambda *a: RANDOM.stateless_uniform(*a, alg="philox")),
    "uniform between": (lambda *a: noise.uniform(*a, 1e-7, 1 - 1e-7), between),
    "coins": (noise.coins, signs),
}
for dtype in (tf.float16, tf.bfloat16, tf.float32, tf.float64):
    DRAWS[f"normal {dtype.name}"] = (
        lambda *a, dtype=dtype: noise.normal(*a, dtype),
        lambda *a, dtype=dtype: RANDOM.stateless_normal(*a, dtype=dtype, alg="philox"),
    )


def assert_equal(actual, expected):
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(*(tf.cast(each, tf.float64) for each in (actual, expected)))


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_tensorflows(name):
    drawn, expected = DRAWS[name]
    for seed in ([0, 0], [-3, 2**31 - 1], [-(2**31), -1]):
        for shape in ((), (0,), (37, 11), tf.TensorShape([5]), [tf.constant(3), 2]):
            assert_equal(drawn(shape, seed), expected(shape, seed))


@pytest.mark.parametrize("name", ["uniform", "coins", "normal float32"])
def test_draws_are_tensorflows_with_xla(name):
    pair = tf.function(lambda *a: [draw(*a) for draw in DRAWS[name]], jit_compile=True)
    assert_equal(*pair((37, 11), tf.constant([7, -1])))


def test_a_shape_that_a_graph_knows_in_part_stays_known():
    """Layers after a draw are built from its shape."""

    @tf.function(input_signature=[tf.TensorSpec((None, 4))])
    def draw(x):
        shape = tf.shape(x)
        for each in (noise.uniform(shape, [1, 2]), noise.coins([shape[0], 4, 1], [1, 2])):
            assert each.shape[:2].as_list() == [None, 4]
        return noise.normal(x.shape[1:], [1, 2])

    assert draw(tf.zeros((3, 4))).shape == (4,)
