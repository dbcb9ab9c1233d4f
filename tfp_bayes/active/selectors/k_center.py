"""Examples that leave none far from a labelled one."""

import numpy as np

from tfp_bayes.active.selectors.selector import (
    Candidates,
    Selector,
    check_features,
    check_kind,
    check_query_size,
)


def k_center(features: np.ndarray, labelled: np.ndarray, query_size: int) -> np.ndarray:
    """Picks greedily the example farthest from all that are labelled or picked (a core set).

    Within twice the best possible largest distance. Looks at no score.

    Args:
        features: (N, F) of the candidates.
        labelled: (L, F) of the labelled examples; with none, the first pick is the example
            nearest the mean.
        query_size: Number to pick.

    Returns:
        Positions (query_size,) int64, in the order picked.

    Raises:
        ValueError: If shapes do not fit, or `query_size` is out of range.

    Reference:
        Sener and Savarese 2018, algorithm 1, arXiv:1708.00489.

    Example:

    >>> k_center(np.array([[0.0], [1.0], [5.0], [6.0]]), np.array([[0.0]]), 2)
    array([3, 1])
    """
    features, labelled = check_features(features), check_features(labelled)
    check_query_size(query_size, len(features))
    distance = np.full(len(features), np.inf)  # to the nearest labelled or picked, squared
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
    """A core set: no example far from a labelled one; see `k_center`. Looks at no score.

    Args:
        features: "pixels" or "penultimate", what is compared.
    """

    reads_scores = False

    def __init__(self, features: str = "penultimate"):
        self.features = check_kind(features)

    def __call__(self, candidates: Candidates, query_size: int, seed: int) -> np.ndarray:
        """Returns the positions chosen."""
        del seed
        labelled = candidates.labelled_features(self.features)
        return k_center(candidates.features(self.features), labelled, query_size)

    def get_config(self) -> dict:
        """Returns the constructor's arguments, plain JSON."""
        return {"features": self.features}
