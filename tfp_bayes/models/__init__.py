"""Models that train, predict and export with their uncertainty."""

from tfp_bayes.models.basis_regression import BayesianBasisRegression
from tfp_bayes.models.bayesian_cnn import BayesianCNN
from tfp_bayes.models.bayesian_lenet5 import BayesianLeNet5
from tfp_bayes.models.bayesian_mlp import BayesianMLP
from tfp_bayes.models.bayesian_model import BayesianModel
from tfp_bayes.models.bayesian_resnet20 import BayesianResNet20
from tfp_bayes.models.kl_weight import KLWeight, kl_divergence, set_kl_weight
from tfp_bayes.models.network import Network
from tfp_bayes.models.to_bayesian import to_bayesian
from tfp_bayes.models.to_deterministic import to_deterministic

__all__ = [
    "BayesianBasisRegression",
    "BayesianCNN",
    "BayesianLeNet5",
    "BayesianMLP",
    "BayesianModel",
    "BayesianResNet20",
    "KLWeight",
    "Network",
    "kl_divergence",
    "set_kl_weight",
    "to_bayesian",
    "to_deterministic",
]
