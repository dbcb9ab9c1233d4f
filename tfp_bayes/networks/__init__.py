"""Ready-made Bayesian networks."""

from tfp_bayes.networks.basis_regression import BayesianBasisRegression
from tfp_bayes.networks.bayesian_cnn import BayesianCNN
from tfp_bayes.networks.bayesian_lenet5 import BayesianLeNet5
from tfp_bayes.networks.bayesian_mlp import BayesianMLP
from tfp_bayes.networks.bayesian_resnet20 import BayesianResNet20
from tfp_bayes.networks.contrastive import contrastive_features, nt_xent, small_features
from tfp_bayes.networks.neighbor_average import NeighborAverage
from tfp_bayes.networks.network import Network
from tfp_bayes.networks.random_distortion import RandomDistortion

__all__ = [
    "BayesianBasisRegression",
    "BayesianCNN",
    "BayesianLeNet5",
    "BayesianMLP",
    "BayesianResNet20",
    "NeighborAverage",
    "Network",
    "RandomDistortion",
    "contrastive_features",
    "nt_xent",
    "small_features",
]
