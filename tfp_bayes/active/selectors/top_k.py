"""Batches of the highest scores."""

import numpy as np

from tfp_bayes.active.selectors.selector import (
    Candidates,
    Selector,
    check_query_size,
    check_scores,
)


def top_k(scores: np.ndarray, query_size: int, seed: int = 0) -> np.ndarray:
    """Pick the highest scores, breaking ties at random instead of by position.

    Args:
        scores: (N,) float scores, where higher means sooner.
        query_size: Number of examples to pick.
        seed: Integer that decides ties.

    Returns:
        Positions (query_size,) int64, the highest score first.

    Raises:
        ValueError: If `query_size` exceeds N or is below 1, or a score is not finite.

    Example:

    >>> top_k(np.array([0.1, 0.7, 0.2]), 2)
    array([1, 2])
    """
    return highest(check_scores(scores), query_size, seed)


def highest(values: np.ndarray, query_size: int, seed: int) -> np.ndarray:
    """Pick the highest values (N,), which may be infinite, breaking ties at random."""
    check_query_size(query_size, len(values))
    tie_break = np.random.default_rng(seed).permutation(len(values))
    return np.lexsort((tie_break, -values))[:query_size]


class TopK(Selector):
    """Selector of the highest scores. Best for one label at a time: a batch may be redundant."""

    def __call__(self, candidates: Candidates, query_size: int, seed: int) -> np.ndarray:
        """Return the positions chosen."""
        return top_k(candidates.scores, query_size, seed)
