"""Active learning: the model chooses which examples are worth a label."""

from tfp_bayes.active import acquisition, initial, report
from tfp_bayes.active.acquisition import bald, max_entropy, mean_std, random, variation_ratios
from tfp_bayes.active.learner import ActiveLearner
from tfp_bayes.active.pool import Pool
from tfp_bayes.active.round import Round, images_to_error
from tfp_bayes.active.selection import top_k

__all__ = [
    "ActiveLearner",
    "Pool",
    "Round",
    "acquisition",
    "bald",
    "images_to_error",
    "initial",
    "max_entropy",
    "mean_std",
    "random",
    "report",
    "top_k",
    "variation_ratios",
]
