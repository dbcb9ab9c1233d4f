"""Tests of the features before the last layer, against a computation by hand."""

import keras
import numpy as np
import pytest
from networks import vectors

from tfp_bayes import BayesianModel
from tfp_bayes.layers import DenseFlipout, MCDropout

L = keras.layers


def test_features_of_a_normalized_nested_model_that_trains():
    x = 5 + 3 * vectors(12)
    normalize = L.Normalization()
    normalize.adapt(x)
    head = keras.Sequential(
        [keras.Input((6,)), DenseFlipout(4, name="hidden"), MCDropout(0.5), L.Dense(3, "softmax")],
        name="head",
    )
    inputs = keras.Input((5,))
    outputs = head(DenseFlipout(6, activation="relu", name="first")(normalize(inputs)))
    model = BayesianModel(inputs, outputs)

    def expected():
        z = (x - x.mean(0)) / x.std(0)
        first, hidden = model.get_layer("first"), head.get_layer("hidden")
        z = np.maximum(z @ first.kernel_loc + first.bias_loc, 0)
        return z @ hidden.kernel_loc + hidden.bias_loc

    np.testing.assert_allclose(model.embed(x), expected(), rtol=1e-4, atol=1e-5)
    before = expected()
    for weight in model.trainable_weights:
        weight.assign(np.asarray(weight) + 0.1)
    np.testing.assert_allclose(model.embed(x), expected(), rtol=1e-4, atol=1e-5)
    assert np.abs(expected() - before).max() > 0.1


def test_a_frozen_last_layer_is_still_the_last():
    inputs = keras.Input((5,))
    hidden = L.BatchNormalization()(L.Dense(4, activation="relu")(inputs))
    outputs = L.Dense(3, activation="softmax", trainable=False)(MCDropout(0.5)(hidden))
    model = BayesianModel(inputs, L.Activation("linear")(outputs))
    assert model.embed(vectors(7)).shape == (7, 4)


def test_a_model_without_kernels_is_refused():
    inputs = keras.Input((5,))
    model = BayesianModel(inputs, L.Softmax()(MCDropout(0.5)(L.BatchNormalization()(inputs))))
    with pytest.raises(ValueError, match="Expected a `model` with a layer that has a kernel"):
        model.embed(vectors(2))
