"""Plots for papers. Each function draws on the Matplotlib Axes that it is given and returns them.

Create figures with `layout="constrained"`, which makes room for the legends above the frames.
"""

from typing import TYPE_CHECKING

from tfp_bayes._plumbing.lazy import lazy_contents

if TYPE_CHECKING:
    from tfp_bayes.plots.calibration import confidence_histogram, reliability_diagram
    from tfp_bayes.plots.curves import learning_curve
    from tfp_bayes.plots.images import certain_and_uncertain_images, uncertainty_maps
    from tfp_bayes.plots.regression import regression_bands
    from tfp_bayes.plots.scores import entropy_against_information, score_histograms
    from tfp_bayes.plots.selective import retention_curve, risk_coverage_curve
    from tfp_bayes.plots.weights import signal_to_noise, weight_moments, weight_posteriors

__all__ = [
    "certain_and_uncertain_images",
    "confidence_histogram",
    "entropy_against_information",
    "learning_curve",
    "regression_bands",
    "reliability_diagram",
    "retention_curve",
    "risk_coverage_curve",
    "score_histograms",
    "signal_to_noise",
    "uncertainty_maps",
    "weight_moments",
    "weight_posteriors",
]

_DEFINED_IN = {
    "certain_and_uncertain_images": "images",
    "confidence_histogram": "calibration",
    "entropy_against_information": "scores",
    "learning_curve": "curves",
    "regression_bands": "regression",
    "reliability_diagram": "calibration",
    "retention_curve": "selective",
    "risk_coverage_curve": "selective",
    "score_histograms": "scores",
    "signal_to_noise": "weights",
    "uncertainty_maps": "images",
    "weight_moments": "weights",
    "weight_posteriors": "weights",
}

__getattr__, __dir__ = lazy_contents(__name__, __all__, _DEFINED_IN)
