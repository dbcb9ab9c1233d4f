"""Measures of uncertainty in posterior samples, in NumPy only."""

from tfp_bayes.uncertainty.calibration import apply_temperature, fit_temperature
from tfp_bayes.uncertainty.measures import (
    aleatoric_variance,
    epistemic_variance,
    expected_entropy,
    mean_std,
    mutual_information,
    predictive_entropy,
    predictive_mean,
    variance,
    variation_ratio,
)

__all__ = [
    "aleatoric_variance",
    "apply_temperature",
    "epistemic_variance",
    "expected_entropy",
    "fit_temperature",
    "mean_std",
    "mutual_information",
    "predictive_entropy",
    "predictive_mean",
    "variance",
    "variation_ratio",
]
