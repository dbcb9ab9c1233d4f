"""Active learning: the model chooses which examples are worth a label."""

from tfp_bayes.active import (
    acquisition,
    filters,
    initial,
    oracles,
    selectors,
    stopping,
)
from tfp_bayes.active.acquisition import (
    bald,
    epig,
    least_confident,
    margin,
    max_entropy,
    mean_std,
    predictive_variance,
    random,
    variation_ratios,
)
from tfp_bayes.active.annotators import Annotators, dawid_skene, majority
from tfp_bayes.active.learner import ActiveLearner
from tfp_bayes.active.oracles import ArrayOracle, HumanOracle, NoisyOracle
from tfp_bayes.active.pool import Pool
from tfp_bayes.active.round import Round, filter_quality
from tfp_bayes.active.selectors import batch_bald, top_k

__all__ = [
    "ActiveLearner",
    "Annotators",
    "ArrayOracle",
    "HumanOracle",
    "NoisyOracle",
    "Pool",
    "Round",
    "acquisition",
    "bald",
    "batch_bald",
    "dawid_skene",
    "epig",
    "filter_quality",
    "filters",
    "initial",
    "least_confident",
    "majority",
    "margin",
    "max_entropy",
    "mean_std",
    "oracles",
    "predictive_variance",
    "random",
    "rows",
    "selectors",
    "stopping",
    "top_k",
    "variation_ratios",
]
