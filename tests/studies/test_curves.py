"""Statistics of learning curves."""

import numpy as np
import pytest

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


def test_intervals_cover():
    """Mean of 12 normal curves: the 95 % interval holds the truth about as often as it says."""
    hits = 0
    for _ in range(100):
        shift = RNG.normal(size=(12, 1))
        interval = paired_difference(X, 1 + shift + np.zeros([12, 6]), np.ones([12, 6]))
        hits += interval.low <= 0 <= interval.high
    assert 83 <= hits <= 99  # percentile intervals of 12 are a little narrow


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
    ],
)
def test_refused(call):
    with pytest.raises(ValueError, match=r"Expected .* Received: .* Hint: "):
        call()
