"""Accuracy of the closed-form layer on ill-conditioned, offset, weighted and removed data."""

import operator
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import BayesianRidge
from test_bayesian_linear import NEW, SIGMA, D, F, N, X, Y, each_variant, linear, weights

from tfp_bayes.layers import BayesianLinear

# Rounding.


def exact_ridge(x, y, ratio):
    """Return the posterior mean of one output, computed in rational numbers."""
    x, y = ([[Fraction(float(v)) for v in row] for row in np.atleast_2d(a)] for a in (x, y))
    columns = list(zip(*x, strict=True))
    size = len(columns)
    a = [[sum(map(operator.mul, u, v)) for v in [*columns, y[0]]] for u in columns]
    for i in range(size):
        a[i][i] += Fraction(ratio)
    for i in range(size):
        for j in range(size):
            if i != j:
                factor = a[j][i] / a[i][i]
                a[j] = [v - factor * w for v, w in zip(a[j], a[i], strict=True)]
    return np.array([float(a[i][size] / a[i][i]) for i in range(size)])


@pytest.mark.parametrize("rows", [20, 100], ids=["reflections", "many rows"])
def test_rounding_grows_with_the_condition_number_not_its_square(rows):
    rng = np.random.default_rng(4)
    for condition, tolerance in ((1e2, 1e-11), (1e4, 1e-11), (1e6, 1e-9), (1e8, 1e-7)):
        q = np.linalg.qr(rng.normal(size=(rows, 5)))[0]
        x = q * np.geomspace(1, 1 / condition, 5) @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
        y = x @ rng.normal(size=5) + 1e-3 * rng.normal(size=rows)
        expected = exact_ridge(x, y, 1e-20)
        layer = linear(x, y, units=1, prior_scale=1e10)
        error = np.abs(layer.kernel_loc.numpy()[:, 0] - expected).max() / np.abs(expected).max()
        assert error < tolerance, condition
        for i in range(0, rows, 10):  # also in small updates
            data = x[i : i + 10], y[i : i + 10]
            layer.update(*data) if i else layer.condition(*data)
        error = np.abs(layer.kernel_loc.numpy()[:, 0] - expected).max() / np.abs(expected).max()
        assert error < tolerance, condition


def test_units_of_features_do_not_matter_for_rounding():
    x = np.random.default_rng(5).normal(size=(200, 3)) * [1e-6, 1.0, 1e6]
    y = x @ [1e6, 1.0, 1e-6]
    kernel = linear(x, y, units=1, prior_scale=1e12).kernel_loc.numpy()[:, 0]
    np.testing.assert_allclose(kernel, [1e6, 1.0, 1e-6], rtol=1e-10)


def test_targets_without_noise_leave_no_floor():
    x = np.random.default_rng(5).normal(size=(200, 3))
    layer = linear(x, x @ [1.0, 2.0, 3.0], units=1, optimize_evidence=True)
    assert layer.noise_scales.numpy()[0] < 1e-11


@pytest.mark.parametrize(
    ("offset", "spread", "noise"),
    [(2.46e6, 300.0, 0.5), (1.7e9, 1e5, 60.0)],
    ids=["Julian days", "Unix seconds"],
)
@pytest.mark.parametrize("arguments", [{}, {"per_output": True}])
def test_offsets_of_features_and_targets_do_not_matter(offset, spread, noise, arguments):
    rng = np.random.default_rng(6)
    x = spread * rng.normal(size=(400, 1))
    y = 2 * x + noise * rng.normal(size=(400, 1))
    arguments = {"units": 1, "use_bias": True, "optimize_evidence": True, **arguments}
    plain = linear(x, y, **arguments)
    # In double precision, adding the offsets rounds the data by far less than their noise.
    x, y = x + offset, y + 3 * offset
    layer = linear(x, y, **arguments)
    assert layer.noise_scales.numpy()[0] == pytest.approx(noise, rel=0.1)
    for name in ("prior_scales", "noise_scales", "kernel_loc"):
        np.testing.assert_allclose(getattr(layer, name), getattr(plain, name), rtol=1e-6)
    assert layer.log_marginal_likelihood() == pytest.approx(
        plain.log_marginal_likelihood(), rel=1e-8
    )
    p, q = layer.predictive(x[:5]), plain.predictive(x[:5] - offset)
    np.testing.assert_allclose(p.mean - 3 * offset, q.mean, atol=1e-5 * noise)
    np.testing.assert_allclose(p.epistemic_variance, q.epistemic_variance, rtol=1e-6)
    # In a single-precision model the error must not exceed the rounding of the outputs.
    outputs = layer(x[:5].astype("float32"))
    resolution = np.spacing(np.float32(4 * offset)) + 2 * np.spacing(np.float32(offset))
    error = np.abs(outputs - p.mean) - 5 * np.sqrt(p.epistemic_variance)
    assert error.max() < resolution


