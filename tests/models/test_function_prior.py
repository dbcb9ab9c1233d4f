"""Tests of the function space prior against NumPy and kernel ridge regression."""

import pickle

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from networks import vectors

import tfp_bayes
from tfp_bayes.inference import HMC
from tfp_bayes.layers import DenseFlipout, MCDropout, NormalParameters
from tfp_bayes.losses import NormalNLL
from tfp_bayes.models import FunctionSpacePrior
from tfp_bayes.models.function_prior import FunctionTerm

L = keras.layers
X, Y = vectors(12), np.arange(12) % 3
CONTEXT, FEATURES = vectors(6, seed=1), vectors(6, 4, seed=2)
SETTINGS = {"strength": 3.0, "weight_scale": 0.7, "bias_scale": 1.5, "jitter": 0.1}
LOSSES = {"categorical": "sparse_categorical_crossentropy", "bernoulli": "binary_crossentropy"}


def linear(function_prior=None, likelihood="categorical", **compiled):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    link = "softmax" if likelihood == "categorical" else "sigmoid"
    outputs = L.Dense(3, link)(inputs)
    model = tfp_bayes.BayesianModel(
        inputs, outputs, likelihood=likelihood, prior_scale=0.5, num_samples=1
    )
    model.compile(
        keras.optimizers.SGD(1.0), LOSSES[likelihood], function_prior=function_prior, **compiled
    )
    return model


def dense_weights(model):
    return model.layers[-1].get_weights()


def prior(**settings):
    return FunctionSpacePrior(CONTEXT, FEATURES, **{**SETTINGS, "num_context": 6, **settings})


def covariance(features, weight_scale, bias_scale, jitter, **_):
    features = np.asarray(features, "float64")
    k = weight_scale**2 * features @ features.T + bias_scale**2
    return k + jitter * np.diag(k).mean() * np.eye(len(k))


def one_step(model, y=Y, **arguments):
    history = model.fit(X, y, batch_size=12, verbose=0, **arguments).history
    return {name: values[0] for name, values in history.items()}


@pytest.mark.parametrize("likelihood", list(LOSSES))
def test_term_and_gradient_are_those_of_numpy(likelihood):
    y = Y if likelihood == "categorical" else np.eye(3, dtype="float32")[Y]
    model, twin = linear(prior(), likelihood), linear(None, likelihood)
    kernel, bias = (w.astype("float64") for w in dense_weights(model))
    f = CONTEXT @ kernel + bias
    if likelihood == "categorical":
        f -= f.mean(1, keepdims=True)
    solved = 3.0 * np.linalg.solve(covariance(FEATURES, **SETTINGS), f)
    logs, without = one_step(model, y), one_step(twin, y)
    assert logs["function_prior"] == pytest.approx((f * solved).sum() / 2, rel=1e-4)
    assert "function_prior" not in without
    for name in ("nll", "kl"):
        assert logs[name] == pytest.approx(without[name], rel=1e-6)
    observations = 12 if likelihood == "categorical" else 36
    added = (logs["loss"] - without["loss"]) * observations
    assert added == pytest.approx(logs["function_prior"], rel=1e-3)
    gradients = (CONTEXT.T @ solved / observations, solved.sum(0) / observations)
    for a, b, gradient in zip(dense_weights(model), dense_weights(twin), gradients):
        np.testing.assert_allclose(b - a, gradient, atol=1e-5)


