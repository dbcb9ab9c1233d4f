"""Selectors, which choose the batch to label next from scored candidates.

Each rule exists as a function of arrays (`batch_bald`) and as a class for the learner
(`BatchBALD`).
"""

from tfp_bayes._plumbing.configured import get_configured
from tfp_bayes.active.built_in import SELECTORS
from tfp_bayes.active.selectors.badge import BADGE, badge
from tfp_bayes.active.selectors.batch_bald import BatchBALD, batch_bald
from tfp_bayes.active.selectors.diverse import Diverse, diverse
from tfp_bayes.active.selectors.greedy_variance import GreedyVariance
from tfp_bayes.active.selectors.k_center import KCenter, k_center
from tfp_bayes.active.selectors.selector import Candidates, Selector
from tfp_bayes.active.selectors.stochastic import (
    Power,
    Softmax,
    Softrank,
    power,
    softmax,
    softrank,
)
from tfp_bayes.active.selectors.top_k import TopK, top_k

__all__ = [
    "BADGE",
    "BatchBALD",
    "Candidates",
    "Diverse",
    "GreedyVariance",
    "KCenter",
    "Power",
    "Selector",
    "Softmax",
    "Softrank",
    "TopK",
    "badge",
    "batch_bald",
    "diverse",
    "get",
    "k_center",
    "power",
    "softmax",
    "softrank",
    "top_k",
]


def get(identifier: str | dict | Selector) -> Selector:
    """Return the selector for a name, a dictionary, or a `Selector`.

    Args:
        identifier: "top_k", "batch_bald", "diverse", "power", "softmax", "softrank", "k_center",
            "badge", "greedy_variance" (with their default arguments), a dictionary with a "name"
            and arguments, or a `Selector`.

    Raises:
        ValueError: If `identifier` is none of these.

    Example:

    >>> tfp_bayes.active.selectors.get("diverse")
    Diverse(coefficient=0.5, features='pixels')
    """
    return get_configured(identifier, Selector, "selector", SELECTORS)
