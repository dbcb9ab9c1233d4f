"""Methods of a prediction: scores of labels, intervals, rows and parts of the variance."""

import dataclasses

import keras
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import tensorflow as tf
from networks import vectors

from tfp_bayes import Prediction, Predictor
from tfp_bayes.layers import MCDropout, NormalParameters
from tfp_bayes.prediction import concatenate, streaming
from tfp_bayes.prediction.likelihoods import get_likelihood

RNG = np.random.default_rng(0)


def predicted(samples, likelihood, keep=True):
    """Compute a prediction from samples (S, N, ..., K) one by one, as the predictor does."""
    samples = tf.constant(samples, tf.float32)
    likelihood_ = get_likelihood(likelihood)
    moments = streaming.first(samples[0], likelihood_)
    for s in range(1, len(samples)):
        moments = streaming.add(moments, samples[s], s + 1, likelihood_)
    result = streaming.measures(moments, len(samples), likelihood_, tf.float32)
    arrays = {name: value.numpy() for name, value in result.items()}
    return Prediction(**arrays, likelihood=likelihood, samples=samples.numpy() if keep else None)


def normal_samples(num_samples=6, shape=(7, 2)):
    loc = RNG.normal(size=(num_samples, *shape))
    return np.concatenate([loc, RNG.uniform(0.1, 2, loc.shape)], axis=-1)


CLASSES = RNG.dirichlet([0.5] * 4, (9, 30))
YES_NO = RNG.beta(0.5, 0.5, (9, 30, 3))
NORMAL = normal_samples()


# Variance.


@pytest.mark.parametrize(
    ("samples", "likelihood"),
    [(CLASSES, "categorical"), (YES_NO, "bernoulli"), (NORMAL, "normal")],
)
def test_variance_is_that_of_the_target(samples, likelihood):
    p = predicted(samples, likelihood)
    if likelihood == "normal":
        loc, scale = np.split(samples, 2, axis=-1)
        expected = (loc**2 + scale**2).mean(0) - loc.mean(0) ** 2
    else:
        expected = samples.mean(0) * (1 - samples.mean(0))  # variance of a label of 0 or 1
    np.testing.assert_allclose(p.variance, expected, atol=1e-5)
    np.testing.assert_allclose(p.std**2, expected, atol=1e-5)
    np.testing.assert_array_equal(p.variance, p.epistemic_variance + p.aleatoric_variance)


# Scores of labels.


def test_log_prob_of_classes_is_sklearns_log_loss():
    y = RNG.integers(0, 4, 30)
    p = predicted(CLASSES, "categorical")
    expected = sklearn.metrics.log_loss(y, CLASSES.mean(0), labels=range(4))
    assert -p.log_prob(y).mean() == pytest.approx(expected, rel=1e-6)
    for wrong in (y[:5], y + 3, -y, y[:, None], y.astype(float), np.eye(4)[y]):
        with pytest.raises(ValueError, match=r"integer labels of shape \(30,\) in \[0, 4\)"):
            p.log_prob(wrong)


def test_log_prob_of_yes_and_no():
    y = RNG.integers(0, 2, (30, 3))
    p = predicted(YES_NO, "bernoulli")
    expected = scipy.stats.bernoulli(YES_NO.mean(0)).logpmf(y).sum(-1)
    np.testing.assert_allclose(p.log_prob(y), expected, rtol=1e-4)
    one = predicted(YES_NO[..., :1], "bernoulli")
    np.testing.assert_array_equal(one.log_prob(y[:, 0]), one.log_prob(y[:, :1]))
    with pytest.raises(ValueError, match="labels of 0 and 1"):
        p.log_prob(y + 1)
    with pytest.raises(ValueError, match=r"shape \(30, 3\)"):
        p.log_prob(y[:, 0])


def test_log_prob_of_targets_is_that_of_the_mixture():
    y = RNG.normal(size=(7, 2))
    loc, scale = np.split(NORMAL, 2, axis=-1)
    density = scipy.stats.norm(loc, scale).pdf(y).prod(-1).mean(0)
    np.testing.assert_allclose(predicted(NORMAL, "normal").log_prob(y), np.log(density), rtol=1e-5)
    p = predicted(NORMAL, "normal", keep=False)
    expected = scipy.stats.norm(p.mean, p.std).logpdf(y).sum(-1)
    np.testing.assert_allclose(p.log_prob(y), expected, rtol=1e-5)


