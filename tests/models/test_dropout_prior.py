"""Tests of the Gaussian prior on kernels: dropout before kernels, and nested models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_bayes
from tfp_bayes.layers import DenseFlipout, MCDropout, MCSpatialDropout2D
from tfp_bayes.models.dropout_prior import kernels

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 5)).astype("float32"), np.arange(12) % 3


def bayesian(inputs, outputs, prior_scale=1.0):
    return tfp_bayes.BayesianModel(inputs, outputs, prior_scale=prior_scale, num_samples=1)


def dense(units=4, **kwargs):
    return keras.layers.Dense(units, **kwargs)


def squares(layer):
    return float(np.square(layer.kernel.numpy().astype("float64")).sum())


def keeps(outputs, inputs):
    """Return 1 - p of each kernel, in graph order."""
    return [round(each.keep, 6) for each in kernels(bayesian(inputs, outputs))]


# The dropout that applies to each kernel.


def test_chain():
    inputs = keras.Input((5,))
    x = dense(activation="relu")(MCDropout(0.1)(inputs))
    x = dense()(MCDropout(0.25)(x))
    x = dense()(keras.layers.Activation("tanh")(x))
    assert keeps(dense()(keras.layers.ReLU()(MCDropout(0.5)(x))), inputs) == [0.9, 0.75, 1, 0.5]


def test_the_penalty_and_its_gradient():
    inputs = keras.Input((5,))
    first, second = dense(), dense(3, activation="softmax")
    model = bayesian(inputs, second(MCDropout(0.2)(first(inputs))), prior_scale=0.5)
    expected = (squares(first) + squares(second) / 0.8) / (2 * 0.25)
    with tf.GradientTape() as tape:
        penalty = model.prior_penalty()
    assert float(penalty) == pytest.approx(expected, rel=1e-6)
    gradient = tape.gradient(penalty, second.kernel.value)
    np.testing.assert_allclose(gradient, second.kernel.numpy() / 0.25 / 0.8, rtol=1e-5)


def test_kernels_in_half_precision_are_summed_in_single():
    inputs = keras.Input((300,), dtype="float16")
    ones = dense(300, kernel_initializer="ones", dtype="float16")
    model = bayesian(inputs, dense(3, activation="softmax")(ones(inputs)), prior_scale=1.0)
    expected = (90_000 + squares(model.layers[-1])) / 2  # the largest float16 is 65504
    assert float(model.kl_divergence()) == pytest.approx(expected, rel=1e-5)


def test_images():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3)(inputs)
    x = keras.layers.ReLU()(keras.layers.MaxPooling2D()(MCSpatialDropout2D(0.25)(x)))
    x = keras.layers.SeparableConv2D(4, 3, padding="same")(x)
    x = keras.layers.DepthwiseConv2D(2)(MCDropout(0.1)(x))
    x = keras.layers.Flatten()(MCDropout(0.5)(x))
    # The depthwise and then the pointwise kernel of the separable convolution.
    assert keeps(dense()(x), inputs) == [1, 0.75, 1, 0.9, 0.5]


def test_networks_of_this_library():
    gal = tfp_bayes.BayesianCNN((12, 12, 1), 4)
    assert [each.keep for each in kernels(gal)] == [1, 1, 0.75, 0.5]
    kirsch = tfp_bayes.BayesianCNN((16, 16, 1), 4, architecture="kirsch")
    assert [each.keep for each in kernels(kirsch)] == [1, 0.5, 0.5, 0.5]
    ordinary = tfp_bayes.BayesianCNN((12, 12, 1), 4, inference="deterministic")
    assert {each.keep for each in kernels(ordinary)} == {1}


def test_joins_and_what_mixes_units():
    inputs = keras.Input((5,))
    a, b, c = (MCDropout(rate)(inputs) for rate in (0.5, 0.5, 0.2))
    join = keras.layers.Concatenate()
    assert keeps(dense()(join([a, b])), inputs) == [0.5]
    assert keeps(dense()(join([a, c])), inputs) == [1]
    assert keeps(dense()(a + b), inputs) == [1]
    assert keeps(dense()(keras.layers.LayerNormalization()(a)), inputs) == [1]
    assert keeps(dense()(keras.ops.relu(MCDropout(0.2)(a))), inputs) == [0.4]
    shared = dense(5)
    assert keeps(shared(a) + shared(c), inputs) == [0.8]


def test_wrapped_and_recurrent_layers():
    inputs = keras.Input((7, 5))
    x = MCDropout(0.25)(inputs)
    assert keeps(keras.layers.TimeDistributed(dense())(x), inputs) == [0.75]
    # Dropout does not apply to the state that the recurrent kernel reads.
    assert keeps(keras.layers.LSTM(3)(x), inputs) == [0.75, 1]
    assert keeps(keras.layers.Bidirectional(keras.layers.GRU(3))(x), inputs) == [0.75, 1, 0.75, 1]
    recurrent = tfp_bayes.layers.MCLSTM(3, dropout=0.2, recurrent_dropout=0.1)
    assert keeps(recurrent(x), inputs) == [0.6, 0.9]
    assert keeps(keras.layers.Bidirectional(recurrent)(x), inputs) == 2 * [0.6, 0.9]
    attended = keras.layers.MultiHeadAttention(2, 3)(x, x)
    assert keeps(attended, inputs) == [1, 1, 1, 1]


def test_through_nested_models():
    inner_in = keras.Input((5,))
    inner = keras.Model(inner_in, MCDropout(0.5)(dense()(keras.layers.ReLU()(inner_in))))
    sequential = keras.Sequential([keras.Input((4,)), keras.layers.ReLU(), dense()])
    inputs = keras.Input((5,))
    outputs = dense()(sequential(inner(MCDropout(0.2)(inputs))))
    model = bayesian(inputs, outputs)
    by_name = {id(each.value): each.keep for each in kernels(model)}
    layers = inner.layers[2], sequential.layers[1], model.layers[-1]
    assert [by_name[id(layer.kernel)] for layer in layers] == [0.8, 0.5, 1]


# The kernels under the prior.


class Own(keras.layers.Layer):
    """A layer whose kernel has another name than its attribute."""

    def build(self, input_shape):
        self.kernel = self.add_weight(name="filters", shape=(input_shape[-1], 3))
        self.scale = self.add_weight(name="no_kernel", shape=(3,))

    def call(self, inputs):
        return inputs @ self.kernel * self.scale


def test_kernels_are_attributes_of_layers():
    inputs = keras.Input((5,))
    own = Own()
    model = bayesian(inputs, keras.layers.Softmax()(own(dense(name="kernel")(inputs))))
    assert len(kernels(model)) == 2
    assert float(model.kl_divergence()) == pytest.approx(
        (squares(model.layers[1]) + squares(own)) / 2, rel=1e-5
    )


def test_frozen_kernels_and_lora():
    inputs = keras.Input((5,))
    frozen, adapted = dense(), dense(3)
    model = bayesian(inputs, adapted(MCDropout(0.5)(frozen(inputs))))
    frozen.trainable = False
    adapted.enable_lora(2)
    adapted.lora_kernel_b.assign(RNG.normal(size=(2, 3)))
    expected = np.square(adapted.kernel.numpy()).sum() / 2 / 0.5
    assert float(model.kl_divergence()) == pytest.approx(expected, rel=1e-5)


# Nested models.


def nested(inner_scale, outer_scale, outer=tfp_bayes.BayesianModel):
    inner_in = keras.Input((5,))
    inner = bayesian(inner_in, dense(activation="relu")(inner_in), prior_scale=inner_scale)
    inputs = keras.Input((5,))
    outputs = dense(3, activation="softmax")(inner(inputs))
    if outer is keras.Model:
        return inner, keras.Model(inputs, outputs)
    return inner, bayesian(inputs, outputs, prior_scale=outer_scale)


@pytest.mark.parametrize("scales", [(0.5, None), (0.5, 2.0), (None, 2.0)])
def test_the_inner_prior_counts_once(scales):
    inner, model = nested(*scales)
    a, b = squares(inner.layers[1]), squares(model.layers[-1])
    own, outer = scales
    expected = a / (2 * (own or outer) ** 2) + (b / (2 * outer**2) if outer else 0)
    assert float(tfp_bayes.kl_divergence(model)) == pytest.approx(expected, rel=1e-5)
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = model.fit(X, Y, batch_size=12, verbose=0).history
    assert history["kl"][0] == pytest.approx(expected, rel=1e-5)
    assert history["loss"][0] == pytest.approx(history["nll"][0] + expected / 12, rel=1e-5)


def test_variational_layers_of_an_inner_model_count_once():
    inner_in = keras.Input((5,))
    inner = bayesian(inner_in, DenseFlipout(4)(inner_in), prior_scale=None)
    inputs = keras.Input((5,))
    model = bayesian(inputs, dense(3, activation="softmax")(inner(inputs)), prior_scale=None)
    kl = float(inner.layers[1].kl_divergence())
    model.compile("sgd", "sparse_categorical_crossentropy")
    history = model.fit(X, Y, batch_size=12, verbose=0).history
    assert history["kl"][0] == pytest.approx(kl, rel=1e-5)
    assert history["loss"][0] == pytest.approx(history["nll"][0] + kl / 12, rel=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_inside_a_plain_model_the_prior_counts_once_it_is_weighted(shared):
    inner, model = nested(0.5, None, keras.Model)
    if shared:
        inputs = keras.Input((5,))
        hidden = inner(inputs) + inner(2 * inputs)
        model = keras.Model(inputs, dense(3, activation="softmax")(hidden))
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"never set.*KLWeight"):
        model.fit(X, Y, verbose=0)
    assert np.isfinite(model.evaluate(X, Y, verbose=0))
    kl = squares(inner.layers[1]) / (2 * 0.25)
    assert float(tfp_bayes.kl_divergence(model)) == pytest.approx(kl, rel=1e-5)
    nll = tfp_bayes.metrics.nll(Y, model.predict(X, verbose=0))
    weight = tfp_bayes.KLWeight(12)
    loss = model.fit(X, Y, batch_size=12, verbose=0, callbacks=[weight]).history["loss"][0]
    assert loss == pytest.approx(nll + kl / 12, rel=1e-5)


def test_features_with_a_prior_under_a_closed_form_head():
    inputs = keras.Input((5,))
    features = bayesian(inputs, dense(activation="tanh")(inputs), prior_scale=0.5)
    model = tfp_bayes.BayesianBasisRegression(features, 3, seed=0)
    model.compile("sgd")
    kl = squares(features.layers[1]) / (2 * 0.25)
    nll = tfp_bayes.metrics.nll(Y, model.training_model.predict(X, verbose=0))
    loss = model.fit(X, Y, batch_size=12, verbose=0).history["loss"][0]
    assert loss == pytest.approx(nll + kl / 12, rel=1e-5)
