"""Batches drawn at random, with higher probability for higher scores."""

from collections.abc import Callable

import numpy as np

from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes.active.selectors.selector import Candidates, Selector, check_scores
from tfp_bayes.active.selectors.top_k import highest, top_k


def power(scores: np.ndarray, query_size: int, beta: float = 1.0, seed: int = 0) -> np.ndarray:
    """Draw without replacement with probability proportional to score^beta.

    This matches BatchBALD in most published comparisons and costs almost nothing. An example with a
    score of 0 or less is drawn only if no other is left.

    Args:
        scores: (N,) float scores, where higher means sooner.
        query_size: Number of examples to draw.
        beta: Positive inverse temperature. Near 0, draws are almost uniform; the larger it is, the
            more the batch resembles that of `top_k`.
        seed: Integer.

    Returns:
        Positions (query_size,) int64.

    Raises:
        ValueError: If `query_size` exceeds N or is below 1, `beta` is not positive and finite, or
            a score is not finite.

    Reference:
        Kirsch et al. 2021, "Stochastic Batch Acquisition", section 3, arXiv:2106.12059.

    Example:

    >>> power(np.array([1e-9, 1.0, 0.0]), 2)
    array([1, 0])
    """
    with np.errstate(divide="ignore"):
        logits = np.log(np.maximum(check_scores(scores), 0))
    return _gumbel_top_k(logits, query_size, beta, seed)


def softmax(scores: np.ndarray, query_size: int, beta: float = 1.0, seed: int = 0) -> np.ndarray:
    """Draw without replacement with probability proportional to exp(beta score). See `power`."""
    return _gumbel_top_k(check_scores(scores), query_size, beta, seed)


def softrank(scores: np.ndarray, query_size: int, beta: float = 1.0, seed: int = 0) -> np.ndarray:
    """Draw without replacement with probability proportional to rank^-beta. See `power`."""
    scores = check_scores(scores)
    rank = np.empty(len(scores))
    rank[top_k(scores, len(scores), seed)] = np.arange(1, len(scores) + 1)
    return _gumbel_top_k(-np.log(rank), query_size, beta, seed)


def _gumbel_top_k(logits: np.ndarray, query_size: int, beta: float, seed: int) -> np.ndarray:
    """Draw without replacement with probability proportional to exp(beta logits)."""
    check_positive(beta=beta)
    gumbel = np.random.default_rng([seed, 1]).gumbel(size=len(logits))
    return highest(beta * logits + gumbel, query_size, seed)


class _Stochastic(Selector):
    """Selector that draws with an inverse temperature beta."""

    draw: Callable[..., np.ndarray]

    def __init__(self, beta: float = 1.0):
        check_positive(beta=beta)
        self.beta = beta

    def __call__(self, candidates: Candidates, query_size: int, seed: int) -> np.ndarray:
        """Return the positions chosen."""
        return type(self).draw(candidates.scores, query_size, self.beta, seed)

    def get_config(self) -> dict:
        """Return the constructor's arguments, plain JSON."""
        return {"beta": self.beta}


class Power(_Stochastic):
    """Selector that draws with probability proportional to score^beta; see `power`."""

    draw = staticmethod(power)


class Softmax(_Stochastic):
    """Selector that draws with probability proportional to exp(beta score); see `softmax`."""

    draw = staticmethod(softmax)


class Softrank(_Stochastic):
    """Selector that draws with probability proportional to rank^-beta; see `softrank`."""

    draw = staticmethod(softrank)