# The bias.


def test_a_bias_has_a_flat_prior():
    """The posterior is the limit of a joint normal whose bias has a wide prior."""
    wide, x, y = 1e3, X[:8] + 3, Y[:8] - 5
    layer = linear(x, y, prior_scale=0.7, noise_scale=0.3, output_covariance=SIGMA, use_bias=True)
    every = np.concatenate([x, NEW])
    joint = np.kron(0.49 * every @ every.T + wide**2, SIGMA)
    known, new = slice(0, 8 * D), slice(8 * D, None)
    total = joint[known, known] + 0.09 * np.kron(np.eye(8), SIGMA)
    gain = np.linalg.solve(total, joint[known, new]).T
    p = layer.predictive(NEW)
    np.testing.assert_allclose(p.mean, (gain @ y.ravel()).reshape(-1, D), rtol=1e-5)
    variance = np.diag(joint[new, new] - gain @ joint[known, new])
    np.testing.assert_allclose(p.epistemic_variance.ravel(), variance, rtol=1e-4)
    root = np.linalg.cholesky(2 * np.pi * total)
    log_evidence = -np.log(np.diag(root)).sum() - y.ravel() @ np.linalg.solve(total, y.ravel()) / 2
    flat = log_evidence + np.log(2 * np.pi * wide**2) * D / 2 + np.linalg.slogdet(SIGMA)[1] / 2
    assert layer.log_marginal_likelihood() == pytest.approx(flat, rel=1e-5)
    np.testing.assert_allclose(
        x @ layer.kernel_loc + layer.bias_loc.numpy(), layer.predictive(x).mean, rtol=1e-9
    )


@pytest.mark.parametrize("arguments", [{"use_bias": True}, {"per_output": True}])
def test_evidence_is_the_product_of_predictions(arguments):
    """The evidence equals the product of predictive densities, also with a bias.

    With a bias the first example has likelihood 1.
    """
    layer = BayesianLinear(D, noise_scale=0.5, prior_scale=0.8, **{"use_bias": False, **arguments})
    layer.build((None, F))
    total = 0.0
    for x, y in zip(X[:, None], Y[:, None]):
        if layer.num_conditioned or not layer.use_bias:
            p = layer.predictive(x)
            scale = np.sqrt(p.epistemic_variance + p.noise_variance)
            total += scipy.stats.norm(p.mean, scale).logpdf(y).sum()
        layer.update(x, y)
    assert layer.log_marginal_likelihood() == pytest.approx(total, rel=1e-9)


def test_scikit_learn_agrees_on_an_intercept():
    ridge = BayesianRidge(tol=1e-12, max_iter=10_000).fit(X + 7, Y[:, 0] - 3)
    s, sigma = ridge.lambda_**-0.5, ridge.alpha_**-0.5
    layer = linear(X + 7, Y[:, :1] - 3, units=1, use_bias=True, prior_scale=s, noise_scale=sigma)
    np.testing.assert_allclose(layer.kernel_loc.numpy()[:, 0], ridge.coef_, rtol=1e-8)
    np.testing.assert_allclose(layer.bias_loc.numpy()[0], ridge.intercept_, rtol=1e-8)
    p, (mean, std) = layer.predictive(NEW), ridge.predict(NEW, return_std=True)
    np.testing.assert_allclose(p.mean[:, 0], mean, rtol=1e-8)
    # scikit-learn ignores the uncertainty of the intercept.
    total = p.epistemic_variance[:, 0] + p.noise_variance - sigma**2 / N
    np.testing.assert_allclose(np.sqrt(total), std, rtol=1e-8)


