"""Active learning: the model chooses which examples to label next."""

from typing import TYPE_CHECKING

from tfp_bayes._plumbing.lazy import lazy_contents

if TYPE_CHECKING:
    from tfp_bayes.active import (
        acquisition,
        filters,
        initial,
        oracles,
        rows,
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
    from tfp_bayes.active.learner import ActiveLearner
    from tfp_bayes.active.oracles import (
        Annotators,
        ArrayOracle,
        HumanOracle,
        NoisyOracle,
        dawid_skene,
        majority,
    )
    from tfp_bayes.active.pool import Pool
    from tfp_bayes.active.query import Query
    from tfp_bayes.active.refit import Evaluation, Refit
    from tfp_bayes.active.round import Round, filter_quality
    from tfp_bayes.active.selectors.batch_bald import batch_bald
    from tfp_bayes.active.selectors.top_k import top_k

__all__ = [
    "ActiveLearner",
    "Annotators",
    "ArrayOracle",
    "Evaluation",
    "HumanOracle",
    "NoisyOracle",
    "Pool",
    "Query",
    "Refit",
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

_DEFINED_IN = {
    "ActiveLearner": "learner",
    "Annotators": "oracles",
    "ArrayOracle": "oracles",
    "Evaluation": "refit",
    "HumanOracle": "oracles",
    "NoisyOracle": "oracles",
    "Pool": "pool",
    "Query": "query",
    "Refit": "refit",
    "Round": "round",
    "bald": "acquisition",
    "batch_bald": "selectors",
    "dawid_skene": "oracles",
    "epig": "acquisition",
    "filter_quality": "round",
    "least_confident": "acquisition",
    "majority": "oracles",
    "margin": "acquisition",
    "max_entropy": "acquisition",
    "mean_std": "acquisition",
    "predictive_variance": "acquisition",
    "random": "acquisition",
    "top_k": "selectors",
    "variation_ratios": "acquisition",
}

__getattr__, __dir__ = lazy_contents(__name__, __all__, _DEFINED_IN)
