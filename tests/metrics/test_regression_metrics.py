"""Metrics of regression against scoringrules, quadrature and hand-computed cases."""

import numpy as np
import pytest
import scoringrules
from scipy import integrate, stats

from tfp_bayes import metrics

RNG = np.random.default_rng(0)
N, S, D = 40, 7, 3
Y, LOC = RNG.normal(size=(2, N))
SCALE = RNG.gamma(2, 0.5, N) + 0.1
LOCS, SCALES = RNG.normal(size=(S, N)), RNG.gamma(2, 0.5, (S, N)) + 0.1
SAMPLES = RNG.normal(size=(S, N)).round(1)  # ties


def test_rmse_and_nll():
    assert metrics.rmse(Y, LOC) == pytest.approx(np.sqrt(np.mean((Y - LOC) ** 2)))
    expected = -stats.norm(LOC, SCALE).logpdf(Y).mean()
    assert metrics.normal_nll(Y, LOC, SCALE) == pytest.approx(expected, abs=1e-12)
    # The score sums over the targets of an example and averages over examples.
    wide = [each.reshape(-1, 2) for each in (Y, LOC, SCALE)]
    assert metrics.normal_nll(*wide) == pytest.approx(2 * expected, abs=1e-12)
    with pytest.raises(ValueError, match="without masked entries for `mean`"):
        metrics.rmse(Y, np.ma.masked_greater(LOC, 0))


def test_crps_equals_scoringrules():
    expected = scoringrules.crps_normal(Y, LOC, SCALE).mean()
    assert metrics.crps_normal(Y, LOC, SCALE) == pytest.approx(expected, abs=1e-12)
    weights = RNG.dirichlet(np.ones(S))
    expected = scoringrules.crps_mixnorm(Y, LOCS.T, SCALES.T, np.tile(weights, (N, 1))).mean()
    actual = metrics.crps_mixture(Y, LOCS, SCALES, weights)
    assert actual == pytest.approx(expected, abs=1e-12)
    for fair, estimator in ((True, "fair"), (False, "qd")):
        expected = scoringrules.crps_ensemble(Y, SAMPLES.T, estimator=estimator).mean()
        assert metrics.crps_samples(Y, SAMPLES, fair) == pytest.approx(expected, abs=1e-12)


def test_crps_of_a_mixture_by_quadrature():
    loc, scale = np.array([[-2.0], [1.5], [0.0]]), np.array([[0.3], [0.8], [2.0]])
    weights = [0.5, 0.2, 0.3]

    def squared_gap(x):
        distribution = sum(w * stats.norm.cdf(x, m, s) for w, m, s in zip(weights, loc, scale))
        return float((distribution[0] - (x >= 0.4)) ** 2)

    expected = integrate.quad(squared_gap, -25, 0.4, epsabs=1e-11)[0]
    expected += integrate.quad(squared_gap, 0.4, 25, epsabs=1e-11)[0]
    assert metrics.crps_mixture([0.4], loc, scale, weights) == pytest.approx(expected, abs=1e-8)


def test_crps_of_equal_components_is_that_of_one():
    actual = metrics.crps_mixture(Y, np.tile(LOC, (3, 1)), np.tile(SCALE, (3, 1)))
    assert actual == pytest.approx(metrics.crps_normal(Y, LOC, SCALE), abs=1e-12)


def test_fair_scores_do_not_depend_on_the_number_of_samples():
    """A standard normal prediction of 0 scores 0.2337; the biased score adds 1 / (S sqrt(pi))."""
    exact = metrics.crps_normal([0.0], [0.0], [1.0])
    draws = np.random.default_rng(3).normal(size=(4, 20_000))
    y = np.zeros(20_000)
    fair = metrics.crps_samples(y, draws)
    biased = metrics.crps_samples(y, draws, fair=False)
    tolerance = 5.5 * 0.5 / np.sqrt(20_000)
    assert fair == pytest.approx(exact, abs=tolerance)
    assert biased == pytest.approx(exact + 1 / (4 * np.sqrt(np.pi)), abs=tolerance)


@pytest.mark.parametrize("fair", [True, False])
def test_energy_score(fair):
    y, samples = RNG.normal(size=(N, D)), RNG.normal(size=(S, N, D))
    estimator = "fair" if fair else "nrg"
    expected = scoringrules.es_ensemble(y, np.moveaxis(samples, 0, 1), estimator=estimator).mean()
    assert metrics.energy_score(y, samples, fair) == pytest.approx(expected, abs=1e-12)
    one = metrics.energy_score(Y[:, None], SAMPLES[..., None], fair)
    assert one == pytest.approx(metrics.crps_samples(Y, SAMPLES, fair), abs=1e-12)


