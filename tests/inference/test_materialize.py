"""Tests of stored draws with their own batch statistics, against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_bayes
from tfp_bayes.inference import StoredPosterior, materialize
from tfp_bayes.inference.batch_statistics import BatchStatistics

RNG = np.random.default_rng(0)
X = {name: RNG.normal(size=(50, 3)).astype("float32") for name in ("a", "b")}
X["b"] += 2


def network():
    """Build a network with a shared, a frozen and a nested BatchNormalization."""
    keras.utils.set_random_seed(0)
    inputs = {name: keras.Input((3,), name=name) for name in ("a", "b")}
    dense, shared = keras.layers.Dense(3), keras.layers.BatchNormalization(momentum=0.9)
    x = shared(dense(inputs["a"])) + shared(dense(inputs["b"]))
    x = keras.layers.BatchNormalization(trainable=False)(x)
    inside = [keras.Input((3,)), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    x = keras.Sequential(inside)(x)
    return keras.Model(inputs, keras.layers.Dense(2, "softmax")(x)), dense, shared


def test_each_batch_counts_by_its_rows_and_each_call_alike():
    model, dense, shared = network()
    before = model.get_weights()
    statistics = BatchStatistics(model, X, 32)
    inside = model.layers[-2].layers[0]
    updated = [shared.moving_mean, shared.moving_variance]
    updated += [inside.moving_mean, inside.moving_variance]
    assert [v.path for v in statistics.variables] == [v.path for v in updated]
    kernel = RNG.normal(size=(3, 3)).astype("float32")
    found = statistics([dense.kernel], [kernel])
    batches = list(statistics._batches())
    assert [len(batch["a"]) for batch in batches] == [32, 18]
    rows = np.concatenate([batch["a"] for batch in batches])
    np.testing.assert_array_equal(np.sort(rows, 0), np.sort(X["a"], 0))
    mean = variance = 0.0
    for batch in batches:
        for x in batch.values():
            values = x.numpy() @ kernel
            mean += values.mean(0) * len(x) / 100
            variance += values.var(0) * len(x) / 100
    np.testing.assert_allclose(found[0], mean, atol=1e-6)
    np.testing.assert_allclose(found[1], variance, rtol=1e-5)
    for a, b in zip(model.get_weights(), before):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(BatchStatistics(model, X, 32)([dense.kernel], [kernel]), found):
        np.testing.assert_array_equal(a, b)


def test_statistics_of_a_posterior_that_has_some_are_replaced():
    model, dense, shared = network()
    frozen = model.layers[-3]
    variables = [dense.kernel, shared.moving_mean, frozen.moving_mean]
    draws = [RNG.normal(size=(3, *v.shape)) for v in variables]
    posterior = StoredPosterior(model, draws, variables, combine="vote")
    kept = materialize(posterior)
    assert kept.combine == "vote"
    for a, b in zip(kept.draw(1, None), posterior.draw(1, None), strict=True):
        np.testing.assert_array_equal(a, b)
    refreshed = materialize(posterior, refresh_batchnorm=X, batch_size=50)
    assert refreshed.num_draws == 3
    names = ["kernel", "moving_mean", *2 * ["moving_mean", "moving_variance"]]
    assert [v.name for v in refreshed.variables] == names
    _, of_frozen, of_shared, _, of_nested, _ = refreshed.draw(1, None)
    np.testing.assert_allclose(of_frozen, draws[2][1], rtol=1e-6)
    expected = np.mean([x @ draws[0][1].astype("float32") for x in X.values()], (0, 1))
    np.testing.assert_allclose(of_shared, expected, atol=1e-5)
    # The frozen layer gets values with mean 0 and subtracts the draw of its own mean.
    np.testing.assert_allclose(of_nested, -draws[2][1] / np.sqrt(1 + frozen.epsilon), atol=1e-5)


def test_a_sampler_gives_as_many_draws_as_asked():
    class Sampler:
        num_draws = None

        def __init__(self):
            parts = [tfp_bayes.layers.MCDropout(0.5), keras.layers.Dense(1, "sigmoid")]
            self.model = keras.Sequential([keras.Input((2,)), *parts])
            self.variables = self.model.trainable_variables

        def draw(self, index, seed):
            return [tf.random.stateless_normal(v.shape, seed) for v in self.variables]

        def center(self):
            return [tf.zeros(v.shape) for v in self.variables]

    kernels = [materialize(Sampler(), 5, seed).get_state()[0]["draws_0"] for seed in (0, 0, 1)]
    assert len(np.unique(kernels[0][:, 0, 0])) == 5
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.all(kernels[0] != kernels[2])
    # The draws are those of a predictor, although the dropout has a seed too.
    sampler = Sampler()
    kept = materialize(sampler, 5, seed=1)
    samples, others = (
        tfp_bayes.Predictor(sampler.model, "bernoulli", each).sample(np.ones((1, 2)), 5, seed=1)
        for each in (sampler, kept)
    )
    np.testing.assert_array_equal(samples, others)
    with pytest.raises(ValueError, match="Expected `num_draws` for a posterior without"):
        materialize(Sampler())


def test_sorted_rows_are_shuffled():
    model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
    x = np.repeat([0.0, 10.0], 32)[:, None]
    _, variance = BatchStatistics(model, x, 32)()
    assert variance > 20  # 0 in batches of equal rows


def test_what_cannot_be_estimated_is_refused():
    model, dense, _ = network()
    posterior = StoredPosterior(model, [np.ones((2, 3, 3))], [dense.kernel])
    with pytest.raises(ValueError, match="at most 2, the number of stored draws"):
        materialize(posterior, 3)
    broken = {**X, "a": np.full((50, 3), np.nan)}
    with pytest.raises(ValueError, match=r"NaN or infinity in .*moving_mean"):
        materialize(posterior, refresh_batchnorm=broken)
    spectral = keras.layers.SpectralNormalization(keras.layers.Dense(3))
    renormalized = keras.layers.BatchNormalization(renorm=True)
    for layer in (spectral, renormalized):
        model = keras.Sequential([keras.Input((3,)), layer])
        posterior = StoredPosterior(model, [w[None] for w in model.get_weights()])
        with pytest.raises(ValueError, match="as the only layer whose state changes in training"):
            materialize(posterior, refresh_batchnorm=X["a"])
    with pytest.raises(ValueError, match="Expected a built `model`"):
        BatchStatistics(keras.Sequential([keras.layers.Dense(3)]), X["a"], 32)


def test_noise_of_training_is_part_of_the_statistics_and_follows_the_seed():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    x = tfp_bayes.layers.MCDropout(0.5)(inputs)
    model = keras.Model(inputs, keras.layers.BatchNormalization()(x))
    states = [v.numpy() for v in model.variables]
    x = np.ones((5000, 3), "float32")
    mean, variance = BatchStatistics(model, x, 5000, seed=1)()
    np.testing.assert_allclose(variance, 1, atol=0.01)  # values are 0 or 2 with equal probability
    np.testing.assert_array_equal(mean, BatchStatistics(model, x, 5000, seed=1)()[0])
    assert np.all(mean != BatchStatistics(model, x, 5000, seed=2)()[0])
    for v, state in zip(model.variables, states):
        np.testing.assert_array_equal(v, state)
    # Each batch and each layer has noise of its own.
    each = [
        keras.layers.BatchNormalization()(tfp_bayes.layers.MCDropout(0.5)(inputs)) for _ in range(2)
    ]
    two = keras.Model(inputs, each)
    first, _, second, _ = BatchStatistics(two, x[:64], 32)()
    assert np.any(first != second)
    assert np.any(first != BatchStatistics(two, x[:32], 32)()[0])
