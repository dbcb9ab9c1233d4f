"""Laplace's approximation against derivatives, dense algebra and its own samples."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import mlp, vectors

import tfp_bayes
from tfp_bayes import LastLayerLaplace, Predictor

K, SIZE = 3, 40
X = vectors(SIZE)
Y = X[:, :K].argmax(1)
COVARIANCES = ("full", "kronecker", "diagonal")


def network(use_bias=True, units=4):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(units, "tanh"),
            keras.layers.Dense(K, "softmax", use_bias=use_bias),
        ]
    )
    model.compile(keras.optimizers.Adam(0.03), "sparse_categorical_crossentropy")
    model.fit(X, Y, epochs=30, verbose=0)
    return model


@pytest.fixture(scope="module")
def model():
    return network()


def features(model, x=X):
    phi = model.layers[0](x).numpy().astype("float64")
    with_bias = len(model.layers[-1].weights) == 2
    return np.c_[phi, np.ones(len(phi))] if with_bias else phi


def weights(model):
    return np.concatenate([np.atleast_2d(w) for w in model.layers[-1].get_weights()]).astype(
        "float64"
    )


def hessian(model, x=X, y=Y):
    """Second derivatives of the negative log likelihood, (F K, F K), by TensorFlow."""
    w = tf.Variable(weights(model))
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            logits = tf.constant(features(model, x)) @ w
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        gradient = inner.gradient(loss, w)
    return outer.jacobian(gradient, w).numpy().reshape(2 * [w.shape.num_elements()])


def covariance_of(posterior):
    """The posterior covariance of W (F, K) as (F K, F K), from its coordinates."""
    size = posterior.mean.size
    columns = []
    for i in range(size):
        coordinates = np.zeros(size)
        coordinates[i] = np.sqrt(posterior.variances.reshape(-1)[i])
        rotated = posterior.curvature.rotate(
            tf.constant(coordinates.reshape(posterior.variances.shape))
        )
        columns.append(np.asarray(rotated).reshape(-1))
    root = np.stack(columns, axis=1)
    return root @ root.T


@pytest.mark.parametrize("use_bias", [True, False])
def test_full_covariance_is_that_of_the_hessian(use_bias):
    model = network(use_bias)
    posterior = LastLayerLaplace(model, X, Y, prior_scale=0.7)
    expected = np.linalg.inv(hessian(model) + np.eye(posterior.mean.size) / 0.49)
    np.testing.assert_allclose(covariance_of(posterior), expected, atol=1e-6)


def test_diagonal_is_that_of_the_hessian(model):
    posterior = LastLayerLaplace(model, X, Y, "diagonal", prior_scale=0.7)
    expected = 1 / (np.diag(hessian(model)) + 1 / 0.49)
    np.testing.assert_allclose(np.diag(covariance_of(posterior)), expected, rtol=1e-5)


def test_kronecker_is_exact_for_one_example_and_for_equal_probabilities(model):
    one = LastLayerLaplace(model, X[:1], Y[:1], "kronecker", prior_scale=0.7)
    expected = np.linalg.inv(hessian(model, X[:1], Y[:1]) + np.eye(one.mean.size) / 0.49)
    np.testing.assert_allclose(covariance_of(one), expected, atol=1e-6)

    flat = network()
    flat.layers[-1].set_weights([0 * w for w in flat.layers[-1].get_weights()])
    several = LastLayerLaplace(flat, X, Y, "kronecker", prior_scale=0.7)
    expected = np.linalg.inv(hessian(flat) + np.eye(several.mean.size) / 0.49)
    np.testing.assert_allclose(covariance_of(several), expected, atol=1e-6)


def test_evidence_is_that_of_the_dense_normal(model):
    posterior = LastLayerLaplace(model, X, Y)
    w, s = weights(model).reshape(-1), posterior.prior_scale
    log_p = np.log(model.predict(X, verbose=0)[np.arange(SIZE), Y]).sum()
    log_prior = -0.5 * (w @ w / s**2 + w.size * np.log(2 * np.pi * s**2))
    log_det = np.linalg.slogdet(hessian(model) + np.eye(w.size) / s**2)[1]
    expected = log_p + log_prior + 0.5 * (w.size * np.log(2 * np.pi) - log_det)
    assert posterior.log_marginal_likelihood() == pytest.approx(expected, abs=1e-4)
    for other in (0.9, 1.1):
        assert posterior.log_marginal_likelihood(other * s) < posterior.log_marginal_likelihood()


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_draws_have_mean_and_covariance(covariance, model):
    posterior = LastLayerLaplace(model, X, Y, covariance, prior_scale=0.7)
    num = 4000
    draw = tf.function(lambda seed: posterior.draw(0, seed)[-2:])
    parts = [draw(tf.constant([s, 1])) for s in range(num)]
    samples = np.stack([np.concatenate([k, b[None]]).reshape(-1) for k, b in parts])
    expected = covariance_of(posterior)
    z = (samples.mean(0) - posterior.mean.reshape(-1)) / np.sqrt(np.diag(expected) / num)
    assert np.abs(z).max() < 4.5
    variances = np.diag(expected)
    spread = np.sqrt((np.outer(variances, variances) + expected**2) / num)
    assert (np.abs(np.cov(samples.T) - expected) / spread).max() < 4.5


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_probit_agrees_with_samples(covariance, model):
    new = vectors(30, seed=5)
    posterior = LastLayerLaplace(model, X, Y, covariance)
    probabilities = posterior.predict(new)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    phi = features(model, new)
    blocks = covariance_of(posterior).reshape(5, K, 5, K)
    variance = np.einsum("nf,fkgk,ng->nk", phi, blocks, phi)
    logits = phi @ weights(model) / np.sqrt(1 + np.pi * variance / 8)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    sampled = Predictor(model, posterior=posterior).predict(new, num_samples=2000, seed=0)
    assert np.abs(sampled - probabilities).mean() < 0.04  # the probit is an approximation
    certain = model.predict(new, verbose=0)
    # Less sure than the network, by samples and by probit.
    assert sampled.max(1).mean() < certain.max(1).mean()
    assert probabilities.max(1).mean() < certain.max(1).mean()


def test_little_prior_scale_is_the_network(model):
    posterior = LastLayerLaplace(model, X, Y, prior_scale=1e-6)
    np.testing.assert_allclose(posterior.predict(X), model.predict(X, verbose=0), atol=1e-5)
    samples = Predictor(model, posterior=posterior).sample(X, 3, seed=0)
    np.testing.assert_allclose(samples[2], model.predict(X, verbose=0), atol=1e-4)


def test_only_the_last_layer_runs_for_each_sample(model):
    predictor = Predictor(model, posterior=LastLayerLaplace(model, X, Y))
    names = [operation.name for operation in predictor._split._suffix.operations]
    assert [n for n in names if "dense" in n] == [model.layers[-1].name]


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_exported_by_value(covariance, model, tmp_path):
    predictor = Predictor(model, posterior=LastLayerLaplace(model, X, Y, covariance))
    tfp_bayes.export_saved_model(predictor, tmp_path / "laplace", num_samples=7)
    served = tf.saved_model.load(tmp_path / "laplace")
    answer = served.predict_uncertainty(X, tf.constant(7), tf.constant([0, 3]))
    expected = predictor.predict_uncertainty(X, 7, seed=(0, 3))
    np.testing.assert_allclose(answer["mean"], expected.mean, atol=1e-6)


def test_better_calibrated_on_new_data():
    model = network(units=50)
    model.fit(X, Y, epochs=300, verbose=0)  # far too long
    x = vectors(2000, seed=9)
    y = x[:, :K].argmax(1)
    posterior = LastLayerLaplace(model, X, Y)
    before = tfp_bayes.metrics.nll(y, model.predict(x, verbose=0))
    assert tfp_bayes.metrics.nll(y, posterior.predict(x)) < before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: LastLayerLaplace(m, X, Y, "block"), "covariance='block'"),
        (lambda m: LastLayerLaplace(m, X, Y, prior_scale=-1.0), "prior_scale=-1.0"),
        (lambda m: LastLayerLaplace(m, X, Y[:5]), "40 integer labels"),
        (lambda m: LastLayerLaplace(m, X, Y + 1), "from 1 to 3"),
        (lambda m: LastLayerLaplace(m, X, np.eye(K)[Y]), "float64"),
        (lambda m: LastLayerLaplace(mlp(), X, Y), "to_deterministic"),
        (
            lambda m: LastLayerLaplace(
                keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]), X, Y
            ),
            "Dense with a softmax",
        ),
    ],
)
def test_refused(make, message, model):
    with pytest.raises(ValueError, match=message):
        make(model)
