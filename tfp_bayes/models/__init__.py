"""Models that train, predict and export with their uncertainty."""

from tfp_bayes.models.bayesian_cnn import BayesianCNN
from tfp_bayes.models.bayesian_model import BayesianModel
from tfp_bayes.models.kl_weight import KLWeight, kl_divergence, set_kl_weight

__all__ = ["BayesianCNN", "BayesianModel", "KLWeight", "kl_divergence", "set_kl_weight"]
