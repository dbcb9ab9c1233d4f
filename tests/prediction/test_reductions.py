"""Averages over positions are bit-equal for a row at any place in a batch."""

import keras
import layer_by_layer
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl
from keras import ops

from tfp_bayes import Predictor
from tfp_bayes._plumbing.keras_internals import timestep_mask
from tfp_bayes.layers import MCDropout
from tfp_bayes.prediction.reductions import row_by_row

RNG = np.random.default_rng(0)


def nested(x):
    inputs = keras.Input(x.shape[1:])
    inner = keras.Model(inputs, kl.GlobalAveragePooling2D()(inputs))
    return keras.Sequential([keras.Input(x.shape[1:]), inner])(x)


IMAGES = {
    "pooling": lambda x: kl.GlobalAveragePooling2D()(x),
    "keepdims": lambda x: kl.Flatten()(kl.GlobalAveragePooling2D(keepdims=True)(x)),
    "mean": lambda x: ops.mean(x, axis=(1, 2)),
    "mean, keepdims": lambda x: kl.Flatten()(ops.mean(x, axis=(-2, 1), keepdims=True)),
    "sum": lambda x: ops.sum(x, axis=[2, 1]),
    "nested": nested,
}


@pytest.mark.parametrize("pool", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("channels", [10, 17])
def test_same_bits_alone_and_among_others(pool, channels):
    inputs = keras.Input((6, 6, channels))
    # No later layer rounds the difference away.
    model = keras.Model(inputs, MCDropout(0.3)(pool(inputs)))
    predictor = Predictor(model, likelihood="bernoulli")
    x = RNG.random((40, 6, 6, channels)).astype("float32") / 36
    together = predictor.sample(x, 2, seed=0, batch_size=40)
    for size in (1, 7, 13):
        np.testing.assert_array_equal(predictor.sample(x, 2, seed=0, batch_size=size), together)


def test_tensorflow_alone_does_depend_on_it():
    """If this test fails, `reductions` is no longer necessary."""
    x = tf.constant(RNG.random((40, 6, 6, 10)), "float32")
    together = tf.reduce_mean(x, [1, 2])
    alone = tf.concat([tf.reduce_mean(row[None], [1, 2]) for row in x], 0)
    assert (alone != together).numpy().any()


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_equals_the_layer(dimensions, keepdims):
    layer = getattr(kl, f"GlobalAveragePooling{dimensions}D")(keepdims=keepdims)
    x = tf.constant(RNG.normal(size=(3, *[4] * dimensions, 5)), "float32")
    np.testing.assert_allclose(row_by_row(layer)(x), layer(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keepdims", [False, True])
def test_equals_the_layer_with_masked_steps(keepdims):
    layer = kl.GlobalAveragePooling1D(keepdims=keepdims)
    embedded = kl.Embedding(9, 5, mask_zero=True)(tf.constant([[3, 4, 0, 0], [1, 2, 3, 4]]))
    assert timestep_mask(embedded) is not None
    np.testing.assert_allclose(row_by_row(layer)(embedded), layer(embedded), rtol=1e-5)
    mask = np.array([[True, False, True, True], [False, True, True, False]])
    expected = layer(embedded, mask=mask)
    np.testing.assert_allclose(row_by_row(layer)(embedded, mask=mask), expected, rtol=1e-5)


def test_a_mask_that_is_given_to_an_inner_model():
    steps, seen = keras.Input((7, 4)), keras.Input((7,), dtype="bool")
    inner = keras.Model(steps, kl.GlobalAveragePooling1D()(kl.Dense(4)(steps)))
    hidden = MCDropout(0.4)(inner(inputs=steps, mask=seen))
    model = keras.Model([steps, seen], kl.Dense(3, activation="softmax")(hidden))
    x = [RNG.normal(size=(6, 7, 4)).astype("float32"), RNG.random((6, 7)) < 0.6]
    x[1][:, 0] = True
    expected = layer_by_layer.sample(model, x, 3, 5)
    np.testing.assert_allclose(Predictor(model).sample(x, 3, seed=5), expected, atol=1e-6)


def test_half_precision_adds_up_as_keras_does():
    layer = kl.GlobalAveragePooling2D(dtype="mixed_float16")
    x = tf.constant(RNG.random((2, 300, 300, 3)), "float32")
    np.testing.assert_array_equal(row_by_row(layer)(x).dtype, layer(x).dtype)
    np.testing.assert_allclose(row_by_row(layer)(x), layer(x), rtol=1e-3)
