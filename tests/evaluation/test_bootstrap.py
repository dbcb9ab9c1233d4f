"""Resampled metrics equal those of copied rows, and intervals have their nominal coverage.

Copied rows are the oracle: counts of `drawn` must give what `metrics` compute from x[drawn].
"""

import numpy as np
import pytest

from tfp_bayes import metrics
from tfp_bayes.evaluation import scored as scored_module
from tfp_bayes.evaluation.bootstrap import Counts, detection, resample, selective
from tfp_bayes.evaluation.scored import score_classes, score_targets
from tfp_bayes.evaluation.table import bootstrap_interval, difference_interval, exact_interval
from tfp_bayes.prediction import Prediction


def classes(probs, likelihood="categorical"):
    """A prediction of classes with one sample."""
    zeros = np.zeros_like(probs)
    entropy = -(probs * np.log(probs)).sum(-1)
    nothing = np.zeros(len(probs))
    return Prediction(
        probs, entropy, entropy, nothing, 1 - probs.max(-1), nothing, zeros, zeros, likelihood
    )


def real(loc, scale):
    """A prediction of real targets with one sample."""
    nothing = np.zeros(len(loc))
    return Prediction(
        loc, nothing, nothing, nothing, nothing, nothing, np.zeros_like(loc), scale**2, "normal"
    )


def simulate(rng, num_rows, sharpness=1.0):
    """Returns calibrated probabilities (N, 3), raised to a power, and labels."""
    probs = rng.dirichlet(np.ones(3) * 0.5, num_rows) * 0.97 + 0.01
    labels = (rng.random((num_rows, 1)) > probs.cumsum(-1)).sum(-1).clip(0, 2)
    probs = probs**sharpness
    return probs / probs.sum(-1, keepdims=True), labels


def counts_of(drawn, num_rows):
    return np.bincount(drawn, minlength=num_rows)[None].astype("float64")


@pytest.mark.parametrize("digits", [12, 1], ids=["distinct", "ties"])
def test_rankings_of_counts_are_those_of_copies(digits):
    rng = np.random.default_rng(0)
    errors = (rng.random(60) < 0.3).astype(int)
    unsure, other = (rng.random(size).round(digits) for size in (60, 40))
    own = selective(errors, unsure, {"aurc": "a", "augrc": "g", "auroc": "r"})
    out = detection(unsure, other, "d", "f")
    for _ in range(20):
        rows, others = rng.integers(0, 60, 60), rng.integers(0, 40, 40)
        counts = Counts(counts_of(rows, 60), counts_of(others, 40))
        found = own(counts) | out(counts)
        pair = errors[rows], unsure[rows]
        expected = {
            "a": metrics.aurc(*pair),
            "g": metrics.augrc(*pair),
            "r": metrics.error_auroc(*pair),
            "d": metrics.auroc(unsure[rows], other[others]),
            "f": metrics.fpr_at_tpr(unsure[rows], other[others]),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], [value], rtol=1e-12, err_msg=name)


def test_means_of_counts_are_those_of_copies():
    rng = np.random.default_rng(1)
    probs, labels = simulate(rng, 80, sharpness=2.0)
    rows = rng.integers(0, 80, 80)
    counts = Counts(counts_of(rows, 80), np.zeros((1, 0)))
    scored = score_classes(labels, classes(probs), 1, None, np.arange(80) < 40, 0)
    found = {}
    for function in scored.resamplers:
        found |= function(counts)
    for name, metric in {
        "accuracy": metrics.accuracy,
        "nll": metrics.nll,
        "brier": metrics.brier,
        "ece_10": lambda y, p: metrics.expected_calibration_error(y, p, 10),
        "ece_15": metrics.expected_calibration_error,
    }.items():
        np.testing.assert_allclose(found[name], [metric(labels[rows], probs[rows])], rtol=1e-12)


@pytest.mark.parametrize("num_targets", [1, 3])
def test_real_targets_of_counts_are_those_of_copies(num_targets):
    rng = np.random.default_rng(2)
    loc = rng.normal(size=(50, num_targets))
    scale, rows = rng.uniform(0.5, 2, loc.shape), rng.integers(0, 50, 50)
    y = loc + rng.normal(size=loc.shape)
    (function,) = score_targets(y, real(loc, scale), 0).resamplers
    found = function(Counts(counts_of(rows, 50), np.zeros((1, 0))))
    drawn = y[rows], loc[rows], scale[rows]
    expected = {
        "nll": metrics.normal_nll(*drawn),
        "rmse": metrics.rmse(*drawn[:2]),
        "crps": metrics.crps_normal(*drawn),
        "pit_error": metrics.pit_calibration_error(metrics.normal_pit(*drawn)),
    }
    for name, z in {"coverage_50": 0.6744898, "coverage_90": 1.6448536}.items():
        ends = (drawn[1] + sign * z * drawn[2] for sign in (-1, 1))
        expected[name] = metrics.interval_coverage(drawn[0], *ends)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], [value], rtol=1e-10, err_msg=name)


