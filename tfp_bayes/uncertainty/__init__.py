"""From samples to numbers: measures of uncertainty and scores of predictions, NumPy only."""

from tfp_bayes.uncertainty.calibration import apply_temperature, fit_temperature
from tfp_bayes.uncertainty.measures import (
    aleatoric_variance,
    expected_entropy,
    mean_std,
    mutual_information,
    predictive_entropy,
    predictive_mean,
    variance,
    variation_ratio,
)
from tfp_bayes.uncertainty.metrics import accuracy, brier, expected_calibration_error, nll

__all__ = [
    "accuracy",
    "aleatoric_variance",
    "apply_temperature",
    "brier",
    "expected_calibration_error",
    "expected_entropy",
    "fit_temperature",
    "mean_std",
    "mutual_information",
    "nll",
    "predictive_entropy",
    "predictive_mean",
    "variance",
    "variation_ratio",
]
