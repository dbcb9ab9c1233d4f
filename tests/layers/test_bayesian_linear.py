"""Tests of the closed-form layer against TFP, scikit-learn, brute force and its own samples."""

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
import tensorflow_probability as tfp
from sklearn.linear_model import BayesianRidge

from tfp_bayes import Predictor
from tfp_bayes.layers import BayesianLinear

RNG = np.random.default_rng(0)
N, F, D = 30, 4, 3
X = RNG.normal(size=(N, F))
Y = X @ RNG.normal(size=(F, D)) + 0.3 * RNG.normal(size=(N, D))
NEW = RNG.normal(size=(5, F)) * 2
SIGMA = np.array([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]])


def linear(*data, units=D, optimize_evidence=False, **arguments):
    layer = BayesianLinear(units, **{"use_bias": False, "seed": 0, **arguments})
    layer.condition(*(data or (X, Y)), optimize_evidence=optimize_evidence)
    return layer


VARIANTS = {
    "exact": {},
    "bias": {"use_bias": True},
    "mean field": {"posterior": "mean_field"},
    "per output": {"per_output": True},
    "mean field, per output": {"posterior": "mean_field", "per_output": True},
    "covariance": {"output_covariance": SIGMA},
    "inverse Wishart": {"output_covariance": "inverse_wishart"},
}
each_variant = pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS)


# The posterior.


def test_tfp_agrees():
    layer = linear(prior_scale=0.7, noise_scale=0.3)

    def scaled_identity(size, scale):
        return tf.linalg.LinearOperatorScaledIdentity(size, tf.constant(scale, "float64"))

    for d in range(D):
        mean, precision = tfp.distributions.mvn_conjugate_linear_update(
            scaled_identity(F, 0.7),
            X,
            scaled_identity(N, 0.3),
            Y[:, d],
        )
        np.testing.assert_allclose(layer.kernel_loc.numpy()[:, d], mean, rtol=1e-10)
    root = layer.root.numpy()[0] / 0.3
    np.testing.assert_allclose(root.T @ root, precision.to_dense(), rtol=1e-10)


