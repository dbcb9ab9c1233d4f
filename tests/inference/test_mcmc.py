"""Tests of Hamiltonian Monte Carlo against known posteriors, and of interrupted runs."""

import json
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_bayes
from tfp_bayes import Predictor, layers
from tfp_bayes._plumbing import checkpoint
from tfp_bayes.inference import HMC, ChainPosterior, load_posterior
from tfp_bayes.inference import mcmc as module
from tfp_bayes.inference.chain import Sampler
from tfp_bayes.inference.log_posterior import LogPosterior
from tfp_bayes.inference.mcmc import compare_chains

RNG = np.random.default_rng(0)
L = keras.layers


def model_of(build, shape=(2,), loss="sparse_categorical_crossentropy", **arguments):
    inputs = keras.Input(shape)
    arguments = {"prior_scale": 1.0, "num_samples": 1, **arguments}
    model = tfp_bayes.BayesianModel(inputs, build(inputs), **arguments)
    model.compile(keras.optimizers.Adam(0.05), loss)
    return model


@keras.saving.register_keras_serializable("test_mcmc")
class KnownNoise(keras.losses.Loss):
    """The negative log likelihood of y = f(x) + 0.5 e."""

    def call(self, y_true, y_pred):
        return tf.reduce_sum(tf.square(y_true - y_pred), -1) / (2 * 0.5**2)


LINEAR_X = RNG.normal(size=(20, 3)).astype("float32")
LINEAR_Y = (LINEAR_X @ [[1.0], [-1.0], [0.5]] + 0.5 * RNG.normal(size=(20, 1))).astype("float32")


def linear_model():
    return model_of(L.Dense(1), (3,), KnownNoise(), likelihood="normal", prior_scale=0.7)


def z_scores(draws, values, exact):
    """Return errors of the means of (C, S, M) divided by their Monte Carlo standard errors."""
    states = tf.constant(values.transpose(1, 0, 2))
    size = tfp.mcmc.effective_sample_size(
        states, filter_beyond_positive_pairs=True, cross_chain_dims=1
    ).numpy()
    return (values.mean((0, 1)) - exact) / (values.std((0, 1)) / np.sqrt(size))


@pytest.mark.parametrize(("kernel", "temperature"), [("hmc", 0.3), ("nuts", 1.0)])
def test_moments_of_a_linear_gaussian_model(kernel, temperature):
    model = linear_model()
    before = model.get_weights()
    num_samples = 400 if kernel == "hmc" else 150
    hmc = HMC(2, num_samples, 100, kernel=kernel, temperature=temperature, seed=1)
    posterior = hmc.fit(model, LINEAR_X, LINEAR_Y, epochs=1, verbose=0)
    phi = np.column_stack([LINEAR_X, np.ones(20)]).astype("float64")  # the bias has the prior too
    covariance = np.linalg.inv(phi.T @ phi / 0.25 + np.eye(4) / 0.49)
    mean = covariance @ phi.T @ LINEAR_Y[:, 0] / 0.25
    covariance *= temperature  # likelihood and prior to the power 1 / T
    kernels, biases = (stack.numpy() for stack in posterior._stacked)
    draws = np.column_stack([kernels[:, :, 0], biases]).reshape(2, num_samples, 4).astype("float64")
    assert np.abs(z_scores(draws, draws, mean)).max() < 5
    products = ((draws - mean)[..., None] * (draws - mean)[..., None, :]).reshape(
        2, num_samples, 16
    )
    assert np.abs(z_scores(draws, products, covariance.ravel())).max() < 5
    assert posterior.diagnostics["max_r_hat"] < 1.05
    assert posterior.diagnostics["num_divergent"] == 0
    assert posterior.diagnostics["temperature"] == temperature
    assert 0.6 < np.mean(posterior.diagnostics["acceptance"]) < 0.97
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_logistic_regression_on_a_grid():
    x = RNG.normal(size=(15, 2)).astype("float32")
    y = (x[:, :1] + 0.5 * RNG.normal(size=(15, 1)) > 0).astype("float32")
    model = model_of(
        L.Dense(1, "sigmoid", use_bias=False), loss="binary_crossentropy", likelihood="bernoulli"
    )
    posterior = HMC(2, 500, 200).fit(model, x, y, epochs=1, verbose=0)
    axis = np.linspace(-5, 5, 201)
    w = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    logits = w @ x.T
    log_density = (logits * y[:, 0] - np.logaddexp(0, logits)).sum(1) - np.square(w).sum(1) / 2
    weights = np.exp(log_density - log_density.max())
    weights /= weights.sum()
    draws = posterior._stacked[0].numpy()[:, :, 0].reshape(2, 500, 2).astype("float64")
    assert np.abs(z_scores(draws, draws, weights @ w)).max() < 5
    assert np.abs(z_scores(draws, draws**2, weights @ w**2)).max() < 5
    p = Predictor(model, "bernoulli", posterior).predict_uncertainty(x).mean[:, 0]
    np.testing.assert_allclose(p, weights @ (1 / (1 + np.exp(-logits))), atol=0.02)


