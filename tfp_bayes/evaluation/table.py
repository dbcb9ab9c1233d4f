"""Metrics in the table: their titles, which direction is better, and their intervals."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tfp_bayes.uncertainty import risk_bound

LEVEL = 0.95


class Metric(NamedTuple):
    """One row of the table.

    Attributes:
        title: Title of the row.
        better: "higher" or "lower", or "" if models cannot be ranked by the number.
        biased: Whether the metric is a sum of absolute values. Chance makes those larger, so the
            interval is reflected.
    """

    title: str
    better: str
    biased: bool = False


class Estimate(NamedTuple):
    """A number with its 95 % interval; both ends are NaN if there is no interval.

    Attributes:
        value: The metric on the examples.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")


SCORES = {  # measures of uncertainty of predicted classes, with titles
    "entropy": "entropy",
    "mutual_information": "mutual information",
    "max_probability": "1 - max p",
}


def _by_score(key: str, title: str, better: str) -> dict[str, Metric]:
    return {f"{key}_{s}": Metric(f"{title}, {name}", better) for s, name in SCORES.items()}


CLASSIFICATION: Mapping[str, Metric] = {
    "accuracy": Metric("accuracy", "higher"),
    "nll": Metric("NLL", "lower"),
    "nll_calibrated": Metric("NLL at the best temperature", "lower"),
    "temperature": Metric("best temperature", ""),
    "brier": Metric("Brier score", "lower"),
    "ece_10": Metric("ECE, 10 bins", "lower", biased=True),
    "ece_10_floor": Metric("ECE floor, 10 bins", ""),
    "ece_15": Metric("ECE, 15 bins", "lower", biased=True),
    "ece_15_floor": Metric("ECE floor, 15 bins", ""),
    "aurc": Metric("AURC, 1 - max p", "lower"),
    "augrc": Metric("AUGRC, 1 - max p", "lower"),
    **_by_score("error_auroc", "AUROC of errors", "higher"),
    **_by_score("ood_auroc", "OOD AUROC", "higher"),
    **_by_score("ood_fpr95", "OOD FPR95", "lower"),
}

COVERAGES = {"coverage_50": 0.5, "coverage_90": 0.9, "coverage_95": 0.95}

REGRESSION: Mapping[str, Metric] = {
    "nll": Metric("NLL", "lower"),
    "rmse": Metric("RMSE", "lower"),
    "crps": Metric("CRPS", "lower"),
    **{key: Metric(f"coverage of {level:.0%} intervals", "") for key, level in COVERAGES.items()},
    "pit_error": Metric("PIT calibration error", "lower", biased=True),
    "pit_error_floor": Metric("PIT calibration error floor", ""),
    **{
        key: metric
        for key, metric in CLASSIFICATION.items()
        if key.startswith("ood_") and "max_p" not in key
    },
}

COST: Mapping[str, Metric] = {
    "num_samples": Metric("samples", ""),
    "milliseconds": Metric("prediction, ms per example", "lower"),
}


def bootstrap_interval(
    value: float, draws: np.ndarray, biased: bool, floor: float = float("nan")
) -> Estimate:
    """Returns a metric with its bootstrap interval.

    Args:
        value: The metric on the examples.
        draws: (B,) values of the metric on resamples; NaN values are ignored.
        biased: Whether to reflect the quantiles about the value. Sampling inflates a sum of
            absolute values, and resampling inflates it again by the same amount, so the quantiles
            lie too high by twice that amount. The interval is widened if it does not hold the
            value.
        floor: The 95 % quantile of the metric for calibrated models. The true value behind a
            smaller value may be 0, so the interval then starts at 0; reflection alone would miss 0
            in half of the cases.
    """
    found = _quantiles(value, draws, biased)
    if biased and np.isfinite(found.low):
        low = 0.0 if value <= floor else min(max(found.low, 0.0), value)
        found = Estimate(value, low, max(found.high, value))
    return found


def difference_interval(value: float, draws: np.ndarray, biased: bool) -> Estimate:
    """Returns a difference of two metrics with its interval; see `bootstrap_interval`."""
    return _quantiles(value, draws, biased)


def _quantiles(value: float, draws: np.ndarray, reflect: bool) -> Estimate:
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or draws.size == 0:
        return Estimate(value)
    low, high = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
    return (
        Estimate(value, 2 * value - high, 2 * value - low)
        if reflect
        else Estimate(value, low, high)
    )


def exact_interval(share: float, num_rows: int) -> Estimate:
    """Returns a share of independent examples with its exact binomial interval.

    Use it instead of the bootstrap, whose interval has width 0 if all predictions are right.

    Reference:
        Clopper and Pearson 1934.
    """
    count = round(share * num_rows)
    tail = (1 - LEVEL) / 2
    low = 1 - risk_bound(num_rows - count, num_rows, 1 - tail)
    return Estimate(share, float(low), float(risk_bound(count, num_rows, 1 - tail)))