def test_brute_force_conditioning_agrees():
    """The layer equals the joint normal of targets and new outputs, conditioned on the targets."""
    layer = linear(prior_scale=0.7, noise_scale=0.3, output_covariance=SIGMA)
    every = np.concatenate([X, NEW])
    joint = np.kron(0.7**2 * every @ every.T, SIGMA)
    known, new = slice(0, N * D), slice(N * D, None)
    noise = 0.3**2 * np.kron(np.eye(N), SIGMA)
    gain = np.linalg.solve(joint[known, known] + noise, joint[known, new]).T
    mean = (gain @ Y.ravel()).reshape(-1, D)
    covariance = joint[new, new] - gain @ joint[known, new]
    p = layer.predictive(NEW, covariance=True)
    np.testing.assert_allclose(p.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(p.epistemic_variance.ravel(), np.diag(covariance), rtol=1e-9)
    np.testing.assert_allclose(p.noise_variance, 0.09 * np.diag(SIGMA))
    blocks = [covariance[i : i + D, i : i + D] + 0.09 * SIGMA for i in range(0, 5 * D, D)]
    np.testing.assert_allclose(p.covariance, blocks, rtol=1e-9, atol=1e-12)
    log_evidence = scipy.stats.multivariate_normal(cov=joint[known, known] + noise).logpdf(
        Y.ravel()
    )
    assert layer.log_marginal_likelihood() == pytest.approx(log_evidence, rel=1e-10)


def test_scikit_learn_agrees():
    """Predictions agree at the precisions that BayesianRidge finds, and so do the precisions."""
    flat = {f"{name}_{i}": 0.0 for name in ("alpha", "lambda") for i in (1, 2)}
    for d in range(D):
        ridge = BayesianRidge(fit_intercept=False, max_iter=10_000, tol=1e-12, **flat)
        ridge.set_params(compute_score=True).fit(X, Y[:, d])
        layer = linear(X, Y[:, d], units=1, optimize_evidence=True)
        s, sigma = ridge.lambda_**-0.5, ridge.alpha_**-0.5
        np.testing.assert_allclose(layer.prior_scales.numpy(), [s], rtol=1e-5)
        np.testing.assert_allclose(layer.noise_scales.numpy(), [sigma], rtol=1e-5)
        layer = linear(X, Y[:, d], units=1, prior_scale=float(s), noise_scale=float(sigma))
        np.testing.assert_allclose(layer.kernel_loc.numpy()[:, 0], ridge.coef_, rtol=1e-6)
        mean, std = ridge.predict(NEW, return_std=True)
        p = layer.predictive(NEW)
        np.testing.assert_allclose(p.mean[:, 0], mean, rtol=1e-6)
        total = p.epistemic_variance[:, 0] + p.noise_variance
        np.testing.assert_allclose(np.sqrt(total), std, rtol=1e-6)
        assert layer.log_marginal_likelihood() == pytest.approx(ridge.scores_[-1], rel=1e-8)


def test_the_seeds_mean_field():
    """The mean is exact, and the variance of each weight depends only on its own feature."""
    exact, layer = (
        linear(prior_scale=0.7, noise_scale=0.3, posterior=q)
        for q in ("matrix_normal", "mean_field")
    )
    p = layer.predictive(NEW)
    np.testing.assert_array_equal(p.mean, exact.predictive(NEW).mean)
    variance = np.array([1 / ((X[:, k] ** 2).sum() / 0.09 + 1 / 0.49) for k in range(F)])
    np.testing.assert_allclose(p.epistemic_variance, np.tile(NEW**2 @ variance[:, None], D))
    log_det = -2 * np.log(np.diag(exact.root.numpy()[0]) / 0.3).sum()
    assert np.log(variance).sum() < log_det


def test_learned_output_covariance():
    """The evidence is that of a matrix t: each example is multivariate t given those before."""
    layer = BayesianLinear(D, use_bias=False, noise_scale=0.5, output_covariance="inverse_wishart")
    assert layer.output_covariance == "inverse_wishart"
    layer.build((None, F))
    log_evidence = 0.0
    for x, y in zip(X, Y):
        v = 0.25 * (np.linalg.solve(layer.root.numpy()[0].T, x) ** 2).sum()
        df = layer.degrees.numpy() - D + 1
        shape = (0.25 + v) * layer.scatter.numpy() / df
        t = scipy.stats.multivariate_t(x @ layer.kernel_loc.numpy(), shape, df)
        log_evidence += t.logpdf(y)
        layer.update(x[None], y[None])
    assert layer.log_marginal_likelihood() == pytest.approx(log_evidence, rel=1e-9)
    p = layer.predictive(NEW, covariance=True)
    total = p.epistemic_variance + p.noise_variance
    np.testing.assert_allclose(np.diagonal(p.covariance, axis1=1, axis2=2), total)


def test_learned_output_covariance_is_that_of_the_data():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20_000, F))
    y = x @ np.ones((F, D)) + 0.5 * rng.multivariate_normal(np.zeros(D), SIGMA, len(x))
    p = linear(x, y, noise_scale=0.5, output_covariance="inverse_wishart").predictive(
        NEW, covariance=True
    )
    np.testing.assert_allclose(p.covariance[0], 0.25 * SIGMA, atol=0.02)


# Updates.


def weights(layer):
    return {v.name: v.numpy() for v in layer.weights if v.name != "seed_generator_state"}


@each_variant
def test_any_split_gives_the_posterior_of_all(arguments):
    layer = linear(X[:1], Y[:1], **arguments)
    layer.update(X[1:1], Y[1:1])
    layer.update(X[1:20], Y[1:20])
    layer.update([(X[20:25], Y[20:25]), (X[25:], Y[25:])])
    assert layer.num_conditioned == N
    for name, value in weights(linear(**arguments)).items():
        np.testing.assert_allclose(weights(layer)[name], value, rtol=1e-10, atol=1e-10)


@each_variant
def test_forgets(arguments):
    layer = linear(**arguments)
    layer.downdate(X[10:], Y[10:])
    for name, value in weights(linear(X[:10], Y[:10], **arguments)).items():
        np.testing.assert_allclose(weights(layer)[name], value, rtol=1e-9, atol=1e-9)
    layer.condition(X, Y)  # discards what was learned before
    assert layer.num_conditioned == N


def test_forgets_only_what_it_knows():
    layer = linear()
    before = weights(layer)
    with pytest.raises(ValueError, match="not among its 30"):
        layer.downdate(100 * X[:2], Y[:2])
    with pytest.raises(ValueError, match="Expected examples that"):
        layer.downdate(np.zeros((31, F)), np.zeros((31, D)))
    for name, value in weights(layer).items():
        np.testing.assert_array_equal(value, before[name])


def test_reads_a_dataset_once():
    layer = BayesianLinear(D, use_bias=False)
    layer.condition(tf.data.Dataset.from_tensor_slices((X, Y)).batch(7))
    np.testing.assert_allclose(layer.kernel_loc, linear().kernel_loc, rtol=1e-10)
    with pytest.raises(ValueError, match="empty dataset"):
        layer.condition([])


