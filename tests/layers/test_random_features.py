"""Tests of random features against the exact Gaussian process, and of saving them."""

import keras
import numpy as np
import pytest
from networks import vectors
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from tfp_bayes.layers import RandomFeatures
from tfp_bayes.layers.random_features import orthogonal_normal

X, NEW = vectors(30, 3), 1.5 * vectors(40, 3, seed=1)
Y = np.sin(X.sum(1, keepdims=True))


@pytest.mark.parametrize("length_scale", [1.3, None])
def test_inner_products_are_the_kernel(length_scale):
    size = 2**14
    phi = RandomFeatures(size, length_scale, seed=0)(X).numpy()
    expected = RBF(length_scale or np.sqrt(3))(X)
    # The variance of 2 cos(a) cos(b) is at most 1.
    assert np.abs(phi @ phi.T - expected).max() < 5.5 / np.sqrt(size)


def test_a_linear_model_is_the_gaussian_process():
    size, noise = 2**14, 0.5
    layer = RandomFeatures(size, 1.3, seed=0)
    phi, new = (np.float64(layer(x)) for x in (X, NEW))
    # The posterior predictive for standard normal weights, in dual form because D x D is too large.
    gain = new @ phi.T @ np.linalg.inv(phi @ phi.T + noise**2 * np.eye(30))
    mean = (gain @ Y)[:, 0]
    variance = ((new - gain @ phi) * new).sum(1)
    exact = GaussianProcessRegressor(RBF(1.3), alpha=noise**2, optimizer=None).fit(X, Y)
    expected, scale = exact.predict(NEW, return_std=True)
    # First-order bounds of the change in mean and variance if the kernel changes by less than e:
    weights = RBF(1.3)(NEW, X) @ np.linalg.inv(RBF(1.3)(X) + noise**2 * np.eye(30))
    factor = 1 + np.abs(weights).sum(1)
    error = 5.5 / np.sqrt(size)
    assert (np.abs(mean - expected) < error * factor * np.abs(exact.alpha_).sum()).all()
    assert (np.abs(variance - scale**2) < error * factor**2).all()
    np.testing.assert_allclose(mean, expected, atol=0.05)
    np.testing.assert_allclose(variance, scale**2, atol=0.05)
    assert np.ptp(scale**2) > 0.3


def test_directions_are_normal_and_orthogonal():
    draws = orthogonal_normal(40_000, 4, np.random.default_rng(0))
    blocks = draws.reshape(-1, 4, 4)
    products = blocks @ blocks.transpose(0, 2, 1)
    np.testing.assert_allclose(products[:, ~np.eye(4, dtype=bool)], 0, atol=1e-12)
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        z = ((draws**power).mean(0) - moment) / np.sqrt(spread / len(draws))
        assert np.abs(z).max() < 5.5
    assert orthogonal_normal(3, 5, np.random.default_rng(0)).shape == (3, 5)


def test_offsets_are_uniform_on_a_whole_turn():
    layer = RandomFeatures(10_000, seed=0)
    layer(X)
    for power, moment, spread in ((1, 1 / 2, 1 / 12), (2, 1 / 3, 4 / 45)):
        found = np.mean((layer.offset / (2 * np.pi)) ** power)
        assert abs(found - moment) / np.sqrt(spread / 10_000) < 5.5


def test_seeds_and_saving(tmp_path):
    inputs = keras.Input((7, 3))
    model = keras.Model(inputs, RandomFeatures(20, dtype="mixed_float16")(inputs))
    assert model.output_shape == (None, 7, 20)
    assert not model.trainable_variables
    x = vectors(14, 3).reshape(2, 7, 3)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(x), model(x))
    assert model(x).dtype == "float16"
    draws = [RandomFeatures(20, seed=s)(x).numpy() for s in (0, 0, 1, None, None)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[3], draws[4])
    keras.utils.set_random_seed(3)
    drawn = RandomFeatures(20)(x)
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(RandomFeatures(20)(x), drawn)


def test_half_precision_keeps_large_angles():
    plain, half = (RandomFeatures(64, 0.01, seed=0, dtype=d) for d in ("float32", "mixed_float16"))
    x = vectors(5, 3).astype("float16")
    np.testing.assert_allclose(half(x), plain(x), atol=2e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_features": 0}, "num_features=0"),
        ({"length_scale": 0.0}, r"length_scale=0\.0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomFeatures(**arguments)


def test_an_unknown_number_of_inputs_is_refused():
    with pytest.raises(ValueError, match="whose last axis is known"):
        RandomFeatures()(keras.Input((None,)))
