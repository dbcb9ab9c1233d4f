"""Metrics of classification against loops, scikit-learn and hand-computed cases."""

import numpy as np
import pytest
import reference
from sklearn.metrics import brier_score_loss, log_loss

from tfp_bayes import metrics, uncertainty

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet([0.5] * 4, 200)
LABELS = np.array([RNG.choice(4, p=p) for p in PROBS])


@pytest.mark.parametrize("name", ["accuracy", "nll", "brier"])
def test_equals_reference(name):
    expected = getattr(reference, name)(LABELS.tolist(), PROBS.tolist())
    assert getattr(metrics, name)(LABELS, PROBS) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_bins", [1, 7, 10, 15])
def test_calibration_error_equals_reference(num_bins):
    actual = metrics.expected_calibration_error(LABELS, PROBS, num_bins)
    expected = reference.expected_calibration_error(LABELS.tolist(), PROBS.tolist(), num_bins)
    assert actual == pytest.approx(expected, abs=1e-12)


def test_equal_scikit_learn():
    assert metrics.nll(LABELS, PROBS) == pytest.approx(log_loss(LABELS, PROBS))
    binary = np.stack([1 - PROBS[:, 0], PROBS[:, 0]], axis=1)
    labels = (LABELS == 0).astype("int64")
    # scikit-learn's binary Brier score is half the sum over both classes.
    expected = 2 * brier_score_loss(labels, binary[:, 1])
    assert metrics.brier(labels, binary) == pytest.approx(expected)


def test_calibration_error_by_hand():
    probs = [[0.95, 0.05], [0.85, 0.15], [0.45, 0.55], [0.3, 0.7]]
    # Bins of width 0.5: all four in (0.5, 1], mean confidence 0.7625, accuracy 3/4.
    assert metrics.expected_calibration_error([0, 0, 1, 0], probs, 2) == pytest.approx(0.0125)
    # A confidence on an edge belongs to the bin below it: gaps 0.5 and 0.25, one example each.
    # In one bin their signs would cancel to 0.125.
    edge = [[0.5, 0.5], [0.25, 0.75]]
    assert metrics.expected_calibration_error([1, 1], edge, 2) == pytest.approx(0.375)
    # Half precision can round a confidence above 1, which belongs to the last bin: gap 0.099 / 2.
    above = [[0.9, 0.1], [1.001, 0.0]]
    assert metrics.expected_calibration_error([0, 0], above, 2) == pytest.approx(0.0495)


def test_calibration_error_has_15_bins_unless_told():
    default = metrics.expected_calibration_error(LABELS, PROBS)
    assert default == metrics.expected_calibration_error(LABELS, PROBS, num_bins=15)
    assert default != metrics.expected_calibration_error(LABELS, PROBS, num_bins=10)


def test_brier_by_hand():
    probs = [[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]]
    # 0.09 + 0.04 + 0.01, and the largest possible score, 1 + 1.
    assert metrics.brier([0, 1], probs) == pytest.approx((0.14 + 2) / 2)


def test_calibrated_predictions_have_small_error_and_overconfident_ones_large():
    rng = np.random.default_rng(1)
    probs = rng.dirichlet([1.0] * 3, 20_000)
    labels = (probs.cumsum(1) > rng.random((20_000, 1))).argmax(1)
    calibrated = metrics.expected_calibration_error(labels, probs)
    sharpened = probs**4 / (probs**4).sum(1, keepdims=True)
    assert calibrated < 0.015
    assert metrics.expected_calibration_error(labels, sharpened) > 10 * calibrated


def test_zero_probability_of_the_label_stays_finite():
    assert metrics.nll([0], [[0.0, 1.0]]) == pytest.approx(-np.log(1e-7))


@pytest.mark.parametrize("name", ["accuracy", "nll", "brier", "expected_calibration_error"])
@pytest.mark.parametrize(
    ("labels", "probs", "message"),
    [
        (np.eye(2), np.eye(2), "Hint: convert one-hot labels with argmax"),
        ([0.0, 1.0], np.eye(2), "Expected integer labels"),
        ([0, 2], np.eye(2), r"Expected labels in \[0, 2\)"),
        ([-1, 0], np.eye(2), "from -1"),
        ([0], np.eye(2), r"integer labels of shape \(2,\)"),
        ([0, 1], [[3.0, -2.0], [0.5, 0.5]], "apply a softmax"),
        ([], np.zeros((0, 2)), "at least one row"),
        (
            np.ma.array([0, 1], mask=[1, 0]),
            np.eye(2),
            "without masked entries for `y_true`.* 1 of 2",
        ),
        ([0, 1], np.ma.array(np.eye(2), mask=np.eye(2)), "without masked entries for `probs`"),
    ],
)
def test_refuses_what_does_not_match(name, labels, probs, message):
    with pytest.raises(ValueError, match=message):
        getattr(metrics, name)(labels, probs)


@pytest.mark.parametrize("num_bins", [0, -3, 2.5])
def test_refuses_bins_that_are_no_count(num_bins):
    with pytest.raises(ValueError, match=f"integer of at least 1.*num_bins={num_bins}"):
        metrics.expected_calibration_error([0], [[1.0, 0.0]], num_bins=num_bins)


# Temperature scaling.


def test_temperature_is_found_again():
    """Labels are drawn from probabilities that are then sharpened by a temperature of 1/3."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((len(p), 1)) >= p.cumsum(1)).sum(1).clip(max=3)
    sharpened = uncertainty.apply_temperature(p, 1 / 3)
    found = uncertainty.fit_temperature(labels, sharpened)
    assert abs(found - 3) < 0.15
    best = metrics.nll(labels, uncertainty.apply_temperature(sharpened, found))
    for other in (0.9 * found, 1.1 * found):
        worse = metrics.nll(labels, uncertainty.apply_temperature(sharpened, other))
        assert worse > best


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        ([[2.0, -1.0]], "Hint: apply a softmax"),
        ([[0.9], [0.2]], "two classes"),  # a softmax of one number is 1
        (np.full((2, 3, 3, 2), 0.5), r"Expected \(N, K\)"),
        ([[np.nan, 1.0]], "Expected probabilities"),
    ],
)
def test_temperature_is_for_rows_of_probabilities(probs, message):
    with pytest.raises(ValueError, match=message):
        uncertainty.apply_temperature(probs, 2.0)


def test_temperature_of_probabilities_that_are_zero():
    p = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert np.isfinite(uncertainty.fit_temperature(np.array([0, 1, 1]), p))
    np.testing.assert_allclose(uncertainty.apply_temperature(p, 1.0), p, atol=1e-6)
    np.testing.assert_allclose(uncertainty.apply_temperature(p, 1e9), 0.5, atol=1e-6)
