"""From scores to the examples to label next."""

import numpy as np


def top_k(scores: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Picks the k highest scores; ties are broken at random, never by position.

    Args:
        scores: (N,) float, higher is sooner.
        k: Number to pick.
        seed: Integer that decides ties.

    Returns:
        Positions (k,) int64, the highest score first.

    Raises:
        ValueError: If `k` exceeds N or is below 1, or a score is NaN.

    Example:

    >>> top_k(np.array([0.1, 0.7, 0.2]), 2)
    array([1, 2])
    """
    scores = np.asarray(scores, dtype="float64")
    if scores.ndim != 1 or np.isnan(scores).any():
        raise ValueError(
            "Expected scores (N,) without NaN for `scores`. "
            f"Received: shape {scores.shape}, {int(np.isnan(scores).sum())} NaN. "
            "Hint: NaN comes from a model whose training diverged."
        )
    if not 1 <= k <= len(scores):
        raise ValueError(
            f"Expected `k` between 1 and the {len(scores)} candidates. Received: k={k}. "
            "Hint: ask for fewer, or offer more candidates."
        )
    tie_break = np.random.default_rng(seed).permutation(len(scores))
    return np.lexsort((tie_break, -scores))[:k]