def classifier():
    return model_of(lambda x: L.Dense(3, "softmax")(L.Dense(4, "tanh")(x)))


X, Y = RNG.normal(size=(30, 2)).astype("float32"), RNG.integers(0, 3, (30, 1))


def test_the_density_is_that_of_the_objective():
    model = classifier()
    weights = np.array([1.0, 2.0] * 15)
    target = LogPosterior(model, model.trainable_variables, (X, Y, weights))
    model.layers[1].bias.assign_add([1.0] * 4)  # biases have the prior of kernels
    position = target.position()
    p = np.asarray(model(X), "float64")
    nll = -(weights * np.log(p[np.arange(30), Y[:, 0]])).sum()
    expected = -nll - np.square(position).sum() / 2
    assert float(target(tf.constant(position))) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(target.predict(tf.constant(position)), p.ravel(), rtol=1e-5)


SHORT = pytest.mark.filterwarnings(
    "ignore:The predictions of the chains disagree", "ignore:.*trajectories diverged"
)


class KilledError(Exception):
    pass


def killed_after(monkeypatch, count):
    """Make the saving of a chain fail after some pieces."""
    saved = {"count": 0}
    save = checkpoint.save

    def failing(path, state):
        if "chain-" in path.name:
            saved["count"] += 1
            if saved["count"] > count:
                raise KilledError
        save(path, state)

    monkeypatch.setattr("tfp_bayes.inference.chain.checkpoint.save", failing)


@SHORT
@pytest.mark.parametrize("kernel", ["hmc", "nuts"])
def test_an_interrupted_run_ends_with_the_same_bits(kernel, tmp_path, monkeypatch):
    model = classifier()  # which `fit` leaves as it was, whether it ends or is killed

    def run(directory, num_samples=20):
        hmc = HMC(num_chains, num_samples, 20, kernel=kernel, directory=directory)
        return hmc.fit(model, X, Y, epochs=2, verbose=0)

    num_chains, counts = (2, (3, 30)) if kernel == "hmc" else (1, (3,))
    expected = run(None)
    for count in counts:
        with monkeypatch.context() as patch:
            killed_after(patch, count)
            with pytest.raises(KilledError):
                run(tmp_path)
    found = run(tmp_path)
    for a, b in zip(expected._stacked, found._stacked, strict=True):
        np.testing.assert_array_equal(a, b)
    assert expected.diagnostics == found.diagnostics
    with pytest.raises(ValueError, match="Expected the configuration of the run"):
        run(tmp_path, num_samples=30)


@SHORT
def test_the_last_layer_of_a_trained_network():
    model = classifier()
    model.fit(X, Y, epochs=2, verbose=0)
    before = model.get_weights()
    hmc = HMC(2, 30, 30, variables="last_layer")
    posterior = hmc.fit(model, X, Y)
    assert [v.path for v in posterior.variables] == [v.path for v in model.layers[-1].variables]
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)
    samples = Predictor(model, posterior=posterior).sample(X)
    assert samples.shape == (60, 30, 3)
    assert samples.std(0).max() > 0.05


@SHORT
def test_saved_with_its_diagnostics(tmp_path):
    model = classifier()
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    posterior = HMC(2, 10, 10).fit(model, data, epochs=1, verbose=0)
    posterior.save(tmp_path / "posterior.npz")
    loaded = load_posterior(tmp_path / "posterior.npz", model)
    assert loaded.diagnostics == posterior.diagnostics
    json.dumps(loaded.diagnostics)
    by_hand = ChainPosterior(model, loaded._stacked, loaded.variables)
    assert by_hand.diagnostics == {}
    assert by_hand.assign(loaded)  # as a learner does in each round
    assert by_hand.diagnostics == posterior.diagnostics
    for a, b in zip(posterior._stacked, loaded._stacked):
        np.testing.assert_array_equal(a, b)


