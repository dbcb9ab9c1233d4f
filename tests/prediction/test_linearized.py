"""Samples of a model that is linearized in its weights, against explicit Jacobians."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfp_bayes import Ensemble, Predictor, StoredPosterior, export_saved_model
from tfp_bayes.layers import MCDropout, NormalParameters

L = keras.layers
RNG = np.random.default_rng(0)


def shaken(model, scale=0.3):
    """Assign a random value to every weight; variances of BatchNormalization stay positive."""
    rng = np.random.default_rng(1)
    model.set_weights(
        [
            np.abs(w + scale * rng.normal(size=w.shape))
            if "variance" in v.name
            else w + scale * rng.normal(size=w.shape)
            for v, w in zip(model.weights, model.get_weights())
        ]
    )
    return model


def around(model, num_draws=2, scale=0.05):
    """Posterior whose center is the current weights of the model."""
    rng = np.random.default_rng(2)
    noise = [scale * rng.normal(size=(num_draws // 2, *w.shape)) for w in model.get_weights()]
    both = [np.concatenate([each, -each]) for each in noise]
    return StoredPosterior(model, [w + each for w, each in zip(model.get_weights(), both)])


def linear_samples(model, posterior, x, inverse, link):
    """Return samples by a Jacobian of the logits or locations, from central differences."""
    center = [w.numpy().astype("float64") for w in posterior.center()]

    def eta(weights):
        for variable, weight in zip(posterior.variables, weights):
            variable.assign(weight)
        return inverse(np.asarray(model(x, training=False), "float64"))

    samples, step = [], 1e-4
    for s in range(posterior.num_draws):
        delta = [d.numpy() - c for d, c in zip(posterior.draw(s, None), center)]
        up = eta([c + step * d for c, d in zip(center, delta)])
        down = eta([c - step * d for c, d in zip(center, delta)])
        samples.append((up - down) / (2 * step))
    at_center = eta(center)
    return np.stack([link(at_center + each) for each in samples])


def at(model, weights, x):
    for variable, weight in zip(model.weights, weights):
        variable.assign(weight)
    return np.asarray(model(x, training=False))


def softmax(a):
    e = np.exp(a - a.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def convolutional(dtype):
    inputs = keras.Input((6, 6, 2))
    x = L.Conv2D(3, 3, activation="relu", dtype=dtype)(inputs)
    x = L.BatchNormalization(dtype=dtype)(x)
    x = L.Add(dtype=dtype)([x, L.Conv2D(3, 3, padding="same", activation="tanh", dtype=dtype)(x)])
    x = L.Flatten(dtype=dtype)(L.MaxPooling2D(dtype=dtype)(x))
    return keras.Model(inputs, L.Dense(3, "softmax", dtype=dtype)(x)), RNG.normal(size=(5, 6, 6, 2))


def per_pixel(dtype):
    inputs = keras.Input((4, 4, 2))
    x = L.Conv2D(3, 3, padding="same", activation="tanh", dtype=dtype)(inputs)
    return keras.Model(inputs, L.Conv2D(3, 1, activation="softmax", dtype=dtype)(x)), RNG.normal(
        size=(5, 4, 4, 2)
    )


def recurrent(dtype):
    inputs = keras.Input((4,), dtype="int32")
    x = L.SimpleRNN(3, dtype=dtype)(L.Embedding(6, 3, dtype=dtype)(inputs))
    return keras.Model(inputs, L.Dense(3, "softmax", dtype=dtype)(x)), RNG.integers(6, size=(5, 4))


@pytest.mark.parametrize("build", [convolutional, per_pixel, recurrent])
def test_logits_are_linear_in_all_weights(build):
    keras.utils.set_random_seed(0)
    model, x = build("float64")
    posterior = around(shaken(model))
    found = Predictor(model, posterior=posterior, linearize=True).sample(x)
    expected = linear_samples(model, posterior, x, np.log, softmax)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    sampled = np.stack([at(model, posterior.draw(s, None), x) for s in range(2)])
    assert np.abs(found - sampled).max() > 1e-3


def test_sigmoids_and_locations_are_linear_and_scales_are_those_of_the_center():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    hidden = L.Dense(5, "tanh", dtype="float64")(inputs)
    yes = L.Dense(2, "sigmoid", dtype="float64")(hidden)
    normal = NormalParameters(dtype="float64")(L.Dense(4, dtype="float64")(hidden))
    model = shaken(keras.Model(inputs, {"yes": yes, "normal": normal}))
    posterior, x = around(model), RNG.normal(size=(4, 3))
    likelihood = {"yes": "bernoulli", "normal": "normal"}
    found = Predictor(model, likelihood, posterior, linearize=True).sample(x)
    one = keras.Model(inputs, yes)
    expected = linear_samples(
        one,
        posterior,
        x,
        lambda p: np.log(p / (1 - p)),
        lambda a: 1 / (1 + np.exp(-a)),
    )
    np.testing.assert_allclose(found["yes"], expected, atol=1e-7)
    other = keras.Model(inputs, normal)
    expected = linear_samples(other, posterior, x, lambda p: p, lambda p: p)
    scale = other(x).numpy()[:, 2:]
    np.testing.assert_allclose(found["normal"][..., :2], expected[..., :2], atol=1e-7)
    np.testing.assert_allclose(found["normal"][..., 2:], np.stack([scale, scale]), atol=1e-12)


def test_noise_of_layers_is_that_of_the_sample():
    keras.utils.set_random_seed(0)
    model = shaken(
        keras.Sequential([keras.Input((3,)), L.Dense(20), MCDropout(0.5), L.Dense(3, "softmax")])
    )
    x = RNG.normal(size=(4, 3))
    center = StoredPosterior(model, [w[None] for w in model.get_weights()])
    found = Predictor(model, posterior=center, linearize=True).sample(x, num_samples=5, seed=3)
    sampled = Predictor(model, posterior=center).sample(x, num_samples=5, seed=3)
    np.testing.assert_allclose(found, sampled, atol=1e-6)
    assert np.ptp(found, axis=0).min() > 1e-3


def test_a_row_has_the_same_bits_in_any_batch_and_served(tmp_path):
    model, x = convolutional("float32")
    x = np.repeat(x, 12, axis=0).astype("float32") + RNG.normal(size=(60, 1, 1, 1)).astype("f4")
    posterior = around(shaken(model))
    predictor = Predictor(model, posterior=posterior, linearize=True)
    p = predictor.predict_uncertainty(x, return_samples=True)
    np.testing.assert_array_equal(predictor.sample(x, batch_size=7), p.samples)
    export_saved_model(predictor, tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served")
    result = served.predict_uncertainty(x, 2, [0, 0])
    np.testing.assert_array_equal(result["mean"], p.mean)
    np.testing.assert_array_equal(result["epistemic_variance"], p.epistemic_variance)
    np.testing.assert_array_equal(served.serve(x), p.mean)


def test_half_precision():
    model, x = convolutional("mixed_float16")
    posterior = around(shaken(model))
    found = Predictor(model, posterior=posterior, linearize=True).sample(x)
    single = convolutional("float32")[0]
    single.set_weights(model.get_weights())
    expected = Predictor(single, posterior=around(single), linearize=True).sample(x)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, expected, atol=2e-2)


def test_certain_logits_stay_finite():
    model = keras.Sequential([keras.Input((2,)), L.Dense(3, "softmax")])
    model.set_weights([np.diag([1e3, -1e3, 0])[:2].astype("f4"), np.zeros(3, "f4")])
    samples = Predictor(model, posterior=around(model), linearize=True).sample(np.eye(2))
    # This model is already linear.
    sampled = Predictor(model, posterior=around(model)).sample(np.eye(2))
    np.testing.assert_allclose(samples, sampled, atol=1e-4)


def test_a_posterior_says_what_is_the_default():
    model = keras.Sequential([keras.Input((2,)), L.Dense(3, "tanh"), L.Dense(3, "softmax")])
    posterior = around(model)
    assert not Predictor(model, posterior=posterior).linearize
    posterior.linearize = True
    assert Predictor(model, posterior=posterior).linearize
    assert not Predictor(model, posterior=posterior, linearize=False).linearize


@pytest.mark.parametrize(
    ("last", "likelihood", "received"),
    [
        (L.Dense(3), "categorical", "operation"),
        (L.Dense(3, "sigmoid"), "categorical", "operation Sigmoid"),
        (L.Dense(3, "softmax"), "bernoulli", "operation Softmax"),
        (L.Softmax(axis=1), "categorical", "operation"),
    ],
)
def test_outputs_without_the_link_are_refused(last, likelihood, received):
    inputs = keras.Input((3, 3))
    model = keras.Model(inputs, last(L.Dense(3)(inputs)))
    posterior = Ensemble([model, keras.models.clone_model(model)])
    predictor = Predictor(model, likelihood, posterior, linearize=True)
    with pytest.raises(ValueError, match=f"(?s)logits are linearized.*{received}.*linearize=False"):
        predictor.predict(np.zeros((2, 3, 3)))


def test_without_a_posterior_there_is_nothing_to_linearize():
    model = keras.Sequential([keras.Input((2,)), MCDropout(0.5), L.Dense(3, "softmax")])
    with pytest.raises(ValueError, match="Expected a `posterior` for linearize=True"):
        Predictor(model, linearize=True)