# Scales from the data.


@pytest.mark.parametrize("per_output", [False, True])
def test_evidence_is_largest(per_output):
    layer = linear(optimize_evidence=True, per_output=per_output)
    best = layer.log_marginal_likelihood()
    scales = layer.prior_scales.numpy(), layer.noise_scales.numpy()
    assert len(np.unique(scales[1])) == (D if per_output else 1)
    for i, variable in enumerate((layer.prior_scales, layer.noise_scales)):
        for factor in (0.95, 1.05):
            variable.assign(scales[i] * factor)
            layer.condition(X, Y)
            assert layer.log_marginal_likelihood() < best
        variable.assign(scales[i])


def test_evidence_of_outputs_adds_up():
    alone = [linear(X, Y[:, d], units=1, optimize_evidence=True) for d in range(D)]
    layer = linear(optimize_evidence=True, per_output=True)
    total = sum(each.log_marginal_likelihood() for each in alone)
    assert layer.log_marginal_likelihood() == pytest.approx(total)
    for d in range(D):
        np.testing.assert_allclose(
            layer.predictive(NEW).epistemic_variance[:, d],
            alone[d].predictive(NEW).epistemic_variance[:, 0],
            rtol=1e-5,
        )


def test_evidence_with_learned_covariance_moves_the_prior_alone():
    layer = linear(output_covariance="inverse_wishart", noise_scale=0.4, optimize_evidence=True)
    best = layer.log_marginal_likelihood()
    np.testing.assert_array_equal(layer.noise_scales, 0.4)
    scale = layer.prior_scales.numpy()
    for factor in (0.9, 1.1):
        layer.prior_scales.assign(scale * factor)
        layer.condition(X, Y)
        assert layer.log_marginal_likelihood() < best


# In a model.


def model_of(layer):
    inputs = keras.Input((F,))
    return keras.Model(inputs, keras.layers.Activation("sigmoid")(layer(inputs)))


@each_variant
def test_samples_have_the_moments_of_the_predictive(arguments):
    layer = linear(prior_scale=0.7, noise_scale=1.0, **arguments)
    num_samples = 20_000

    @tf.function
    def draws():
        return tf.map_fn(
            lambda s: layer._draw(tf.stack([s, 7])),
            tf.range(num_samples),
            fn_output_signature=("float64", "float64"),
        )

    kernel, bias = draws()
    samples = np.einsum("nf,sfd->snd", NEW, kernel.numpy()) + bias.numpy()[:, None]
    p = layer.predictive(NEW)
    z = (samples.mean(0) - p.mean) / np.sqrt(p.epistemic_variance / num_samples)
    assert np.abs(z).max() < 4
    # The variance of a sample variance is 2 / S for a normal and slightly larger for a t.
    z = (samples.var(0) / p.epistemic_variance - 1) / np.sqrt(2.4 / num_samples)
    assert np.abs(z).max() < 4
    if layer.output_covariance is not None:
        total = layer.predictive(NEW, covariance=True).covariance
        scale = np.sqrt(np.diagonal(total, axis1=1, axis2=2))
        expected = total / scale[:, :, None] / scale[:, None, :]
        for n in range(5):
            actual = np.corrcoef(samples[:, n].T)
            np.testing.assert_allclose(actual, expected[n], atol=5 / np.sqrt(num_samples))