def test_chains_are_compared_by_what_they_predict():
    values = RNG.normal(size=(4, 100, 3))
    assert compare_chains(values)["max_r_hat"] < 1.1
    assert 200 < compare_chains(values)["min_ess"] < 800
    values[0, :, 1] += 2
    assert compare_chains(values)["max_r_hat"] > 1.2
    drifting = RNG.normal(size=(1, 100, 1)) + np.linspace(0, 3, 100)[:, None]
    assert compare_chains(drifting)["max_r_hat"] > 1.2
    with pytest.warns(UserWarning, match="R-hat is 1.5"):
        module._warn({"max_r_hat": 1.5, "num_divergent": 0})
    with pytest.warns(UserWarning, match="3 trajectories diverged"):
        module._warn({"max_r_hat": 1.0, "num_divergent": 3})


def test_divergent_trajectories_are_counted():
    settings = HMC(1, 10, 10)._settings(1.0, 2)._replace(step_size=1.0)
    trace = Sampler(lambda w: -1e9 * tf.reduce_sum(w**4), settings).run(np.ones(2), 0, None, {})
    assert trace.divergent[0]


# Errors.


@pytest.mark.parametrize(
    ("build", "arguments", "match"),
    [
        (lambda x: L.Dense(3, "softmax")(x), {"prior_scale": None}, "with a `prior_scale`"),
        (lambda x: L.Dense(3, "softmax")(layers.MCDropout(0.5)(x)), {}, "without stochastic"),
        (lambda x: L.Dense(3, "softmax")(L.BatchNormalization()(x)), {}, "batch statistics"),
        (lambda x: L.Dense(3, "softmax", kernel_regularizer="l2")(x), {}, "without regularizers"),
        (lambda x: L.Dense(3, "softmax", trainable=False)(x), {}, "with trainable weights"),
        (lambda x: L.Dense(3, "softmax", dtype="mixed_float16")(x), {}, "half precision"),
    ],
)
def test_models_that_state_no_posterior_are_refused(build, arguments, match):
    with pytest.raises(ValueError, match=match):
        HMC().fit(model_of(build, **arguments), X, Y, epochs=1)


def test_bad_arguments():
    plain = keras.Sequential([keras.Input((2,)), L.Dense(3, "softmax")])
    plain.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="Expected a BayesianModel with a `prior_scale`"):
        HMC().fit(plain, X, Y, epochs=1)
    for arguments, match in (
        ({"kernel": "gibbs"}, "kernel='gibbs'"),
        ({"variables": "first"}, "variables='first'"),
        ({"num_chains": 0}, "num_chains=0"),
        ({"temperature": 0}, "positive, finite number for `temperature`"),
    ):
        with pytest.raises(ValueError, match=match):
            HMC(**arguments)
    with pytest.raises(ValueError, match="epochs=None"):
        HMC().fit(classifier(), X, Y)
    large = np.zeros((400_000, 2), "float32")
    with pytest.raises(ValueError, match=r"27 weights and .*variables='last_layer'"):
        HMC().fit(classifier(), large, np.zeros(400_000), epochs=1)
    nan = np.where(np.arange(60).reshape(30, 2) == 3, np.nan, X).astype("float32")
    with pytest.raises(ValueError, match="finite inputs for `x`"):
        HMC().fit(classifier(), nan, Y, epochs=1, verbose=0)
    repeated = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8).repeat(10)
    with pytest.raises(ValueError, match=r"each example once.*repeats them 10 times"):
        HMC().fit(classifier(), repeated, epochs=1, verbose=0)
    with pytest.raises(ValueError, match=r"no `class_weight` for HMC.*sample_weight"):
        HMC().fit(classifier(), X, Y, epochs=1, class_weight={0: 2.0})
    assert HMC(**HMC(2, seed=3).get_config()).get_config() == HMC(2, seed=3).get_config()


def test_a_chain_does_not_start_where_the_density_is_not_finite(monkeypatch):
    def train(model, *_):
        model.layers[-1].kernel.assign(np.full((4, 3), np.nan))

    monkeypatch.setattr(module, "_train", train)
    model = classifier()
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"finite log posterior where .* Received: nan"):
        HMC(1, 4, 10).fit(model, X, Y, epochs=1)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_chains_start_apart_where_initializers_have_seeds(monkeypatch):
    starts = []
    dense = L.Dense(2, "softmax", kernel_initializer=keras.initializers.GlorotUniform(seed=3))
    monkeypatch.setattr(module, "_train", lambda *_: starts.append(dense.kernel.numpy()))
    model = model_of(dense)
    x = RNG.normal(size=(10, 2)).astype("float32")
    with warnings.catch_warnings(action="ignore"):  # so few steps mix badly
        HMC(2, num_samples=4, num_burnin=10).fit(model, x, np.arange(10) % 2, epochs=1)
    assert np.abs(starts[0] - starts[1]).max() > 0.1
