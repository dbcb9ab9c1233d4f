"""Averages over the most similar images of a pool, against scikit-learn."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.neighbors import NearestNeighbors

import tfp_bayes
from tfp_bayes.networks import NeighborAverage

RNG = np.random.default_rng(0)
POOL = RNG.normal(size=(60, 5)).astype("float32") * RNG.uniform(0.1, 9, (60, 1))
X = RNG.normal(size=(7, 5)).astype("float32")


def layer(num_neighbors=4, pool=POOL):
    average = NeighborAverage(num_neighbors)
    average.adapt(pool)
    return average


def of_length_one(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_equals_the_mean_over_neighbors_by_cosine():
    pool = of_length_one(POOL)
    found = NearestNeighbors(n_neighbors=4, metric="cosine").fit(pool)
    expected = of_length_one(pool[found.kneighbors(X, return_distance=False)].mean(1))
    np.testing.assert_allclose(layer()(X), expected, atol=1e-6)
    np.testing.assert_allclose(layer(1)(POOL), pool, atol=1e-6)  # each is its own neighbor


def test_rows_that_are_not_finite_have_no_average():
    x = X.copy()
    x[2, 1], x[4, 0] = np.nan, np.inf
    assert np.isnan(layer()(x)).any(1).tolist() == [i in (2, 4) for i in range(len(x))]


def test_a_model_keeps_its_pool(tmp_path):
    inputs = keras.Input((5,))
    features = keras.Model(inputs, layer()(inputs))
    assert not features.trainable_variables
    model = tfp_bayes.BayesianBasisRegression(features, 2, noise_scale=0.2)
    model.condition(X, np.arange(7) % 2)
    expected = model.predict_uncertainty(X).mean
    model.save(tmp_path / "model.keras")
    model.export(tmp_path / "served")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict_uncertainty(X).mean, expected)
    served = tf.saved_model.load(str(tmp_path / "served"))
    result = served.predict_uncertainty(X, 4, [5, 0])
    sampled = model.sample(X, 4, seed=(5, 0)).mean(0)
    np.testing.assert_allclose(result["mean"], sampled[:, :2], atol=1e-5)


def test_a_clone_has_no_pool():
    """Keras clones the configuration alone."""
    inputs = keras.Input((5,))
    clone = keras.models.clone_model(keras.Model(inputs, layer()(inputs)))
    assert np.isnan(clone(X)).all()
    clone.layers[-1].adapt(POOL)
    np.testing.assert_array_equal(clone(X), layer()(X))


def test_half_precision():
    average = NeighborAverage(4, dtype="mixed_float16")
    average.adapt(POOL)
    np.testing.assert_allclose(average(X), layer()(X), atol=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NeighborAverage(0), "num_neighbors=0"),
        (lambda: NeighborAverage(5, num_images=4), "num_images=4"),
        (lambda: NeighborAverage()(X), "call layer.adapt"),
        (lambda: layer(pool=POOL[:3]), "at least 4 images"),
        (lambda: layer(pool=POOL[:, 0]), r"shape \(60,\)"),
        (lambda: layer(pool=POOL * np.nan), "NaN or infinity"),
        (lambda: layer().adapt(POOL[:50]), "create a new layer"),
        (lambda: layer()(X[None]), "expected ndim=2, found ndim=3"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
