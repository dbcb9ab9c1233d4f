"""Class-conditional normal distributions, estimated from a stream of features in float64."""

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from scipy.spatial.distance import cdist


class ClassNormals(NamedTuple):
    """Prior probabilities, means and covariances of classes.

    Args:
        classes: Integers (C,), the class numbers that occurred among the examples.
        log_priors: Logarithms (C,) of the classes' shares of the examples.
        means: Class means (C, F).
        factors: Lower Cholesky factors (G, F, F) of the distinct covariances.
        groups: Integers (C,), the index of each class's covariance in `factors`.
    """

    classes: np.ndarray
    log_priors: np.ndarray
    means: np.ndarray
    factors: np.ndarray
    groups: np.ndarray

    def log_joint(self, features: np.ndarray) -> np.ndarray:
        """Return log pi_k + log N(h; mu_k, Sigma_k), (N, C), of finite features h (N, F)."""
        size = features.shape[1]
        result = np.empty((len(features), len(self.classes)))
        for group, factor in enumerate(self.factors):
            members = self.groups == group
            # Subtracting a common center first avoids cancellation if features are far from 0.
            center = self.means[members].mean(0)
            both = np.concatenate([features, self.means[members]]) - center
            white = scipy.linalg.solve_triangular(factor, both.T, lower=True).T
            squares = cdist(white[: len(features)], white[len(features) :], "sqeuclidean")
            log_determinant = 2 * np.log(np.diag(factor)).sum()
            result[:, members] = -0.5 * (squares + log_determinant + size * np.log(2 * np.pi))
        return result + self.log_priors


class ClassMoments:
    """Counts, means and scatter matrices of classes, accumulated batch by batch.

    Args:
        num_classes: Number of classes K.
        own: Whether to accumulate a scatter matrix for each class, K times F x F numbers, instead
            of one for all.
    """

    def __init__(self, num_classes: int, own: bool):
        self._own = own
        self.counts = np.zeros(num_classes, "int64")
        self._means: dict[int, np.ndarray] = {}
        self._scatters: dict[int | None, np.ndarray] = {}

    def add(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Add the features (B, F) of a batch of examples with labels (B,)."""
        for label in np.unique(labels).tolist():
            rows = features[labels == label]
            before, added = self.counts[label], len(rows)
            mean = rows.mean(0)
            step = mean - self._means.get(label, 0.0)
            centered = rows - mean
            # Chan, Golub and LeVeque 1979: update the scatter about the mean, without large sums.
            scatter = centered.T @ centered
            if before:
                scatter += np.outer(step, step) * (before * added / (before + added))
            key = label if self._own else None
            self._scatters[key] = self._scatters.get(key, 0.0) + scatter
            self._means[label] = self._means.get(label, 0.0) + step * added / (before + added)
            self.counts[label] += added

    def normals(self, ridge: float) -> tuple[ClassNormals, np.ndarray]:
        """Return the maximum likelihood estimate, and classes too small for their own covariance.

        Args:
            ridge: Variance added to each feature, as a fraction of the average variance within
                classes.

        Raises:
            ValueError: If features do not vary within classes, or a covariance is not positive
                definite.
        """
        classes = np.flatnonzero(self.counts)
        counts = self.counts[classes]
        means = np.stack([self._means[k] for k in classes.tolist()])
        size = means.shape[1]
        shared = sum(self._scatters.values()) / counts.sum()
        floor = ridge * np.trace(shared) / size * np.eye(size)
        if not np.trace(shared) > 0:
            raise ValueError(
                "Expected features that differ between examples of a class. Received: "
                f"{counts.sum()} examples of {len(classes)} classes, with the same features within "
                "each class. Hint: use more examples per class, and check that the network is "
                "trained."
            )
        small = classes[counts <= size] if self._own else classes
        factors = [_factor(shared, floor)] if len(small) else []
        groups = np.zeros(len(classes), "int64")
        for i, (label, count) in enumerate(zip(classes.tolist(), counts)):
            if label not in small:
                groups[i] = len(factors)
                factors.append(_factor(self._scatters[label] / count, floor))
        log_priors = np.log(counts / counts.sum())
        normals = ClassNormals(classes, log_priors, means, np.stack(factors), groups)
        return normals, small


def _factor(covariance: Any, floor: np.ndarray) -> np.ndarray:
    try:
        return scipy.linalg.cholesky(covariance + floor, lower=True)
    except scipy.linalg.LinAlgError as error:
        raise ValueError(
            "Expected a `ridge` that makes covariances positive definite. Received: features that "
            f"are linearly dependent, {error}. Hint: a larger ridge, such as ridge=1e-3."
        ) from error