def test_minimum_is_kernel_ridge_regression():
    inputs = keras.Input((5,))
    parameters = NormalParameters(heteroscedastic=False)
    outputs = parameters(L.Dense(1)(inputs))
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood="normal", num_samples=1)
    x, y = X[:4], RNG.normal(size=(4, 1)).astype("float32")
    function_prior = FunctionSpacePrior(x, x, **SETTINGS, num_context=4)
    model.compile(keras.optimizers.SGD(1.0), NormalNLL(), function_prior=function_prior)
    variance = float(model(x)[0, 1]) ** 2
    k = covariance(x, **SETTINGS)
    f = k @ np.linalg.solve(k + 3.0 * variance * np.eye(4), y)
    kernel = np.linalg.lstsq(x.astype("float64"), f, rcond=None)[0]  # 4 equations, 5 unknowns
    parameters.trainable = False
    for factor, smallest, largest in ((1.0, 0, 1e-5), (1.1, 1e-3, np.inf)):
        model.layers[1].set_weights([factor * kernel, np.zeros(1)])
        model.fit(x, y, verbose=0)
        moved = np.abs(model.layers[1].kernel.numpy() - factor * kernel).max()
        assert smallest <= moved < largest


RNG = np.random.default_rng(0)


@pytest.mark.parametrize("how", ["eager", "xla", "strategy", "mixed"])
def test_same_term_however_it_is_computed(how, two_replicas):
    twin = linear(prior())
    expected = one_step(twin)
    if how == "strategy":
        with two_replicas.scope():
            model = linear(prior())
    elif how == "mixed":
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            model = linear(prior())
        finally:
            keras.config.set_dtype_policy("float32")
    else:
        model = linear(
            prior(), **{"eager": {"run_eagerly": True}, "xla": {"jit_compile": True}}[how]
        )
    tolerance = 2e-2 if how == "mixed" else 1e-5
    found = one_step(model)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=tolerance), name
    for a, b in zip(dense_weights(model), dense_weights(twin), strict=True):
        np.testing.assert_allclose(a, b, atol=10 * tolerance)