def test_intervals():
    lower, upper = LOC - SCALE, LOC + SCALE
    expected = scoringrules.interval_score(Y, lower, upper, 0.2).mean()
    assert metrics.interval_score(Y, lower, upper, level=0.8) == pytest.approx(expected)
    assert metrics.interval_coverage(Y, lower, upper) == np.mean(np.abs(Y - LOC) <= SCALE)
    assert metrics.interval_coverage([1.0, 2.0], [1.0, 0.0], [3.0, 2.0]) == 1  # ends count
    assert metrics.interval_coverage([1.0], [-np.inf], [np.inf]) == 1


def test_pit():
    expected = stats.norm(LOC, SCALE).cdf(Y)
    np.testing.assert_allclose(metrics.normal_pit(Y, LOC, SCALE), expected, atol=1e-15)
    levels = np.linspace(0.01, 0.99, 99)
    gaps = [abs(np.mean(stats.norm(LOC, SCALE).ppf(level) >= Y) - level) for level in levels]
    assert metrics.pit_calibration_error(expected) == pytest.approx(np.mean(gaps), abs=1e-12)


def test_pit_of_calibrated_predictions():
    rng = np.random.default_rng(4)
    num_rows = 20_000
    # Counts and few samples, so that most samples tie.
    y, samples = rng.poisson(2.0, num_rows), rng.poisson(2.0, (5, num_rows))
    pit = metrics.sample_pit(y, samples)
    assert stats.kstest(pit, "uniform").pvalue > 1e-6
    assert metrics.pit_calibration_error(pit) < 0.31 / np.sqrt(num_rows) * 4
    too_narrow = metrics.normal_pit(
        rng.normal(size=num_rows), *np.full((2, num_rows), 0.5) - [[0.5], [0]]
    )
    assert metrics.pit_calibration_error(too_narrow) > 0.05
    floor = [metrics.pit_calibration_error(rng.random(400)) for _ in range(300)]
    assert np.mean(floor) == pytest.approx(0.313 / 20, rel=0.15)


def test_one_example():
    assert metrics.rmse([1.0], [3.0]) == 2
    assert metrics.crps_samples([1.0], [[3.0]], fair=False) == 2
    with pytest.raises(ValueError, match=r"two samples.*Hint: fair=False"):
        metrics.crps_samples([1.0], [[3.0]])
    with pytest.raises(ValueError, match=r"two samples.*Hint: fair=False"):
        metrics.energy_score([[1.0]], [[[3.0]]])


COLUMN = np.zeros((N, 1))


@pytest.mark.parametrize(
    ("metric", "arguments", "message"),
    [
        (metrics.rmse, (Y, COLUMN), r"shape \(40,\) of `y_true` for `mean`.*\(N, 1\)"),
        (metrics.rmse, (Y * np.nan, LOC), "finite numbers for `y_true`. Received: 40 of 40"),
        (metrics.rmse, (Y, LOC * np.nan), "finite numbers for `mean`"),
        (metrics.rmse, ([], []), "at least one target"),
        (metrics.normal_nll, (Y, LOC, -SCALE), "Expected positive numbers for `scale`"),
        (metrics.crps_normal, (Y, LOC, 0 * SCALE), "Expected positive numbers for `scale`"),
        (metrics.normal_pit, (Y, LOC, SCALE * np.nan), "finite numbers for `scale`"),
        (metrics.crps_mixture, (Y, LOC, SCALE), r"Expected shape \(S, 40\) for `loc`"),
        (metrics.crps_mixture, (Y, LOCS, SCALES * np.nan), "finite numbers for `scale`"),
        (metrics.crps_mixture, (Y, LOCS, SCALES[:3]), "`loc` for `scale`"),
        (metrics.crps_mixture, (Y, LOCS, -SCALES), "positive numbers for `scale`"),
        (metrics.crps_mixture, (Y, LOCS, SCALES, np.ones(S)), "sum to 1 for `weights`"),
        (metrics.crps_mixture, (Y, LOCS, SCALES, [np.nan] * S), "sum to 1 for `weights`"),
        (metrics.crps_samples, (Y, SAMPLES.T), "sample axis comes first"),
        (metrics.crps_samples, (Y, SAMPLES * np.nan), "finite numbers for `samples`"),
        (metrics.energy_score, (Y, SAMPLES), "Hint: use crps_samples"),
        (metrics.interval_coverage, (Y, LOC + 1, LOC), "at or below its upper"),
        (metrics.interval_score, (Y, LOC * np.nan, LOC), "at or below its upper"),
        (metrics.interval_score, (Y, LOC, LOC, 90), "level=90"),
        (metrics.sample_pit, (Y, SAMPLES[:, :-1]), r"Expected shape \(S, 40\)"),
        (metrics.pit_calibration_error, ([0.5, np.nan],), "all in"),
        (metrics.pit_calibration_error, ([],), "0 numbers"),
    ],
)
def test_what_is_refused(metric, arguments, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        metric(*arguments)
