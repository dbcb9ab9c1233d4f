"""From a model to samples of its predictions, and from samples to a `Prediction`."""

from tfp_bayes.prediction.prediction import Prediction, concatenate
from tfp_bayes.prediction.predictor import DEFAULT_BATCH_SIZE, Posterior, Predictor

__all__ = ["DEFAULT_BATCH_SIZE", "Posterior", "Prediction", "Predictor", "concatenate"]
