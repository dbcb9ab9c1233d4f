"""Calibration errors against loops and TensorFlow Probability, and the calibration floor."""

import numpy as np
import pytest
import tensorflow_probability as tfp

from tfp_bayes import metrics

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet([0.5] * 4, 200)
LABELS = np.array([RNG.choice(4, p=p) for p in PROBS])
# Votes of ten samples; their shares fall on the edges of ten bins.
VOTES = RNG.multinomial(10, [0.7, 0.2, 0.1], 300) / 10
VOTED = RNG.integers(0, 3, 300)


def labels_of(probs, rng):
    return (rng.random((len(probs), 1)) > probs.cumsum(1)).sum(1).clip(max=probs.shape[1] - 1)


def gap_of_groups(groups, confidence, correct):
    return sum(
        abs(sum(correct[i] - confidence[i] for i in group)) for group in groups if len(group)
    ) / len(confidence)


def test_equal_mass_against_a_loop():
    confidence, correct = PROBS.max(1), PROBS.argmax(1) == LABELS
    groups = np.array_split(np.argsort(confidence), 15)
    expected = gap_of_groups(groups, confidence, correct)
    actual = metrics.expected_calibration_error(LABELS, PROBS, bins="equal_mass")
    assert actual == pytest.approx(expected, abs=1e-12)


def test_equal_mass_keeps_ties_together_in_any_order():
    expected = None
    for _ in range(5):
        order = RNG.permutation(len(VOTES))
        table = metrics.reliability_bins(VOTED[order], VOTES[order], 15, "equal_mass")
        if expected is None:
            expected = table
        np.testing.assert_array_equal(table.counts, expected.counts)
        np.testing.assert_allclose(table.accuracy, expected.accuracy)
    # Equal confidences share a bin, so there are at most as many bins as distinct values.
    assert (expected.counts > 0).sum() <= len(np.unique(VOTES.max(1)))
    same = np.tile([0.6, 0.4], (30, 1))
    table = metrics.reliability_bins([0] * 30, same, 15, "equal_mass")
    assert table.counts.tolist() == [30] + [0] * 14


def test_votes_on_edges_belong_to_the_bin_below():
    table = metrics.reliability_bins(VOTED, VOTES, num_bins=10)
    for b in range(10):
        tenths = np.rint(10 * VOTES.max(1)).astype(int)
        assert table.counts[b] == (tenths == b + 1).sum()


def test_a_confidence_of_one_is_in_the_last_bin():
    table = metrics.reliability_bins([0, 1, 1], np.eye(2)[[0, 1, 0]], num_bins=15)
    assert table.counts.tolist() == [0] * 14 + [3]
    assert table.accuracy[-1] == pytest.approx(2 / 3)
    assert np.isnan(table.accuracy[:-1]).all()
    assert table.gap[:-1].tolist() == [0] * 14


def test_equals_tensorflow_probability():
    """TFP's bins are [lo, hi); without a confidence on an edge that makes no difference."""
    expected = tfp.stats.expected_calibration_error(
        10, np.log(PROBS).astype("float32"), LABELS.astype("int32")
    )
    actual = metrics.expected_calibration_error(LABELS, PROBS, 10)
    assert actual == pytest.approx(float(expected), abs=1e-6)


def test_classwise_error_is_the_mean_of_binary_ones():
    """The oracle loops over the bins of each class's probability."""
    errors = []
    for k in range(4):
        total = 0
        for b in range(15):
            inside = (PROBS[:, k] > b / 15) & (PROBS[:, k] <= (b + 1) / 15)
            total += abs((LABELS[inside] == k).sum() - PROBS[inside, k].sum())
        errors.append(total / len(PROBS))
    actual = metrics.classwise_calibration_error(LABELS, PROBS)
    assert actual == pytest.approx(np.mean(errors), abs=1e-12)


def test_a_class_without_labels_counts_in_the_classwise_error():
    probs = np.tile([0.5, 0.25, 0.25], (40, 1))
    labels = [0] * 20 + [1] * 20
    expected = (0 + 0.25 + 0.25) / 3
    assert metrics.classwise_calibration_error(labels, probs) == pytest.approx(expected)


def test_maximum_error_leaves_out_bins_of_few():
    probs = [[0.95, 0.05]] * 9 + [[0.75, 0.25]] * 10
    labels = [1] * 9 + [0] * 8 + [1] * 2  # gap 0.95 in the bin of nine, 0.05 in the bin of ten
    assert metrics.maximum_calibration_error(labels, probs) == pytest.approx(0.05)
    with pytest.raises(ValueError, match=r"at least 10 rows. Received: 9 rows, at most 9"):
        metrics.maximum_calibration_error(labels[:9], probs[:9])


