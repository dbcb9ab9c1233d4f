"""Predictions after preprocessing layers were adapted to other data."""

import keras
import numpy as np
import scipy.special
from networks import vectors

from tfp_bayes import BayesianModel, Predictor


def test_other_statistics_are_seen(tmp_path):
    """After `adapt`, `load_weights` and `set_weights`, by predictions that were made before."""
    x = vectors(20, 3)
    normalization = keras.layers.Normalization()
    normalization.adapt(x)
    inputs = keras.Input((3,))
    outputs = keras.layers.Dense(2, "softmax")(normalization(inputs))
    model = BayesianModel(inputs, outputs, num_samples=1)
    kernel, bias = model.layers[-1].get_weights()

    def check(data):
        normalized = (x - data.mean(0)) / data.std(0)
        expected = scipy.special.softmax(normalized @ kernel + bias, axis=-1)
        for found in (model.predict(x, verbose=0), model.predict_uncertainty(x).mean):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(model.embed(x), normalized, atol=1e-5)

    check(x)
    model.save_weights(tmp_path / "first.weights.h5")
    first = model.get_weights()
    wide = 3 * x + 1
    normalization.adapt(wide)
    check(wide)
    model.load_weights(tmp_path / "first.weights.h5")
    check(x)
    normalization.adapt(wide)
    check(wide)
    model.set_weights(first)
    check(x)


def test_other_vocabularies_are_seen():
    lookup = keras.layers.StringLookup(
        vocabulary=["a", "b"], num_oov_indices=0, output_mode="one_hot"
    )
    inputs = keras.Input((1,), dtype="string")
    predictor, x = Predictor(keras.Model(inputs, lookup(inputs))), np.array([["a"], ["b"]])
    np.testing.assert_array_equal(predictor.predict(x, num_samples=1), [[1, 0], [0, 1]])
    lookup.set_vocabulary(["b", "a"])
    np.testing.assert_array_equal(predictor.predict(x, num_samples=1), [[0, 1], [1, 0]])