def network():
    """A network with batch normalization, a skip connection, dropout and a penalty."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,))
    x = L.BatchNormalization()(L.Dense(5, "relu", activity_regularizer="l2")(inputs)) + inputs
    outputs = L.Dense(3, "softmax")(MCDropout(0.3)(x))
    return tfp_bayes.BayesianModel(inputs, outputs, num_samples=3)


def test_context_moves_neither_statistics_nor_seeds():
    states, penalties = [], []
    for function_prior in (None, FunctionSpacePrior(1000 * CONTEXT, num_context=6)):
        model = network()
        model.compile("sgd", LOSSES["categorical"], function_prior=function_prior)
        penalties.append(one_step(model, validation_data=(X, Y))["penalty"])
        states.append([v.numpy() for v in model.non_trainable_variables if v.name != "kl_weight"])
    assert penalties[0] == penalties[1] > 0
    assert len(states[0]) >= 3
    for a, b in zip(*states, strict=True):
        np.testing.assert_array_equal(a, b)


def test_features_are_those_of_the_model_when_it_was_compiled():
    model = network()
    before_last = keras.Model(model.inputs, model.layers[-2].input)  # without dropout
    features = before_last.predict(CONTEXT, verbose=0)
    priors = [FunctionSpacePrior(CONTEXT, each, num_context=6) for each in (None, features)]
    priors.append(FunctionSpacePrior(CONTEXT, before_last, num_context=6))
    terms = [FunctionTerm(each, model) for each in priors]
    model.layers[1].kernel.assign(2 * model.layers[1].kernel)
    values = [float(term(tf.constant(4))) for term in terms]
    np.testing.assert_allclose(values, values[0], rtol=1e-4)
    # A run that is resumed at other weights has other features.
    assert FunctionTerm(priors[0], model).config != terms[0].config
    assert FunctionTerm(priors[1], model).config == terms[1].config


def test_a_step_draws_context_and_one_function():
    term = FunctionTerm(prior(num_context=1, jitter=1e-6), linear())
    model = linear()
    f = CONTEXT @ dense_weights(model)[0]
    f -= f.mean(1, keepdims=True)
    variances = 0.7**2 * (FEATURES**2).sum(1) + 1.5**2
    expected = 1.5 * (f**2).sum(1) / variances
    found = np.array([float(term(step)) for step in tf.range(40)])
    nearest = np.abs(found[:, None] - expected).argmin(1)
    np.testing.assert_allclose(found, expected[nearest], rtol=1e-4)
    assert len(set(nearest)) == 6
    bayesian = tfp_bayes.to_bayesian(keras.Sequential([keras.Input((5,)), L.Dense(3, "softmax")]))
    assert isinstance(bayesian.layers[-1], DenseFlipout)
    bayesian.layers[-1].set_weights([w / 5 for w in bayesian.layers[-1].get_weights()])
    term = FunctionTerm(prior(), bayesian)
    values = [float(term(step)) for step in tf.constant([1, 2, 1])]
    assert values[0] == values[2]
    assert abs(values[1] / values[0] - 1) > 0.01  # more than a change in the order of rows


def test_far_away_a_network_is_unsure_where_it_was_sure():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 30)
    x = (0.5 * rng.normal(size=(60, 2)) + np.array([[2.0, 0.0], [-2.0, 0.0]])[y]).astype("float32")
    angles = rng.uniform(0, 2 * np.pi, 300)
    far = 8 * np.stack([np.cos(angles), np.sin(angles)], 1).astype("float32")
    entropies = []
    for function_prior in (None, FunctionSpacePrior(far[:200], strength=100.0)):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((2,))
        hidden = L.Dense(24, "tanh")(L.Dense(24, "tanh")(inputs))
        model = tfp_bayes.BayesianModel(inputs, L.Dense(2, "softmax")(hidden), num_samples=1)
        model.compile(
            keras.optimizers.Adam(0.02), LOSSES["categorical"], function_prior=function_prior
        )
        steps = [np.concatenate([each] * 150) for each in (x, y)]
        model.fit(*steps, batch_size=60, shuffle=False, num_train=60, verbose=0)
        p = np.asarray(model(np.concatenate([x, far[200:]])))
        assert -np.log(p[np.arange(60), y]).mean() < 0.2
        entropies.append(scipy.stats.entropy(p[60:], axis=1).mean())
    assert entropies[0] < 0.2 * np.log(2)
    assert entropies[1] > 0.8 * np.log(2)


# Files and errors.


def test_files_keep_the_model_and_refuse_to_train_it_without_context(tmp_path):
    model = linear(prior())
    history = model.fit(X, Y, validation_data=(X, Y), verbose=0).history
    assert "val_function_prior" not in history
    assert history["val_loss"][0] == pytest.approx(model.evaluate(X, Y, verbose=0))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    assert loaded.get_compile_config() == model.get_compile_config()
    for copy in (loaded, pickle.loads(pickle.dumps(model))):  # workers receive pickled models
        with pytest.raises(ValueError, match="Expected the context of the function prior"):
            copy.fit(X, Y, verbose=0)
    loaded.compile("sgd", LOSSES["categorical"], function_prior=prior())
    assert loaded.fit(X, Y, verbose=0).history["function_prior"][0] > 0
    with pytest.raises(ValueError, match="whose only prior is `prior_scale`"):
        HMC().fit(model, X, Y, epochs=1)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"strength": 0.0}, "positive, finite number for `strength`"),
        ({"num_context": 7}, "at least num_context=7 inputs"),
        (
            {"context": np.where(CONTEXT[2, 3] == CONTEXT, np.nan, CONTEXT)},
            r"`context`.*examples \[2\]",
        ),
    ],
)
def test_bad_arguments(settings, match):
    with pytest.raises(ValueError, match=match):
        FunctionSpacePrior(**{"context": CONTEXT, "num_context": 6, **settings})


def test_features_that_do_not_fit_are_refused():
    for features in (FEATURES[:5], FEATURES[0]):
        with pytest.raises(ValueError, match=r"Expected an array \(6, F\)"):
            linear(FunctionSpacePrior(CONTEXT, features, num_context=6))
    inputs = keras.Input((5,))
    model = tfp_bayes.BayesianModel(inputs, L.Dense(3)(inputs) / 2, num_samples=1)
    model.compile("sgd", LOSSES["categorical"], function_prior=prior())
    with pytest.raises(ValueError, match="Expected an output from a softmax"):
        model.fit(X, Y, verbose=0)