def test_intervals_cover(monkeypatch):
    """Intervals from 120 sets of examples cover the metrics of 100,000 examples."""
    monkeypatch.setattr(scored_module, "fit_temperature", lambda labels, probs: 1.0)  # for speed
    rng = np.random.default_rng(3)
    probs, labels = simulate(rng, 100_000, sharpness=1.6)
    halves, repeats = np.arange(200) < 100, 120
    wrong, unsure = probs.argmax(-1) != labels, 1 - probs.max(-1)
    truth = {
        "nll": metrics.nll(labels, probs),
        "brier": metrics.brier(labels, probs),
        "ece_10": metrics.expected_calibration_error(labels, probs, 10),
        "augrc": metrics.augrc(wrong, unsure),
        "error_auroc_max_probability": metrics.error_auroc(wrong, unsure),
    }
    covered = dict.fromkeys([*truth, "accuracy"], 0)
    for repeat in range(repeats):
        probs, labels = simulate(rng, 200, sharpness=1.6)
        scored = score_classes(labels, classes(probs), 1, None, halves, 0)
        draws = resample({"": scored.resamplers}, 200, num_resamples=200, seed=repeat)[""]
        for name, value in truth.items():
            floor = scored.values.get(f"{name}_floor", np.nan)
            found = bootstrap_interval(scored.values[name], draws[name], name == "ece_10", floor)
            covered[name] += found.low <= value <= found.high
        found = exact_interval(scored.values["accuracy"], 200)
        covered["accuracy"] += found.low <= 1 - wrong.mean() <= found.high
    least = 0.95 * repeats - 5.5 * np.sqrt(0.95 * 0.05 * repeats)  # 0.84
    assert min(covered.values()) > least, covered


def test_differences_are_paired():
    rng = np.random.default_rng(4)
    probs, labels = simulate(rng, 500)
    other = 0.9 * probs + 0.1 * np.roll(probs, 1, axis=1)
    halves = np.arange(500) < 250
    scored = [score_classes(labels, classes(p), 1, None, halves, 0) for p in (probs, other)]
    draws = resample({"a": scored[0].resamplers, "b": scored[1].resamplers}, 500, seed=1)
    apart = draws["a"]["nll"].var() + draws["b"]["nll"].var()
    difference = draws["b"]["nll"] - draws["a"]["nll"]
    assert difference.var() < apart / 10
    loss = [-np.log(p[np.arange(500), labels]) for p in (probs, other)]
    error = (loss[1] - loss[0]).std() / np.sqrt(500)  # standard error of the mean difference
    value, low, high = difference_interval(loss[1].mean() - loss[0].mean(), difference, False)
    assert low < value < high
    np.testing.assert_allclose(high - low, 2 * 1.96 * error, rtol=0.15)


def test_calibrated_probabilities_may_have_no_error_of_calibration():
    """The true error is 0: plain quantiles never hold it, and reflected ones half the time."""
    rng = np.random.default_rng(5)
    repeats, held = 60, np.zeros(3)
    for repeat in range(repeats):
        probs, labels = simulate(rng, 200)
        scored = score_classes(labels, classes(probs), 1, None, np.arange(200) < 100, repeat)
        draws = resample({"": scored.resamplers}, 200, num_resamples=100, seed=repeat)[""]
        pair = scored.values["ece_15"], draws["ece_15"]
        floor = scored.values["ece_15_floor"]
        for i, rest in enumerate([(False,), (True,), (True, floor)]):
            held[i] += bootstrap_interval(*pair, *rest).low == 0
    assert held[0] == 0
    assert 0.2 * repeats < held[1] < 0.8 * repeats
    assert held[2] > 0.95 * repeats - 5.5 * np.sqrt(0.95 * 0.05 * repeats)


def test_what_calibrated_normals_stay_below():
    rng = np.random.default_rng(6)
    loc, scale = np.zeros((100, 1)), np.ones((100, 1))
    floor = score_targets(rng.normal(size=(100, 1)), real(loc, scale), 0).values["pit_error_floor"]
    found = [metrics.pit_calibration_error(rng.random(100)) for _ in range(400)]
    below = np.mean(np.array(found) < floor)
    assert abs(below - 0.95) < 5.5 * np.sqrt(0.95 * 0.05 * (1 / 400 + 1 / 1000))


@pytest.mark.parametrize(("count", "low", "high"), [(50, 0.929, 1.0), (0, 0.0, 0.0712)])
def test_shares_of_all_or_nothing_are_not_certain(count, low, high):
    found = exact_interval(count / 50, 50)
    np.testing.assert_allclose(found, [count / 50, low, high], atol=1e-3)


def test_the_same_seed_gives_the_same_resamples_whatever_the_models():
    function = selective(np.array([0, 1, 0, 1]), np.arange(4.0), {"augrc": "g"})
    alone = resample({"a": [function]}, 4, num_resamples=50, seed=3)
    both = resample({"b": [function], "a": [function]}, 4, num_resamples=50, seed=3)
    np.testing.assert_array_equal(alone["a"]["g"], both["a"]["g"])
    np.testing.assert_array_equal(both["b"]["g"], both["a"]["g"])
    other = resample({"a": [function]}, 4, num_resamples=50, seed=4)
    assert (alone["a"]["g"] != other["a"]["g"]).any()