def test_scores_are_those_of_sklearn():
    p, y = predicted(CLASSES, "categorical"), RNG.integers(0, 4, 30)
    scores = p.score(y.tolist())
    assert scores.accuracy == sklearn.metrics.accuracy_score(y, CLASSES.mean(0).argmax(1))
    assert scores.nll == pytest.approx(
        sklearn.metrics.log_loss(y, p.mean, labels=range(4)), rel=1e-6
    )
    error = sklearn.metrics.root_mean_squared_error(np.eye(4)[y].ravel(), p.mean.ravel())
    assert scores.rmse == pytest.approx(error, rel=1e-6)
    with pytest.raises(
        ValueError, match=r"Expected 30 integer labels in \[0, 4\), of shape \(30,\)"
    ):
        p.score(y + 1)
    # Yes or no for each output: accuracy is the mean over rows and outputs.
    p, y = predicted(YES_NO, "bernoulli"), RNG.integers(0, 2, (30, 3))
    expected = np.mean([sklearn.metrics.accuracy_score(a, b > 0.5) for a, b in zip(y, p.mean)])
    assert p.score(y).accuracy == pytest.approx(expected)
    # Real targets have no accuracy.
    p, y = predicted(NORMAL, "normal"), RNG.normal(size=(7, 2))
    assert np.isnan(p.score(y).accuracy)
    error = sklearn.metrics.root_mean_squared_error(y.ravel(), p.mean.ravel())
    assert p.score(y).rmse == pytest.approx(error)


def test_log_prob_is_finite_where_a_probability_is_0():
    p = predicted(np.array([[[1.0, 0.0]]]), "categorical")
    np.testing.assert_allclose(p.log_prob([1]), [np.log(1e-7)])


# Intervals.


@pytest.mark.parametrize("level", [0.5, 0.9, 0.999])
def test_interval_of_targets_has_its_probability_under_the_mixture(level):
    samples = normal_samples(shape=(1500, 1))  # more rows than in one block
    lower, upper = predicted(samples, "normal").interval(level)
    loc, scale = np.split(samples, 2, axis=-1)
    for bound, tail in [(lower, (1 - level) / 2), (upper, (1 + level) / 2)]:
        cdf = scipy.stats.norm(loc, scale).cdf(bound).mean(0)
        np.testing.assert_allclose(cdf, tail, atol=1e-5)


def test_interval_of_one_normal_is_scipys():
    lower, upper = predicted(NORMAL[:1], "normal").interval(0.9)
    expected = scipy.stats.norm(*np.split(NORMAL[0], 2, axis=-1)).interval(0.9)
    np.testing.assert_allclose([lower, upper], expected, rtol=1e-4, atol=1e-5)


def test_interval_of_probabilities_holds_samples():
    p = predicted(CLASSES, "categorical")
    lower, upper = p.interval(0.8)
    np.testing.assert_allclose(lower, np.quantile(CLASSES, 0.1, axis=0), atol=1e-6)
    np.testing.assert_allclose(upper, np.quantile(CLASSES, 0.9, axis=0), atol=1e-6)
    for level in (0, 1, 95, -0.1):
        with pytest.raises(ValueError, match=f"level={level}"):
            p.interval(level)
    with pytest.raises(ValueError, match="return_samples=True"):
        predicted(CLASSES, "categorical", keep=False).interval()


# Rows.


def test_rows():
    p = predicted(CLASSES, "categorical")
    order = np.argsort(-p.mutual_information)[:5]
    for rows in (slice(3, 9), order, p.mean[:, 0] > 0.5, 4, -1):
        some = p[rows]
        np.testing.assert_array_equal(some.mean, p.mean[rows])
        np.testing.assert_array_equal(some.variance, p.variance[rows])
        np.testing.assert_array_equal(some.samples, p.samples[:, rows])
        assert some.likelihood == "categorical"
    assert (len(p), len(p[order])) == (30, 5)
    both = concatenate([p[:12], p[12:]])
    np.testing.assert_array_equal(both.samples, p.samples)
    np.testing.assert_array_equal(both.mutual_information, p.mutual_information)
    with pytest.raises(IndexError, match="Expected rows"):
        p[1:3, 0]


