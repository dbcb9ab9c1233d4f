"""Tests of the last-layer Laplace approximation against derivatives, dense algebra and samples."""

import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from networks import vectors

import tfp_bayes
from tfp_bayes import LastLayerLaplace, Predictor
from tfp_bayes.inference.softmax_mean import softmax_mean

K, SIZE = 3, 40
X = vectors(SIZE)
Y = X[:, :K].argmax(1)
COVARIANCES = ("full", "kronecker", "shared", "diagonal")


@functools.cache
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
    model.optimizer.build(model.trainable_variables)  # before the trace, which is then the only one
    model.fit(X, Y, epochs=30, verbose=0)
    return model


@pytest.fixture(scope="module")
def model():
    return network()


def scaled(model, factor):
    """Copy a model and multiply its logits by `factor`."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.layers[-1].set_weights([factor * w for w in copy.layers[-1].get_weights()])
    return copy


def features(model, x=X):
    phi = model.layers[0](x).numpy().astype("float64")
    with_bias = len(model.layers[-1].weights) == 2
    return np.c_[phi, np.ones(len(phi))] if with_bias else phi


def weights(model):
    return np.concatenate([np.atleast_2d(w) for w in model.layers[-1].get_weights()]).astype(
        "float64"
    )


def hessian(model, x=X, y=Y):
    """Compute second derivatives of the negative log likelihood (F K, F K) with TensorFlow."""
    w = tf.Variable(weights(model))
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            logits = tf.constant(features(model, x)) @ w
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        gradient = inner.gradient(loss, w)
    # Without vectorization, which takes longer to trace than these few derivatives to compute.
    second = outer.jacobian(gradient, w, experimental_use_pfor=False)
    return second.numpy().reshape(2 * [w.shape.num_elements()])


def covariance_of(posterior):
    """Compute the posterior covariance of W (F, K) as (F K, F K) from its coordinates."""
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

    flat = scaled(model, 0)
    several = LastLayerLaplace(flat, X, Y, "kronecker", prior_scale=0.7)
    expected = np.linalg.inv(hessian(flat) + np.eye(several.mean.size) / 0.49)
    np.testing.assert_allclose(covariance_of(several), expected, atol=1e-6)


def test_shared_is_one_precision_for_all_classes(model):
    phi, p = features(model), model.predict(X, verbose=0).astype("float64")
    weight = (1 - (p**2).sum(1)) / (K - 1)
    contrasts = np.eye(K) - 1 / K
    precision = np.kron((weight[:, None] * phi).T @ phi, contrasts) + np.eye(5 * K) / 0.49
    posterior = LastLayerLaplace(model, X, Y, "shared", prior_scale=0.7)
    np.testing.assert_allclose(covariance_of(posterior), np.linalg.inv(precision), atol=1e-6)


def test_shared_is_exact_for_two_classes_and_for_equal_probabilities(model):
    flat = scaled(model, 0)
    first = keras.layers.Dense(4, "tanh")
    two = keras.Sequential([keras.Input((5,)), first, keras.layers.Dense(2, "softmax")])
    for each, labels in ((flat, Y), (two, Y % 2)):
        shared, full = (
            LastLayerLaplace(each, X, labels, covariance, prior_scale=0.7)
            for covariance in ("shared", "full")
        )
        np.testing.assert_allclose(covariance_of(shared), covariance_of(full), atol=1e-6)
        evidence = full.log_marginal_likelihood(2.0)
        assert shared.log_marginal_likelihood(2.0) == pytest.approx(evidence, abs=1e-5)
        np.testing.assert_allclose(shared.predict(X), full.predict(X), atol=1e-6)


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
    seeds = tf.stack([tf.range(num), tf.ones(num, "int32")], axis=1)

    def weights_of(seed):
        kernel, bias = posterior.draw(0, seed)[-2:]
        return tf.reshape(tf.concat([kernel, bias[None]], axis=0), [-1])

    samples = tf.function(lambda: tf.map_fn(weights_of, seeds, tf.float32))().numpy()
    expected = covariance_of(posterior)
    z = (samples.mean(0) - posterior.mean.reshape(-1)) / np.sqrt(np.diag(expected) / num)
    assert np.abs(z).max() < 4.5
    variances = np.diag(expected)
    spread = np.sqrt((np.outer(variances, variances) + expected**2) / num)
    assert (np.abs(np.cov(samples.T) - expected) / spread).max() < 4.5


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_predictions_are_the_mean_of_samples(covariance, model):
    new = vectors(30, seed=5)
    posterior = LastLayerLaplace(model, X, Y, covariance, prior_scale=2.0)
    probabilities = posterior.predict(new)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    sampled = Predictor(model, posterior=posterior).predict_uncertainty(new, 2000, seed=0)
    z = (sampled.mean - probabilities) / np.sqrt(sampled.epistemic_variance / 2000 + 1e-6)
    assert np.abs(z).max() < 6  # 4.5 plus the integration error of 512 points
    np.testing.assert_allclose(sampled.mean, probabilities, atol=0.03)
    # Predictions are less confident than the network's.
    assert probabilities.max(1).mean() < model.predict(new, verbose=0).max(1).mean() - 0.02


def test_two_classes_are_integrated_exactly_and_what_they_share_does_not_count():
    mean, covariance = np.array([[1.0, -0.5]]), np.array([[[2.0, 0.3], [0.3, 1.0]]])
    logit, variance = 1.5, 2.0 + 1.0 - 0.6
    t = np.linspace(-12, 12, 20001)
    density = np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)
    expected = np.sum(density / (1 + np.exp(-logit - np.sqrt(variance) * t))) * (t[1] - t[0])
    result = softmax_mean(mean, covariance)
    np.testing.assert_allclose(result, [[expected, 1 - expected]], atol=2e-4)
    np.testing.assert_allclose(softmax_mean(mean + 7, covariance + 100), result, atol=1e-6)


def test_many_classes_are_integrated():
    rng = np.random.default_rng(0)
    mean, root = rng.normal(size=(4, 6)), rng.normal(size=(4, 6, 6)) / 2
    covariance = root @ root.transpose(0, 2, 1)
    logits = mean + np.einsum("nij,snj->sni", root, rng.normal(size=(20000, 4, 6)))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(softmax_mean(mean, covariance), p.mean(0), atol=0.012)


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


# Results of laplace-torch 0.3 in float64 on the same data: a torch.nn.Linear after a
# torch.nn.Identity, fitted with
# Laplace(model, "classification", subset_of_weights="last_layer", hessian_structure=...).
# The numbers are log_marginal_likelihood() at prior_precision 4, the prior scale that maximizes it,
# and the variances of _glm_predictive_distribution(NEW[:1]). There is no "kron" with a bias,
# because laplace-torch treats kernel and bias as independent there.
GOLDEN = [
    ("full", True, -103.813696, 1.55197, [0.272085, 0.383327, 0.268136]),
    ("diagonal", True, -104.675881, 1.28187, [0.240625, 0.328597, 0.230689]),
    ("full", False, -95.088988, 1.51934, [0.141544, 0.171822, 0.145848]),
    ("kronecker", False, -95.342199, 1.49675, [0.14387, 0.153721, 0.150435]),
    ("diagonal", False, -95.555127, 1.28677, [0.128275, 0.157414, 0.136193]),
]


@pytest.mark.parametrize(("covariance", "use_bias", "evidence", "scale", "variances"), GOLDEN)
def test_equal_to_laplace_torch(covariance, use_bias, evidence, scale, variances):
    rng = np.random.default_rng(7)
    phi, w, b = (rng.normal(size=size).astype("float32") for size in ((30, 4), (4, 3), 3))
    y = rng.integers(0, 3, 30)
    new = rng.normal(size=(2, 4)).astype("float32")[:1].astype("float64")
    linear = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "softmax", use_bias=use_bias)]
    )
    linear.set_weights([w, b] if use_bias else [w])
    posterior = LastLayerLaplace(linear, phi, y, covariance, prior_scale=0.5)
    assert posterior.log_marginal_likelihood() == pytest.approx(evidence, abs=2e-6)
    assert LastLayerLaplace(linear, phi, y, covariance).prior_scale == pytest.approx(scale, 1e-4)
    new = np.c_[new, 1.0] if use_bias else new
    found = posterior.curvature.logit_covariance(new, posterior.variances)[0]
    np.testing.assert_allclose(np.diag(found), variances, atol=1e-6)


@pytest.fixture(scope="module")
def certain():
    """A network that is certain of its 40 training examples and often wrong on new data."""
    return scaled(network(units=50), 20)


def test_validation_data_choose_a_scale_that_helps_on_new_data(certain):
    x = vectors(1000, seed=9)
    y = x[:, :K].argmax(1)
    posterior = LastLayerLaplace(certain, X, Y, validation_data=(x[:500], y[:500]))
    nll = tfp_bayes.metrics.nll
    p = posterior.predict(x)
    assert nll(y[500:], p[500:]) < 0.7 * nll(y[500:], certain.predict(x[500:], verbose=0))
    for scale in (0.5, 2):
        other = LastLayerLaplace(certain, X, Y, prior_scale=scale * posterior.prior_scale)
        assert nll(y[:500], p[:500]) < nll(y[:500], other.predict(x[:500]))
    same = LastLayerLaplace(
        certain,
        X,
        Y,
        validation_data=tf.data.Dataset.from_tensor_slices((x[:500], y[:500])).batch(99),
    )
    assert same.prior_scale == pytest.approx(posterior.prior_scale, 1e-4)


def test_validation_data_leave_a_calibrated_network_as_it_is():
    exact = keras.Sequential([keras.Input((5,)), keras.layers.Dense(K, "softmax")])
    x = vectors(1000, seed=3)
    p = exact.predict(x, verbose=0)
    y = (p.cumsum(1) < np.random.default_rng(0).uniform(size=(1000, 1))).sum(1).clip(max=K - 1)
    posterior = LastLayerLaplace(exact, x[:100], y[:100], validation_data=(x, y))
    difference = tfp_bayes.metrics.nll(y, posterior.predict(x)) - tfp_bayes.metrics.nll(y, p)
    assert difference < 0.002


def test_warns_where_evidence_contradicts_predictions(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        LastLayerLaplace(model, X, Y)
    sure = scaled(model, 8)
    y = sure.predict(X, verbose=0).argmax(1)
    batches = tf.data.Dataset.from_tensor_slices((X, y)).batch(9)
    for data in ((X, y), (batches,)):
        with pytest.warns(UserWarning, match="Pass validation_data"):
            LastLayerLaplace(sure, *data)


def test_evidence_without_a_largest_value_is_refused(certain):
    with pytest.raises(ValueError, match="validation_data or prior_scale"):
        LastLayerLaplace(certain, X, Y)