def test_saved_with_its_posterior(tmp_path):
    """One model has all variants, since most of the time of a graph is the same for one layer."""
    inputs = keras.Input((F,))
    variants = [BayesianLinear(D, seed=0, **arguments) for arguments in VARIANTS.values()]
    outputs = keras.layers.Concatenate()([layer(inputs) for layer in variants])
    model = keras.Model(inputs, keras.layers.Activation("sigmoid")(outputs))
    for layer in variants:
        layer.condition(X, Y, optimize_evidence=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    expected = Predictor(model, "bernoulli").predict_uncertainty(NEW, 10, seed=0)
    actual = Predictor(loaded, "bernoulli").predict_uncertainty(NEW, 10, seed=0)
    np.testing.assert_array_equal(actual.mean, expected.mean)
    assert actual.epistemic_variance.min() > 0
    for layer, name in zip(variants, VARIANTS, strict=True):
        twin = loaded.get_layer(layer.name)
        for one, other in zip(layer.predictive(NEW, True), twin.predictive(NEW, True)):
            np.testing.assert_array_equal(one, other, err_msg=name)
        twin.update(NEW, Y[:5])
        assert twin.num_conditioned == N + 5


def test_says_that_it_is_the_prior():
    layer = BayesianLinear(D, prior_scale=2.0, use_bias=False)
    layer.build((None, F))
    assert layer.num_conditioned == 0
    with pytest.warns(UserWarning, match="this is the prior"):
        p = layer.predictive(NEW)
    np.testing.assert_array_equal(p.mean, 0)
    np.testing.assert_allclose(p.epistemic_variance[:, 0], 4 * (NEW**2).sum(1))


# Difficult features.


def test_fewer_examples_than_features():
    x = np.random.default_rng(2).normal(size=(6, 40))
    layer = linear(x, Y[:6], prior_scale=0.5, noise_scale=0.1)
    kernel = 0.25 * x @ x.T + 0.01 * np.eye(6)  # the dual form
    np.testing.assert_allclose(
        layer.kernel_loc, 0.25 * x.T @ np.linalg.solve(kernel, Y[:6]), rtol=1e-9
    )


def test_ill_conditioned_single_precision_features():
    rng = np.random.default_rng(3)
    q = np.linalg.qr(rng.normal(size=(50, 8)))[0]
    x = (q * np.logspace(0, -8, 8) @ np.linalg.qr(rng.normal(size=(8, 8)))[0]).astype("float32")
    layer = linear(x, rng.normal(size=50), units=1, noise_scale=0.01)
    p = layer.predictive(x)
    assert (p.epistemic_variance > 0).all()
    assert np.isfinite(p.mean).all()


@pytest.mark.parametrize(
    ("features", "targets", "message"),
    [
        (X[:, :2], Y, r"shape \(N, 4\).*shape \(30, 2\)"),
        (X[0], Y[0], "Expected"),
        (X, Y[:, :2], r"shape \(N, 3\).*to_categorical"),
        (X, Y[:5], "as many `targets`"),
        (X * np.nan, Y, "120 values not finite"),
        (X, Y * np.inf, "90 values not finite"),
    ],
)
def test_bad_data(features, targets, message):
    layer = linear()
    with pytest.raises(ValueError, match=message):
        layer.update(features, targets)
    assert layer.num_conditioned == N


# Fewer examples than features.


@pytest.mark.parametrize(
    "arguments", [{}, {"per_output": True}, {"output_covariance": "inverse_wishart"}]
)
def test_evidence_of_few_examples_through_the_dual(arguments):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 40))
    y = x @ rng.normal(size=(40, D)) / 10 + rng.normal(size=(30, D))
    by_dual = linear(x, y, optimize_evidence=True, **arguments)
    # A dataset delivers the examples in batches, so only the Gram matrix is available.
    by_gram = linear([(x[:12], y[:12]), (x[12:], y[12:])], optimize_evidence=True, **arguments)
    for name in ("prior_scales", "noise_scales", "kernel_loc"):
        a, b = (getattr(layer, name).numpy() for layer in (by_dual, by_gram))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert by_dual.log_marginal_likelihood() == pytest.approx(by_gram.log_marginal_likelihood())


# Batches.


@each_variant
def test_greedy_batch_equals_updating(arguments):
    layer = linear(prior_scale=0.8, noise_scale=0.4, **arguments)
    candidates = RNG.normal(size=(20, F))
    candidates[7] = 3 * candidates[3]
    batch = layer.greedy_batch(candidates, 6)
    expected = []
    for _ in range(6):
        total = layer.predictive(candidates).epistemic_variance
        # A learned output covariance scales all variances by the same factor.
        total = total.sum(1)
        total[expected] = -np.inf
        expected.append(int(total.argmax()))
        # Targets equal to the predictions change only the variances.
        row = candidates[expected[-1:]]
        layer.update(row, layer.predictive(row).mean)
    assert batch.tolist() == expected


def test_greedy_batch_is_batch_bald_of_normals():
    layer = linear(X, Y[:, :1], units=1, prior_scale=0.8, noise_scale=0.4)
    candidates = RNG.normal(size=(12, F))
    kernel = candidates @ np.linalg.solve(X.T @ X / 0.16 + np.eye(F) / 0.64, candidates.T)
    batch = []
    for _ in range(4):
        left = [n for n in range(12) if n not in batch]

        def information(n, chosen=tuple(batch)):
            at = [*chosen, n]
            return np.linalg.slogdet(np.eye(len(at)) + kernel[np.ix_(at, at)] / 0.16)[1]

        batch.append(max(left, key=information))
    assert layer.greedy_batch(candidates, 4).tolist() == batch


def test_greedy_batch_refuses():
    for query_size, message in ((6, "at most 5, the number"), (2.5, "Received: query_size=2.5")):
        with pytest.raises(ValueError, match=message):
            linear().greedy_batch(NEW, query_size)