def test_predictions_of_different_kinds_are_not_joined():
    p = predicted(YES_NO, "bernoulli")
    assert len(concatenate([p, p[:2]])) == len(p) + 2
    calibrated = dataclasses.replace(p, temperature=float("nan"))
    assert np.isnan(concatenate([calibrated, calibrated]).temperature)
    other = dataclasses.replace(p, likelihood="categorical")
    without = dataclasses.replace(p, samples=None)
    for parts in ([], [p, other], [p, calibrated], [p, without]):
        with pytest.raises(ValueError, match=f"Received: {len(parts)} predictions of "):
            concatenate(parts)


# Long sums, half precision, NaN and infinity.


@pytest.mark.parametrize("likelihood", ["categorical", "normal"])
def test_sums_do_not_drift(likelihood):
    """The mutual information of equal samples is 0, even for many samples."""
    sample = np.array([[0.3, 0.5, 0.1, 0.1], [0.7, 0.1, 0.1, 0.1]], "float32")
    likelihood_, num_samples = get_likelihood(likelihood), 20_000

    @tf.function
    def run(p):
        moments = tf.while_loop(
            lambda s, _: s < num_samples,
            lambda s, m: (s + 1, streaming.add(m, p, s + 1, likelihood_)),
            (1, streaming.first(p, likelihood_)),
        )[1]
        return streaming.measures(moments, num_samples, likelihood_, p.dtype)

    result, one = run(sample), predicted(sample[None], likelihood)
    np.testing.assert_array_equal(result["mutual_information"], [0, 0])
    np.testing.assert_allclose(result["expected_entropy"], one.expected_entropy, rtol=1e-6)
    np.testing.assert_allclose(result["aleatoric_variance"], one.aleatoric_variance, rtol=1e-6)
    np.testing.assert_array_equal(result["epistemic_variance"], one.epistemic_variance)


def test_half_precision_outputs_are_summed_in_single():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            MCDropout(0.3, dtype="mixed_float16"),
            keras.layers.Dense(3, "softmax", dtype="mixed_float16"),
        ]
    )
    p = Predictor(model).predict_uncertainty(vectors(), 50, seed=0, return_samples=True)
    samples = p.samples.astype("float64")
    assert p.mean.dtype == p.mutual_information.dtype == p.samples.dtype == "float32"
    exact = -np.sum(samples * np.log(samples), axis=-1).mean(0)
    np.testing.assert_allclose(p.expected_entropy, exact, rtol=2e-6)
    np.testing.assert_allclose(p.epistemic_variance, samples.var(0), rtol=1e-4, atol=1e-9)


def test_measures_of_nan_are_nan():
    for likelihood in ("categorical", "bernoulli", "normal"):
        p = predicted(np.full((3, 2, 4), np.nan), likelihood)
        for name in ("mutual_information", "predictive_entropy", "variance", "mean_std"):
            assert np.isnan(getattr(p, name)).all(), (likelihood, name)


def test_scales_below_zero_are_refused():
    inputs = keras.Input((5,))
    raw = keras.Model(inputs, keras.layers.Dense(2)(MCDropout(0.5)(inputs)))
    raw.layers[-1].bias.assign([0.0, -50.0])
    with pytest.raises(ValueError, match="positive scales"):
        Predictor(raw, "normal").predict_uncertainty(vectors(), 2)
    good = keras.Model(inputs, NormalParameters()(keras.layers.Dense(2)(MCDropout(0.5)(inputs))))
    assert Predictor(good, "normal").predict_uncertainty(vectors(), 2).likelihood == "normal"


def test_mutual_information_of_nearly_equal_samples_is_not_negative():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), 5000)
    samples = (p + 1e-8 * rng.normal(size=(6, *p.shape))).astype("float32")
    found = predicted(samples, "categorical")
    rounding = found.predictive_entropy - found.expected_entropy
    assert (rounding < 0).any()  # otherwise, nothing would be clipped
    assert (found.mutual_information >= 0).all()
