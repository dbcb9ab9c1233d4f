"""Posteriors over all weights of a model, and the methods that fit them."""

from tfp_bayes.inference.batch_ensemble import BatchEnsemble
from tfp_bayes.inference.batch_ensemble_posterior import BatchEnsemblePosterior
from tfp_bayes.inference.cyclical import CyclicalSGHMC
from tfp_bayes.inference.deep_ensemble import DeepEnsemble
from tfp_bayes.inference.ensemble import Ensemble
from tfp_bayes.inference.laplace import Laplace
from tfp_bayes.inference.laplace_posterior import LaplacePosterior
from tfp_bayes.inference.last_layer_laplace import LastLayerLaplace
from tfp_bayes.inference.materialize import materialize
from tfp_bayes.inference.mcmc import HMC, ChainPosterior
from tfp_bayes.inference.method import Method
from tfp_bayes.inference.saved import load_posterior
from tfp_bayes.inference.stochastic_gradient import SGHMC, SGLD
from tfp_bayes.inference.stored_posterior import StoredPosterior
from tfp_bayes.inference.swag import SWAG, MultiSWAG
from tfp_bayes.inference.swag_posterior import SWAGPosterior
from tfp_bayes.prediction.posterior import Posterior

__all__ = [
    "HMC",
    "SGHMC",
    "SGLD",
    "SWAG",
    "BatchEnsemble",
    "BatchEnsemblePosterior",
    "ChainPosterior",
    "CyclicalSGHMC",
    "DeepEnsemble",
    "Ensemble",
    "Laplace",
    "LaplacePosterior",
    "LastLayerLaplace",
    "Method",
    "MultiSWAG",
    "Posterior",
    "SWAGPosterior",
    "StoredPosterior",
    "load_posterior",
    "materialize",
]
