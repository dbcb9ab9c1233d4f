"""Models that train, predict and export with their uncertainty."""

from tfp_bayes.models.as_prior import as_prior
from tfp_bayes.models.bayesian_model import BayesianModel
from tfp_bayes.models.continual_learner import ContinualLearner
from tfp_bayes.models.feature_density import FeatureDensity, FittedFeatureDensity
from tfp_bayes.models.function_prior import FunctionSpacePrior
from tfp_bayes.models.kl_weight import KLWeight, kl_divergence, set_kl_weight
from tfp_bayes.models.to_bayesian import to_bayesian
from tfp_bayes.models.to_deterministic import to_deterministic
from tfp_bayes.models.to_sngp import to_sngp

__all__ = [
    "BayesianModel",
    "ContinualLearner",
    "FeatureDensity",
    "FittedFeatureDensity",
    "FunctionSpacePrior",
    "KLWeight",
    "as_prior",
    "kl_divergence",
    "set_kl_weight",
    "to_bayesian",
    "to_deterministic",
    "to_sngp",
]
