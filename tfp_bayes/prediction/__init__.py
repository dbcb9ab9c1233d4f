"""Posterior samples of a model's predictions, and the `Prediction` that summarizes them."""

from tfp_bayes.prediction.posterior import Posterior
from tfp_bayes.prediction.prediction import Prediction, concatenate
from tfp_bayes.prediction.predictor import DEFAULT_BATCH_SIZE, Predictor

__all__ = ["DEFAULT_BATCH_SIZE", "Posterior", "Prediction", "Predictor", "concatenate"]