# Weights of examples, and kinds of inputs.


@pytest.mark.parametrize(
    "arguments", [{"use_bias": True}, {"per_output": True}, {"output_covariance": SIGMA}]
)
def test_sample_weights_count_examples(arguments):
    counts = np.arange(N) % 3
    twice = np.repeat(np.arange(N), counts)
    layer = linear(X[twice], Y[twice], **arguments, optimize_evidence=True)
    other = BayesianLinear(D, seed=0, **{"use_bias": False, **arguments})
    other.condition(X, Y, optimize_evidence=True, sample_weight=counts)
    for name, value in weights(other).items():
        np.testing.assert_allclose(weights(layer)[name], value, rtol=1e-6, atol=1e-9)
    batches = [(X[:10], Y[:10], counts[:10]), (X[10:], Y[10:], counts[10:])]
    with pytest.raises(ValueError, match="sample weights inside the dataset"):
        other.condition(batches, sample_weight=counts)
    other.condition(batches)
    other.downdate(batches[1:])
    expected = linear(X[:10], Y[:10], **arguments)
    expected.prior_scales.assign(other.prior_scales)
    expected.noise_scales.assign(other.noise_scales)
    expected.condition(X[:10], Y[:10], sample_weight=counts[:10])
    for name, value in weights(expected).items():
        np.testing.assert_allclose(weights(other)[name], value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("bad", [-np.ones(N), np.ones(5), np.full(N, np.nan)])
def test_bad_sample_weights(bad):
    with pytest.raises(ValueError, match="sample_weight"):
        linear().condition(X, Y, sample_weight=bad)


def test_integer_inputs():
    x = np.arange(12).reshape(3, F)
    layer = linear(noise_scale=1e-6)
    expected = x @ layer.kernel_loc.numpy()
    np.testing.assert_allclose(layer(x), expected, atol=1e-3)
    assert layer(x).dtype == "float32"


def test_targets_that_do_not_vary_keep_their_scales():
    y = np.stack([np.full(N, 2.0), Y[:, 0]], axis=1)
    layer = linear(X, y, units=2, use_bias=True, per_output=True, optimize_evidence=True)
    assert layer.noise_scales.numpy()[0] == 1.0
    assert layer.noise_scales.numpy()[1] < 0.9
    with pytest.raises(ValueError, match="two or more with a bias"):
        layer.condition(X[:1], y[:1], optimize_evidence=True)


# Removal of examples.


@each_variant
def test_forgets_what_outweighs_the_rest_or_refuses(arguments):
    layer = linear(X[:15], Y[:15], **arguments)
    expected = weights(layer)
    layer.update(1e2 * X[15:], Y[15:])
    layer.downdate(1e2 * X[15:], Y[15:])
    for name, value in weights(layer).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-8, atol=1e-8)
    layer.update(1e8 * X[15:], Y[15:])
    with pytest.raises(ValueError, match=r"outweigh the others.*condition\(\) on those that stay"):
        layer.downdate(1e8 * X[15:], Y[15:])
    layer.condition(X[:15], Y[:15])
    layer.update(X[15:], 1e9 * Y[15:])
    with pytest.raises(ValueError, match="outweigh the others"):
        layer.downdate(X[15:], 1e9 * Y[15:])


@pytest.mark.parametrize("arguments", [{"use_bias": True}, {"output_covariance": SIGMA}])
def test_forgetting_all_leaves_the_prior(arguments):
    layer = linear(1e3 * X, Y, **arguments)
    layer.downdate(1e3 * X, Y)
    prior = BayesianLinear(D, seed=0, **{"use_bias": False, **arguments})
    prior.build((None, F))
    for name, value in weights(prior).items():
        np.testing.assert_array_equal(weights(layer)[name], value)
    assert np.isfinite(layer(NEW)).all()
