"""Both statistics against worked examples, other libraries and their null distributions."""

import math

import numpy as np
import pytest
from scipy.stats import binom, chi2, ks_2samp

from tfp_bayes.monitor import binned_kolmogorov_smirnov, population_stability_index
from tfp_bayes.monitor.drift import count_in_bins, quantile_edges


def counts_without_drift(num_rows, window, repetitions, num_bins=10):
    """Draws window counts from their exact distribution, with order statistics as bin edges."""
    rng = np.random.default_rng(0)
    reference = np.full(num_bins, num_rows // num_bins)
    spacings = reference + (np.arange(num_bins) == num_bins - 1)
    return reference, rng.multinomial(window, rng.dirichlet(spacings, repetitions))


def test_index_of_a_worked_example():
    # Shares after adding 1/2 per bin: 10.5, 20.5, 70.5 of 101.5 and 30.5, 30.5, 40.5 of 101.5.
    expected = (
        (10.5 - 30.5) / 101.5 * math.log(10.5 / 30.5)
        + (20.5 - 30.5) / 101.5 * math.log(20.5 / 30.5)
        + (70.5 - 40.5) / 101.5 * math.log(70.5 / 40.5)
    )
    index = population_stability_index([30, 30, 40], [10, 20, 70])
    assert index.value == pytest.approx(expected, rel=1e-12)
    assert index.p_value == pytest.approx(chi2.sf(expected / (1 / 100 + 1 / 100), 2), rel=1e-10)
    assert population_stability_index([30, 30, 40], [100, 0, 0]).value < np.inf


@pytest.mark.parametrize(("num_rows", "window"), [(2000, 200), (5000, 500), (500, 500)])
def test_index_follows_its_law(num_rows, window):
    reference, counts = counts_without_drift(num_rows, window, 100_000)
    p_value = population_stability_index(reference, counts).p_value
    for level in (0.3, 0.05, 0.01):
        assert level * 0.88 < (p_value < level).mean() < level * 1.06
    assert (p_value < 1e-4).sum() < binom.isf(1e-6, 100_000, 2e-4)


def test_the_usual_threshold_raises_false_alarms():
    for window, share in ((50, 0.78), (100, 0.33), (200, 0.02)):
        reference, counts = counts_without_drift(5000, window, 20_000)
        index = population_stability_index(reference, counts)
        assert (index.value > 0.1).mean() == pytest.approx(share, abs=0.03)


def test_distance_is_that_of_the_distinct_values():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 6, 400), rng.integers(0, 7, 300)
    mine = binned_kolmogorov_smirnov(np.bincount(a, minlength=7), np.bincount(b, minlength=7))
    other = ks_2samp(a, b, method="asymp")
    assert mine.value == pytest.approx(other.statistic, abs=1e-12)
    # SciPy adds a finite-sample correction.
    assert mine.p_value == pytest.approx(other.pvalue, rel=0.15)


@pytest.mark.parametrize("share_of_ones", [0.0, 0.4, 0.75])
def test_distance_is_conservative_and_more_so_under_ties(share_of_ones):
    rng = np.random.default_rng(2)
    values = np.where(rng.random((400, 2500)) < share_of_ones, 1.0, rng.random((400, 2500)))
    rejected = []
    for row in values:
        edges = quantile_edges(row[:2000], 10, 80)
        counts = [
            np.bincount(count_in_bins(part, edges), minlength=len(edges) + 1)
            for part in (row[:2000], row[2000:])
        ]
        assert min(counts[0]) >= 80
        rejected.append(binned_kolmogorov_smirnov(*counts).p_value < 0.1)
    assert np.sum(rejected) <= binom.isf(1e-6, 400, 0.1)
    assert np.sum(rejected) > 0


def test_bins_have_equal_mass_and_keep_ties_together():
    edges = quantile_edges(np.random.default_rng(0).permutation(1000) / 1000, 10, 20)
    np.testing.assert_allclose(edges, np.arange(1, 10) / 10 - 0.0005)
    ones = np.r_[np.arange(300) / 300, np.ones(700)]
    edges = quantile_edges(ones, 10, 20)
    counts = np.bincount(count_in_bins(ones, edges))
    assert counts.tolist() == [100, 100, 100, 700]
    assert len(quantile_edges(np.ones(500), 10, 20)) == 0
    # Ties that end one value below a quantile do not leave a bin with a single value.
    atom = np.r_[np.full(199, 0.0), 0.5, np.arange(1, 801)]
    assert np.bincount(count_in_bins(atom, quantile_edges(atom, 10, 20))).min() >= 20


@pytest.mark.parametrize("function", [population_stability_index, binned_kolmogorov_smirnov])
def test_what_is_no_count_is_refused(function):
    for reference, window in (
        ([1, 2], [1, 2, 3]),
        ([5], [5]),
        ([0.5, 0.5], [1, 2]),
        ([1, 2], [0, 0]),
        ([1, 2], [-1, 3]),
        ([1, 2], [np.nan, 3]),
    ):
        with pytest.raises(ValueError, match=r"Expected .* Received: .* Hint: "):
            function(reference, window)
