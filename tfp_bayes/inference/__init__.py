"""From a trained model to samples of its predictions."""

from tfp_bayes.inference.ensemble import Ensemble
from tfp_bayes.inference.prediction import Prediction
from tfp_bayes.inference.predictor import Posterior, Predictor

__all__ = ["Ensemble", "Posterior", "Prediction", "Predictor"]