def test_one_row():
    probs = [[0.3, 0.7]]
    assert metrics.expected_calibration_error([1], probs) == pytest.approx(0.3)
    assert metrics.classwise_calibration_error([1], probs) == pytest.approx(0.3)
    floor = metrics.calibration_floor(probs, num_draws=20_000)
    # The gap is 0.3 with probability 0.7, and 0.7 otherwise.
    assert floor.mean == pytest.approx(0.42, abs=5.5 * 0.4 * np.sqrt(0.21 / 20_000))
    assert floor.quantile_95 == pytest.approx(0.7)
    with pytest.raises(ValueError, match="at least 15 rows for 15 bins of equal mass"):
        metrics.expected_calibration_error([1], probs, bins="equal_mass")


@pytest.mark.parametrize(("num_bins", "bins"), [(15, "equal_width"), (10, "equal_mass")])
def test_floor_is_the_error_of_labels_drawn_from_the_probabilities(num_bins, bins):
    rng = np.random.default_rng(2)
    errors = [
        metrics.expected_calibration_error(labels_of(PROBS, rng), PROBS, num_bins, bins)
        for _ in range(400)
    ]
    floor = metrics.calibration_floor(PROBS, num_bins, bins, num_draws=4000)
    deviation = np.std(errors) / np.sqrt(400) * 1.1
    assert abs(floor.mean - np.mean(errors)) < 5.5 * deviation
    assert 0.85 < np.mean(np.array(errors) <= floor.quantile_95) < 0.995


@pytest.mark.parametrize(
    ("num_rows", "mean", "most"), [(10_000, 0.0017, 0.0032), (1000, 0.0053, 0.0115)]
)
def test_floor_of_a_network_that_is_right_in_98_of_100(num_rows, mean, most):
    confidence = 1 - np.random.default_rng(0).exponential(0.02, num_rows).clip(max=0.5)
    probs = np.stack([confidence, 1 - confidence], 1)
    floor = metrics.calibration_floor(probs)
    assert floor.mean == pytest.approx(mean, rel=0.25)
    assert floor.mean < floor.quantile_95 < most
    assert floor == metrics.calibration_floor(probs)
    assert floor != metrics.calibration_floor(probs, seed=1)


@pytest.mark.parametrize("bins", ["equal_width", "equal_mass"])
@pytest.mark.parametrize("num_bins", [1, 4, 15])
def test_brier_decomposition_is_an_identity(num_bins, bins):
    for labels, probs in ((LABELS, PROBS), (VOTED, VOTES), (np.zeros(200, int), PROBS)):
        terms = metrics.brier_decomposition(labels, probs, num_bins, bins)
        assert terms.brier == pytest.approx(metrics.brier(labels, probs), abs=1e-12)


def test_brier_decomposition_by_hand():
    """Forecasts 0.8 and 0.4 of the first class, two each; frequencies 1/2 and 0, base rate 1/4."""
    probs = [[0.8, 0.2], [0.8, 0.2], [0.4, 0.6], [0.4, 0.6]]
    terms = metrics.brier_decomposition([0, 1, 1, 1], probs, num_bins=2)
    assert terms.reliability == pytest.approx(0.3**2 + 0.4**2)
    assert terms.resolution == pytest.approx(2 * 0.25**2)
    assert terms.uncertainty == pytest.approx(2 * 0.25 * 0.75)
    assert terms.within_bin_variance == pytest.approx(0, abs=1e-15)
    assert terms.within_bin_covariance == pytest.approx(0, abs=1e-15)
    one_bin = metrics.brier_decomposition([0, 1, 1, 1], probs, num_bins=1)
    assert one_bin.resolution == pytest.approx(0, abs=1e-15)
    assert one_bin.within_bin_variance == pytest.approx(2 * 0.2**2)
    assert one_bin.within_bin_covariance == pytest.approx(2 * 0.2 * 0.25)


ALL = [
    metrics.expected_calibration_error,
    metrics.maximum_calibration_error,
    metrics.classwise_calibration_error,
    metrics.reliability_bins,
    metrics.brier_decomposition,
]


@pytest.mark.parametrize("metric", ALL)
def test_what_is_refused(metric):
    with pytest.raises(ValueError, match=r'Expected "equal_width" or.*bins=\'adaptive\''):
        metric(LABELS, PROBS, bins="adaptive")
    for probs in (PROBS * np.nan, np.log(PROBS), PROBS / 2):
        with pytest.raises(ValueError, match=r"Expected probabilities.*Hint: apply a softmax"):
            metric(LABELS, probs)
    with pytest.raises(ValueError, match=r"two classes.*\(200, 1\).*np.hstack"):
        metric(LABELS, PROBS[:, :1])


def test_floor_refuses_what_is_no_probability():
    with pytest.raises(ValueError, match="Hint: apply a softmax"):
        metrics.calibration_floor(PROBS * np.nan)
    with pytest.raises(ValueError, match="`num_draws`"):
        metrics.calibration_floor(PROBS, num_draws=0)
