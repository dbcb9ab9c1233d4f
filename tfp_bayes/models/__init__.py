"""Models that train, predict and export with their uncertainty."""

from tfp_bayes.models.bayesian_cnn import BayesianCNN
from tfp_bayes.models.bayesian_model import BayesianModel

__all__ = ["BayesianCNN", "BayesianModel"]
