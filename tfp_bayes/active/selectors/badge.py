"""BADGE: batches that are uncertain and diverse, by gradients of the last layer."""

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
    """Pick by k-means++ seeding on gradients of the last layer, with predicted classes as labels.

    A gradient is long if the prediction is uncertain, and similar inputs have similar gradients.
    The gradients (N, K F) are never formed: they are outer products, whose distances follow from
    inner products of their factors.

    Args:
        probabilities: (N, K) predictive means.
        features: (N, F) inputs of the last layer.
        query_size: Number of examples to pick.
        seed: Integer.

    Returns:
        Positions (query_size,) int64, in the order picked.

    Raises:
        ValueError: If the shapes do not match, or `query_size` is out of range.

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
    distance = np.full(len(norm), np.inf)  # squared distance to the nearest picked example
    while len(picked) < query_size:
        last = picked[-1]
        inner = (error @ error[last]) * (features @ features[last])
        distance = np.minimum(distance, np.maximum(norm + norm[last] - 2 * inner, 0))
        distance[picked] = 0
        total = distance.sum()
        left = np.setdiff1d(np.arange(len(norm)), picked)
        # If every remaining example coincides with a picked one, choose among them uniformly.
        picked.append(int(rng.choice(len(norm), p=distance / total) if total else rng.choice(left)))
    return np.array(picked)


class BADGE(Selector):
    """Selector of uncertain and diverse examples; see `badge`. It ignores the scores."""

    likelihoods = ("categorical",)

    reads_scores = False

    def __call__(self, candidates: Candidates, query_size: int, seed: int) -> np.ndarray:
        """Return the positions chosen."""
        features = candidates.features("penultimate")
        return badge(candidates.prediction.mean, features, query_size, seed)
