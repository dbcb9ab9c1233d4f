"""Batches of high scores whose examples do not resemble each other."""

import numpy as np

from tfp_bayes._plumbing.configured import check_finite
from tfp_bayes.active.selectors.selector import (
    Candidates,
    Selector,
    check_features,
    check_kind,
    check_query_size,
    check_scores,
)


def diverse(
    scores: np.ndarray,
    features: np.ndarray,
    query_size: int,
    coefficient: float = 0.5,
    seed: int = 0,
) -> np.ndarray:
    """Pick greedily by score minus a penalty for resembling an example that is already picked.

    Each pick maximizes score / max |score| - coefficient max(0, c), where c is the largest cosine
    similarity to a picked example.

    Args:
        scores: (N,) float scores, where higher means sooner.
        features: (N, F) features to compare. Their mean is subtracted first.
        query_size: Number of examples to pick.
        coefficient: Weight of the penalty. 0 gives `top_k`; a negative value prefers examples that
            resemble each other.
        seed: Integer that decides ties.

    Returns:
        Positions (query_size,) int64, in the order picked.

    Raises:
        ValueError: If the shapes do not match, a score is not finite, or `query_size` is out of
            range.

    Reference:
        Carbonell and Goldstein 1998, "The Use of MMR, Diversity-Based Reranking", equation 1.

    Example:

    >>> features = np.array([[1.0, 0.0], [0.9, 0.0], [-1.0, 0.5], [-1.0, -0.5]])
    >>> diverse(np.array([1.0, 0.9, 0.8, 0.1]), features, 2)
    array([0, 2])
    """
    scores = check_scores(scores)
    features = check_features(features, len(scores))
    check_query_size(query_size, len(scores))
    centred = features - features.mean(0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    directions = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    highest = np.abs(scores).max()
    relative = scores / highest if highest > 0 else scores
    nearest = np.zeros(len(scores))  # largest cosine to a picked example, at least 0
    tie_break = np.random.default_rng(seed).permutation(len(scores))
    left = np.ones(len(scores), bool)
    picked = []
    for _ in range(query_size):
        value = np.where(left, relative - coefficient * nearest, -np.inf)
        best = np.flatnonzero(value == value.max())
        picked.append(best[np.argmin(tie_break[best])])
        left[picked[-1]] = False
        nearest = np.maximum(nearest, directions @ directions[picked[-1]])
    return np.array(picked)


class Diverse(Selector):
    """Selector of high scores whose examples do not resemble each other; see `diverse`.

    Args:
        coefficient: Weight of the penalty.
        features: Features to compare, "pixels" or "penultimate"; see `Candidates.features`.
    """

    def __init__(self, coefficient: float = 0.5, features: str = "pixels"):
        check_finite(coefficient=coefficient)
        self.coefficient = float(coefficient)
        self.features = check_kind(features)

    def __call__(self, candidates: Candidates, query_size: int, seed: int) -> np.ndarray:
        """Return the positions chosen."""
        features = candidates.features(self.features)
        return diverse(candidates.scores, features, query_size, self.coefficient, seed)

    def get_config(self) -> dict:
        """Return the constructor's arguments, plain JSON."""
        return {"coefficient": self.coefficient, "features": self.features}
