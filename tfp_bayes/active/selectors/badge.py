"""Batches that are uncertain and diverse at once, by gradients."""

import numpy as np

from tfp_bayes.active.selectors.selector import (
    Candidates,
    Selector,
    check_features,
    check_query_size,
)


def badge(
    probabilities: np.ndarray, features: np.ndarray, query_size: int, seed: int = 0
) -> np.ndarray:
    """Picks by k-means++ on the gradients of the last layer, had the best guess been the label.

    A gradient is long where the guess is unsure, and points where the features do. The (N, K F)
    gradients are never formed: an outer product's distances follow from those of its factors.

    Args:
        probabilities: (N, K) predictive mean.
        features: (N, F) what the last layer sees.
        query_size: Number to pick.
        seed: Integer.

    Returns:
        Positions (query_size,) int64, in the order picked.

    Raises:
        ValueError: If shapes do not fit, or `query_size` is out of range.

    Reference:
        Ash et al. 2020, algorithm 1, arXiv:1906.03671.

    Example:

    >>> badge(np.array([[0.5, 0.5], [0.5, 0.5], [1.0, 0.0]]), np.eye(3), 2)
    array([0, 1])
    """
    probabilities = np.asarray(probabilities, "float64")
    features = check_features(features, len(probabilities)).astype("float64")
    check_query_size(query_size, len(probabilities))
    error = probabilities - np.eye(probabilities.shape[1])[probabilities.argmax(1)]  # (N, K)
    norm = np.square(error).sum(1) * np.square(features).sum(1)
    rng = np.random.default_rng(seed)
    picked = [int(np.argmax(norm))]
    distance = np.full(len(norm), np.inf)  # squared, to the nearest picked
    while len(picked) < query_size:
        last = picked[-1]
        inner = (error @ error[last]) * (features @ features[last])
        distance = np.minimum(distance, np.maximum(norm + norm[last] - 2 * inner, 0))
        distance[picked] = 0
        total = distance.sum()
        left = np.setdiff1d(np.arange(len(norm)), picked)
        # Where all that is left coincides with what is picked, any will do.
        picked.append(int(rng.choice(len(norm), p=distance / total) if total else rng.choice(left)))
    return np.array(picked)


class BADGE(Selector):
    """Uncertain and diverse by the last layer's gradients; see `badge`. Looks at no score."""

    likelihoods = ("categorical",)

    reads_scores = False

    def __call__(self, candidates: Candidates, query_size: int, seed: int) -> np.ndarray:
        """Returns the positions chosen."""
        features = candidates.features("penultimate")
        return badge(candidates.prediction.mean, features, query_size, seed)
