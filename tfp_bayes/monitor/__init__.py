"""Monitoring of a deployed model: drift of its uncertainty, and calibration as labels arrive."""

from tfp_bayes.monitor.drift import (
    DriftStatistic,
    binned_kolmogorov_smirnov,
    population_stability_index,
)
from tfp_bayes.monitor.labels import Calibration
from tfp_bayes.monitor.uncertainty_monitor import DriftTest, UncertaintyMonitor, Window

__all__ = [
    "Calibration",
    "DriftStatistic",
    "DriftTest",
    "UncertaintyMonitor",
    "Window",
    "binned_kolmogorov_smirnov",
    "population_stability_index",
]
