"""Metrics, which compare predictions with labels: plain functions beside Keras classes."""

from tfp_bayes.metrics.classification import accuracy, brier, expected_calibration_error, nll
from tfp_bayes.metrics.regression import RootMeanSquaredError

__all__ = ["RootMeanSquaredError", "accuracy", "brier", "expected_calibration_error", "nll"]
