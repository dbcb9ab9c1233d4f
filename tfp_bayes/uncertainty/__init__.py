"""Measures of uncertainty in posterior samples, recalibration and conformal prediction."""

from tfp_bayes.uncertainty.calibration import apply_temperature, fit_temperature
from tfp_bayes.uncertainty.conformal import (
    aps_scores,
    choose_raps_penalty,
    class_conditional_quantiles,
    conformal_quantile,
    cqr_scores,
    lac_scores,
    normalized_scores,
    row_uniforms,
)
from tfp_bayes.uncertainty.conformal_predictor import Conformal
from tfp_bayes.uncertainty.isotonic import Isotonic
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
from tfp_bayes.uncertainty.selective import Selected, SelectiveClassifier, risk_bound
from tfp_bayes.uncertainty.vector_scaling import VectorScaling

__all__ = [
    "Conformal",
    "Isotonic",
    "Selected",
    "SelectiveClassifier",
    "VectorScaling",
    "aleatoric_variance",
    "apply_temperature",
    "aps_scores",
    "choose_raps_penalty",
    "class_conditional_quantiles",
    "conformal_quantile",
    "cqr_scores",
    "epistemic_variance",
    "expected_entropy",
    "fit_temperature",
    "lac_scores",
    "mean_std",
    "mutual_information",
    "normalized_scores",
    "predictive_entropy",
    "predictive_mean",
    "risk_bound",
    "row_uniforms",
    "variance",
    "variation_ratio",
]
