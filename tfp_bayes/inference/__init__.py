"""Posteriors over all weights of a model, which a `Predictor` samples."""

from tfp_bayes.inference.ensemble import Ensemble
from tfp_bayes.inference.laplace import LastLayerLaplace

__all__ = ["Ensemble", "LastLayerLaplace"]
