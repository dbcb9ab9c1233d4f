"""Tests of SNGP: graph, posterior and predictions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import mlp, vectors

from tfp_bayes import Laplace, Predictor, export_saved_model, load_posterior, metrics, to_sngp
from tfp_bayes.layers import RandomFeatures, SpectralNormConstraint

L = keras.layers
K = 3
METHOD = Laplace("shared", prior_scale=1.0, variables="last_layer")


def residual(dtype=None):
    """A network with batch normalization, a skip connection and another constraint."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1), name="image")
    x = L.Conv2D(4, 3, padding="same", dtype=dtype)(inputs)
    x = x + L.Activation("relu")(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(x)))
    x = L.Dense(5, "relu", kernel_constraint="non_neg")(L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, L.Dense(K, "softmax", dtype=dtype)(x))


def test_kernels_are_constrained_and_weights_kept():
    model = residual()
    sngp = to_sngp(model, 32, 2.0, bound=0.7, seed=0)
    kernels = [layer for layer in sngp.layers if hasattr(layer, "kernel_constraint")]
    found = [type(layer.kernel_constraint).__name__ for layer in kernels]
    assert found == ["SpectralNormConstraint"] * 2 + ["NonNeg", "NoneType"]
    assert kernels[0].kernel.constraint.bound == 0.7
    assert sngp.layers[-2].length_scale == 2.0
    assert sngp.output_shape == (None, K)
    # An automatic name could be taken if the model was loaded or built in another session.
    assert sngp.layers[-1].name == model.layers[-1].name
    assert model.layers[1].kernel_constraint is None
    for a, b in zip(model.weights[:-2], sngp.weights[:-3], strict=True):
        np.testing.assert_array_equal(a, b)
    assert to_sngp(model, 8, bound=None).layers[1].kernel_constraint is None
    half = to_sngp(residual("mixed_float16"), 8)
    assert half.layers[-1].compute_dtype == "float16"
    assert half(np.ones((1, 6, 6, 1))).dtype == "float16"


@pytest.fixture(scope="module")
def trained():
    """Three clusters in the plane, and a network trained on them."""
    keras.utils.set_random_seed(0)
    y = np.arange(150) % K
    angles = 2 * np.pi * y / K
    x = np.c_[np.cos(angles), np.sin(angles)].astype("float32") + 0.2 * vectors(150, 2)
    inputs = keras.Input((2,))
    hidden = L.Dense(16, "relu")(L.Dense(16)(inputs))
    model = to_sngp(keras.Model(inputs, L.Dense(K, "softmax")(hidden)), 256, 1.0, 0.95, seed=0)
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    return model, METHOD.fit(model, x, y, epochs=15, batch_size=32, verbose=0), x, y


def test_it_knows_its_data_and_little_far_away(trained):
    model, posterior, x, y = trained
    near = posterior.predict(x)
    far = posterior.predict(15 * vectors(200, 2, seed=1))
    assert metrics.accuracy(y, near) > 0.97
    # Far from the data, a Gaussian process returns to its prior, which prefers no class.
    assert np.quantile(far.max(1), 0.9) < np.quantile(near.max(1), 0.1)
    assert np.quantile(model.predict(15 * vectors(200, 2, seed=1), verbose=0).max(1), 0.9) > 0.6
    samples = Predictor(model, posterior=posterior).predict_uncertainty(x, 400, seed=0)
    np.testing.assert_allclose(samples.mean, near, atol=5.5 * 0.5 / np.sqrt(400))


def test_samples_are_saved_and_served(trained, tmp_path):
    model, posterior, x, _ = trained
    predictor = Predictor(model, posterior=posterior)
    expected = predictor.predict_uncertainty(x, 5, seed=1)
    model.save(tmp_path / "model.keras")
    posterior.save(tmp_path / "posterior.npz")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    again = Predictor(loaded, posterior=load_posterior(tmp_path / "posterior.npz", loaded))
    np.testing.assert_array_equal(again.predict_uncertainty(x, 5, seed=1).mean, expected.mean)
    export_saved_model(predictor, tmp_path / "served", 5)
    served = tf.saved_model.load(tmp_path / "served")
    found = served.predict_uncertainty(x, 5, [1, 0])
    np.testing.assert_array_equal(found["mutual_information"], expected.mutual_information)


def test_models_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="without stochastic layers"):
        to_sngp(mlp())
    with pytest.raises(ValueError, match="comes from a Dense with a softmax"):
        to_sngp(keras.Sequential([keras.Input((5,)), L.Dense(K)]))
    with pytest.raises(ValueError, match="num_features=0"):
        to_sngp(residual(), 0)
    with pytest.raises(ValueError, match="bound=-1"):
        to_sngp(residual(), bound=-1)
    assert RandomFeatures().num_features == 1024
    assert SpectralNormConstraint().bound == 0.95
