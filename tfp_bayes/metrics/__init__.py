"""Metrics that compare predictions with labels, as plain functions and as Keras classes.

The functions take whole arrays. The classes accumulate batches, for `compile(metrics=[...])`, and
return the same numbers. Metrics that rank examples (`selective`, `detection`) or bin them by equal
mass need all scores at once and have no class.
"""

from tfp_bayes.metrics.calibration import (
    CalibrationFloor,
    ReliabilityBins,
    calibration_floor,
    classwise_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    reliability_bins,
)
from tfp_bayes.metrics.classification import (
    BrierDecomposition,
    accuracy,
    brier,
    brier_decomposition,
    nll,
)
from tfp_bayes.metrics.crps import crps_mixture, crps_normal, crps_samples, energy_score
from tfp_bayes.metrics.detection import aupr_in, aupr_out, auroc, fpr_at_tpr
from tfp_bayes.metrics.keras_classification import (
    BrierScore,
    ClasswiseCalibrationError,
    ExpectedCalibrationError,
    MaximumCalibrationError,
    NegativeLogLikelihood,
)
from tfp_bayes.metrics.keras_regression import (
    IntervalCoverage,
    IntervalScore,
    NormalCRPS,
    NormalNegativeLogLikelihood,
    PITCalibrationError,
    RootMeanSquaredError,
)
from tfp_bayes.metrics.regression import (
    interval_coverage,
    interval_score,
    normal_nll,
    normal_pit,
    pit_calibration_error,
    rmse,
    sample_pit,
)
from tfp_bayes.metrics.selective import (
    RetentionCurve,
    accuracy_at_coverage,
    augrc,
    aurc,
    coverage_at_risk,
    error_auroc,
    excess_aurc,
    retention_curve,
)

__all__ = [
    "BrierDecomposition",
    "BrierScore",
    "CalibrationFloor",
    "ClasswiseCalibrationError",
    "ExpectedCalibrationError",
    "IntervalCoverage",
    "IntervalScore",
    "MaximumCalibrationError",
    "NegativeLogLikelihood",
    "NormalCRPS",
    "NormalNegativeLogLikelihood",
    "PITCalibrationError",
    "ReliabilityBins",
    "RetentionCurve",
    "RootMeanSquaredError",
    "accuracy",
    "accuracy_at_coverage",
    "augrc",
    "aupr_in",
    "aupr_out",
    "aurc",
    "auroc",
    "brier",
    "brier_decomposition",
    "calibration_floor",
    "classwise_calibration_error",
    "coverage_at_risk",
    "crps_mixture",
    "crps_normal",
    "crps_samples",
    "energy_score",
    "error_auroc",
    "excess_aurc",
    "expected_calibration_error",
    "fpr_at_tpr",
    "interval_coverage",
    "interval_score",
    "maximum_calibration_error",
    "nll",
    "normal_nll",
    "normal_pit",
    "pit_calibration_error",
    "reliability_bins",
    "retention_curve",
    "rmse",
    "sample_pit",
]
