"""Statistics of learning curves."""

import numpy as np
import pytest
import scipy.stats

from tfp_bayes.studies.curves import Interval, crossing, mean_area, mean_crossing, paired_difference

RNG = np.random.default_rng(0)
X = np.arange(0, 60, 10)


def test_crossing():
    errors = np.array([0.5, 0.4, 0.2, 0.3, 0.1, 0.1])
    assert crossing(X, errors, 0.3) == pytest.approx(15)
    assert crossing(X, errors, 0.6) == 0
    assert crossing(X, errors, 0.05) == np.inf
    assert mean_crossing(X, np.stack([errors, errors]), 0.05) == Interval(np.inf, np.inf, np.inf)


def test_area_of_a_straight_line():
    errors = np.linspace(1, 0, 6)[None]
    assert mean_area(X, errors).estimate == pytest.approx(0.5)
    assert mean_area(X[:1], errors[:, :1]).estimate == 1


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_intervals_cover(num_seeds):
    """The 95 % interval of a difference covers the true value in 95 % of trials with few seeds."""
    hits, num_trials = 0, 3000
    for shift in RNG.normal(size=(num_trials, num_seeds, 1)):
        interval = paired_difference(X, 1 + shift + np.zeros(6), np.ones([num_seeds, 6]))
        hits += interval.low <= 0 <= interval.high
    assert 0.94 < hits / num_trials < 0.96  # 0.75, 0.83 and 0.90 for a percentile bootstrap


def test_intervals_are_student_t():
    values = RNG.normal(size=5)
    found = mean_area(X, values[:, None] + np.zeros(6))
    expected = scipy.stats.t.interval(0.95, 4, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose([found.low, found.high], expected)


def test_intervals_of_crossings_cover():
    """The curves have independent noise in each round; their mean crosses the level at 23."""
    x = np.arange(0, 60, 2)
    truth = np.exp(-x / 23)
    hits, num_trials = 0, 2000
    for _ in range(num_trials):
        seeds = RNG.normal(size=(5, 1))
        errors = truth + 0.05 * seeds + 0.02 * RNG.normal(size=(5, len(x)))
        interval = mean_crossing(x, errors, np.exp(-1))
        assert interval.low <= interval.estimate <= interval.high
        hits += interval.low <= 23 <= interval.high
    assert 0.945 < hits / num_trials < 0.985


def test_a_crossing_that_not_every_seed_reaches():
    """Seeds that never reach the level count too: the upper end of the interval is infinite."""
    reached, missed = np.linspace(0.6, 0.1, 6), np.full(6, 0.6)
    interval = mean_crossing(X, np.stack([reached, reached, missed]), 0.3)
    assert interval.estimate == crossing(X, (2 * reached + missed) / 3, 0.3) < np.inf
    assert interval.high == np.inf
    assert interval.low < interval.estimate
    rises = np.array([0.5, 0.2, 0.5, 0.2, 0.1, 0.1])  # below, above, then finally below
    interval = mean_crossing(X, np.stack([rises, rises]), 0.3)
    assert interval.low == interval.estimate == crossing(X, rises, 0.3)
    assert interval.high == pytest.approx(10 * (2 + 2 / 3))


def test_one_seed_has_no_interval():
    for found in (
        mean_area(X, np.ones([1, 6])),
        paired_difference(X, np.ones([1, 6]), np.zeros([1, 6])),
        mean_crossing(X, np.ones([1, 6]), 1.0),
    ):
        assert np.isnan([found.low, found.high]).all()
        assert str(found).endswith(" (one seed)")


def test_pairing_removes_what_seeds_share():
    seeds = RNG.normal(size=(6, 1))
    a, b = seeds + np.linspace(1, 0, 6), seeds + np.linspace(1, 0, 6) + 0.1
    found = paired_difference(X, b, a)
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)
    assert str(found) == "0.1 (0.1 to 0.1)"
    unpaired = mean_area(X, a)
    assert unpaired.high - unpaired.low > 0.3


@pytest.mark.parametrize(
    "call",
    [
        lambda: mean_area(X, np.ones(6)),
        lambda: mean_area(X, np.ones((2, 5))),
        lambda: paired_difference(X, np.ones((2, 6)), np.ones((3, 6))),
        lambda: mean_area(X, np.full((2, 6), np.nan)),
        lambda: mean_crossing(X[::-1], np.ones((2, 6)), 0.5),
    ],
)
def test_refused(call):
    with pytest.raises(ValueError, match=r"Expected .* Received: .* Hint: "):
        call()
