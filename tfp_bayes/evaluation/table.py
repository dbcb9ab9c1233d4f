"""Metrics of the table: their names, which way is better, and how their intervals are made."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tfp_bayes.uncertainty import risk_bound

LEVEL = 0.95


class Metric(NamedTuple):
    """One row of the table.

    Attributes:
        title: What it is called.
        better: "higher" or "lower", or "" where a number is not to be ranked by.
        biased: Whether it is a sum of absolute values, which chance makes larger, so that its
            interval is reflected.
    """

    title: str
    better: str
    biased: bool = False


class Estimate(NamedTuple):
    """A number with its interval of 95 %; both ends are NaN where there is none.

    Attributes:
        value: The metric of the examples.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float = float("nan")
    high: float = float("nan")


SCORES = {  # what is called uncertainty, of a prediction of classes
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
    "ece_10_floor": Metric("95 % of calibrated models below, 10 bins", ""),
    "ece_15": Metric("ECE, 15 bins", "lower", biased=True),
    "ece_15_floor": Metric("95 % of calibrated models below, 15 bins", ""),
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
    "pit_error_floor": Metric("95 % of calibrated models below", ""),
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
    """Returns a metric with the interval that its resamples give.

    Args:
        value: The metric.
        draws: (B,) of resamples; those that are NaN are left out.
        biased: Whether to reflect the quantiles about the value. Resampling adds to a sum of
            absolute values what sampling has added already, so that its quantiles lie too high
            by twice that. The interval is widened to hold the value, where it would not.
        floor: What 95 % of calibrated models stay below. A value that does so too may be 0, near
            which reflection alone is wrong in half of the cases.
    """
    found = _quantiles(value, draws, biased)
    if biased and np.isfinite(found.low):
        low = 0.0 if value <= floor else min(max(found.low, 0.0), value)
        found = Estimate(value, low, max(found.high, value))
    return found


def difference_interval(value: float, draws: np.ndarray, biased: bool) -> Estimate:
    """Returns a difference of two metrics with its interval, arguments as `bootstrap_interval`."""
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

    A bootstrap of 100 right answers of 100 would say that the next is right for certain.

    Reference:
        Clopper and Pearson 1934.
    """
    count = round(share * num_rows)
    tail = (1 - LEVEL) / 2
    low = 1 - risk_bound(num_rows - count, num_rows, 1 - tail)
    return Estimate(share, float(low), float(risk_bound(count, num_rows, 1 - tail)))
