"""From a trained model to samples of its predictions."""

from tfp_bayes.inference.ensemble import Ensemble
from tfp_bayes.inference.laplace import LastLayerLaplace
from tfp_bayes.inference.prediction import Prediction
from tfp_bayes.inference.predictor import Posterior, Predictor

__all__ = ["Ensemble", "LastLayerLaplace", "Posterior", "Prediction", "Predictor"]
