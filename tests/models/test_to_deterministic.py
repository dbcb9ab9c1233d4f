"""Tests that nothing in a deterministic copy is random, or that the error names the layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes import to_deterministic
from tfp_bayes.layers import BayesianLinear, DenseReparameterization, MCDropout

L = keras.layers
RNG = np.random.default_rng(0)


def features(n=20, f=3):
    return RNG.normal(size=(n, f))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"use_bias": False, "include_noise": True},
        {"include_noise": True, "output_covariance": "inverse_wishart"},
    ],
)
def test_a_closed_form_layer_becomes_a_dense_one(arguments):
    layer = BayesianLinear(2, noise_scale=0.3, name="readout", **arguments)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layer(inputs))
    x = features()
    layer.condition(x, x @ RNG.normal(size=(3, 2)) + 0.1 * RNG.normal(size=(20, 2)))
    state = np.asarray(layer.seed_generator.state)
    back = to_deterministic(model)
    np.testing.assert_array_equal(layer.seed_generator.state, state)
    dense = back.get_layer("readout")
    assert type(dense) is L.Dense
    expected = layer.predictive(x)
    y = np.asarray(back(x.astype("float32")))
    np.testing.assert_allclose(y[:, :2], expected.mean, rtol=1e-5, atol=1e-6)
    if layer.include_noise:
        noise = np.broadcast_to(np.sqrt(expected.noise_variance), (20, 2))
        np.testing.assert_allclose(y[:, 2:], noise, rtol=1e-5)


def test_other_posteriors_give_their_means():
    inputs = keras.Input((4,))
    layer = DenseReparameterization(
        3,
        kernel_posterior="normalizing_flow",
        bias_posterior="low_rank_normal",
        bias_prior="normal",
    )
    model = keras.Model(inputs, layer(inputs))
    dense = to_deterministic(model).layers[1]
    np.testing.assert_array_equal(dense.kernel, layer.kernel)
    np.testing.assert_array_equal(dense.bias, layer.bias)


@keras.saving.register_keras_serializable("test_to_deterministic")
class Block(L.Layer):
    """A custom layer with random layers inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(3)
        self.dropout = MCDropout(0.5, name="hidden")

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dropout(self.dense(inputs))


@keras.saving.register_keras_serializable("test_to_deterministic")
class Sampling(L.Layer):
    """The sampling layer of a variational autoencoder, which is always random."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, inputs):
        return inputs + keras.random.normal(keras.ops.shape(inputs), seed=self.seed_generator)


@keras.saving.register_keras_serializable("test_to_deterministic")
class DropPath(Sampling):
    """Stochastic depth, which is off at inference."""

    def call(self, inputs, training=False):
        return super().call(inputs) if training else inputs


def around(layer):
    inputs = keras.Input((3,))
    inner = keras.Sequential([keras.Input((3,)), layer, L.Dense(2)], name="inner")
    return keras.Model(inputs, inner(L.Dense(3)(inputs)), name="outer")


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (lambda: Block(name="block"), "hidden"),
        (lambda: Sampling(name="sampling"), "sampling"),
        (lambda: L.Lambda(lambda x: x + tf.random.normal(tf.shape(x)), name="noise"), "noise"),
    ],
)
def test_what_stays_random_is_named(layer, name):
    with pytest.raises(ValueError, match=rf"Received: 'outer' with the random layers \['{name}'\]"):
        to_deterministic(around(layer()))


def test_noise_that_is_off_at_inference_is_left():
    back = to_deterministic(around(DropPath()))
    x = np.ones((4, 3), "float32")
    np.testing.assert_array_equal(back(x, training=False), back(x, training=False))
