"""Tests that sums of prior terms are accurate with and without XLA."""

import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes.layers.prior_term import total


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("shape", [(), (5,), (3, 3, 64, 64), (2000, 512)])
def test_total_is_exact_to_single_precision(shape, jit_compile):
    terms = np.random.default_rng(0).exponential(size=shape).astype("float32")
    found = tf.function(total, jit_compile=jit_compile)(terms)
    # A plain sum under XLA on a CPU exceeds the bound for the largest shape.
    np.testing.assert_allclose(found, terms.astype("float64").sum(), rtol=2e-7)


def test_total_of_half_precision_does_not_overflow():
    terms = tf.fill([300, 300], tf.constant(2.0, tf.float16))
    assert total(terms) == 180_000
