"""Core sets: batches after which no example is far from a labeled one."""

import numpy as np

from tfp_bayes.active.selectors.selector import (
    Candidates,
    Selector,
    check_features,
    check_kind,
    check_query_size,
)


def k_center(features: np.ndarray, labelled: np.ndarray, query_size: int) -> np.ndarray:
    """Pick greedily the example farthest from all labeled and picked ones (a core set).

    The largest distance of an example to its nearest labeled or picked one is at most twice the
    smallest possible.

    Args:
        features: (N, F) features of the candidates.
        labelled: (L, F) features of the labeled examples. If there are none, the first pick is the
            example nearest the mean.
        query_size: Number of examples to pick.

    Returns:
        Positions (query_size,) int64, in the order picked.

    Raises:
        ValueError: If the shapes do not match, or `query_size` is out of range.

    Reference:
        Sener and Savarese 2018, algorithm 1, arXiv:1708.00489.

    Example:

    >>> k_center(np.array([[0.0], [1.0], [5.0], [6.0]]), np.array([[0.0]]), 2)
    array([3, 1])
    """
    features, labelled = check_features(features), check_features(labelled)
    check_query_size(query_size, len(features))
    distance = np.full(len(features), np.inf)  # squared, to the nearest labeled or picked example
    for row in labelled:
        distance = np.minimum(distance, _squared_distance(features, row))
    picked = []
    if not len(labelled):
        picked.append(int(np.argmin(_squared_distance(features, features.mean(0)))))
        distance = _squared_distance(features, features[picked[0]])
    while len(picked) < query_size:
        distance[picked] = -np.inf
        picked.append(int(np.argmax(distance)))
        distance = np.minimum(distance, _squared_distance(features, features[picked[-1]]))
    return np.array(picked)


def _squared_distance(features: np.ndarray, row: np.ndarray) -> np.ndarray:
    return np.square(features - row).sum(1)


class KCenter(Selector):
    """Selector of a core set; see `k_center`. It ignores the scores.

    Args:
        features: Features to compare, "pixels" or "penultimate"; see `Candidates.features`.
    """

    reads_scores = False

    def __init__(self, features: str = "penultimate"):
        self.features = check_kind(features)

    def __call__(self, candidates: Candidates, query_size: int, seed: int) -> np.ndarray:
        """Return the positions chosen."""
        del seed
        labelled = candidates.labelled_features(self.features)
        return k_center(candidates.features(self.features), labelled, query_size)

    def get_config(self) -> dict:
        """Return the constructor's arguments, plain JSON."""
        return {"features": self.features}
