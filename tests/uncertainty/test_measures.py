"""Measures from samples, against loops, identities and hand-computed cases."""

import numpy as np
import pytest
import reference
from scipy.stats import entropy as scipy_entropy

from tfp_bayes import uncertainty
from tfp_bayes.uncertainty import measures

MEASURES = {
    "predictive_mean": reference.predictive_mean,
    "predictive_entropy": reference.predictive_entropy,
    "expected_entropy": reference.expected_entropy,
    "mutual_information": reference.mutual_information,
    "variation_ratio": reference.variation_ratio,
    "mean_std": reference.mean_std,
    "variance": reference.variance,
    "epistemic_variance": reference.epistemic_variance,
    "aleatoric_variance": reference.aleatoric_variance,
}


def dirichlet(num_samples, num_examples, num_classes, concentration=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet([concentration] * num_classes, (num_samples, num_examples))


SAMPLES = {
    "random": dirichlet(7, 5, 4),
    "two classes": dirichlet(4, 6, 2),
    "one sample": dirichlet(1, 3, 5),
    "one-hot": np.eye(3)[np.random.default_rng(1).integers(0, 3, (6, 4))],
    "equal samples": np.repeat(dirichlet(1, 3, 4), 5, axis=0),
    "float32": dirichlet(7, 5, 4).astype("float32"),
    "float16": dirichlet(7, 5, 4).astype("float16"),
}


@pytest.mark.parametrize("samples", SAMPLES.values(), ids=SAMPLES.keys())
@pytest.mark.parametrize("name", MEASURES)
def test_equals_reference(name, samples):
    actual = getattr(uncertainty, name)(samples)
    assert actual.dtype == "float64"
    np.testing.assert_allclose(actual, MEASURES[name](samples.tolist()), atol=1e-12)


def test_every_measure_has_a_reference():
    functions = {name for name in uncertainty.__all__ if hasattr(measures, name)}
    assert functions == set(MEASURES)


@pytest.mark.parametrize("samples", SAMPLES.values(), ids=SAMPLES.keys())
def test_votes_equal_reference(samples):
    actual = uncertainty.variation_ratio(samples, votes=True)
    np.testing.assert_allclose(actual, reference.vote_ratio(samples.tolist()), atol=1e-12)


def test_entropies_equal_scipy():
    samples = SAMPLES["random"]
    np.testing.assert_allclose(
        uncertainty.predictive_entropy(samples), scipy_entropy(samples.mean(0), axis=-1)
    )
    np.testing.assert_allclose(
        uncertainty.expected_entropy(samples), scipy_entropy(samples, axis=-1).mean(0)
    )


def test_equal_samples_carry_no_epistemic_uncertainty():
    samples = np.repeat(dirichlet(1, 500, 4), 5, axis=0)
    total = uncertainty.predictive_entropy(samples)
    # Rounding makes some differences negative, so this fails without the clipping.
    assert (total - uncertainty.expected_entropy(samples)).min() < 0
    assert uncertainty.mutual_information(samples).min() == 0
    assert uncertainty.mutual_information(samples).max() < 1e-12
    assert total.mean() > 0.1


def test_votes_by_hand():
    best = np.array([[0, 1], [0, 2], [1, 0], [0, 2], [0, 1]])  # (S, N): 4 of 5, then 2 of 5
    samples = 0.1 + 0.7 * np.eye(3)[best]
    np.testing.assert_allclose(uncertainty.variation_ratio(samples, votes=True), [0.2, 0.6])
    # A tie splits the vote, so a completely uncertain sample does not look certain.
    undecided = np.full((3, 1, 4), 0.25)
    np.testing.assert_allclose(uncertainty.variation_ratio(undecided, votes=True), [0.75])
    # Two narrow majorities against one certain sample: votes and mean choose different classes.
    samples = [[[0.51, 0.49]], [[0.51, 0.49]], [[0.0, 1.0]]]
    np.testing.assert_allclose(uncertainty.variation_ratio(samples, votes=True), [1 / 3])
    np.testing.assert_allclose(uncertainty.variation_ratio(samples), [0.34])


def test_variance_of_the_label_splits_into_within_and_between_samples():
    samples = SAMPLES["random"]
    mean = uncertainty.predictive_mean(samples)
    within = (samples * (1 - samples)).mean(0)
    np.testing.assert_allclose(mean * (1 - mean), within + uncertainty.epistemic_variance(samples))


def test_variance_of_nearly_equal_samples_survives():
    # mean(p^2) - mean(p)^2 would lose all digits.
    step = 2.0**-32
    samples = [[[0.5 - step, 0.5 + step]], [[0.5 + step, 0.5 - step]]]
    np.testing.assert_array_equal(uncertainty.epistemic_variance(samples), [[step**2, step**2]])
    np.testing.assert_array_equal(uncertainty.mean_std(samples), [step])


def test_order_of_samples_does_not_matter():
    samples = SAMPLES["random"]
    shuffled = np.random.default_rng(2).permutation(samples, axis=0)
    for name in MEASURES:
        measure = getattr(uncertainty, name)
        np.testing.assert_allclose(measure(samples), measure(shuffled), atol=1e-12)


@pytest.mark.parametrize("name", MEASURES)
def test_no_examples_give_no_measures(name):
    actual = getattr(uncertainty, name)(np.zeros((3, 0, 4)))
    assert actual.shape == (
        (0, 4) if name == "predictive_mean" or name.endswith("variance") else (0,)
    )


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.ones((3, 4)), r"\(S, N, K\).*Received: samples of shape \(3, 4\)"),
        (np.ones((0, 3, 4)), "at least one sample"),
        (np.array([[[2.0, -1.0]]]), "Hint: apply a softmax"),
        (np.array([[[0.5, 0.4]]]), "sums from 0.9"),
        (np.array([[[np.nan, 1.0]]]), "Expected probabilities"),
        (np.array([[[np.inf, 1.0]]]), "Expected probabilities"),
    ],
)
def test_refuses_what_is_not_samples(name, samples, message):
    with pytest.raises(ValueError, match=message):
        getattr(uncertainty, name)(samples)
