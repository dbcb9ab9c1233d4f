"""One normal distribution for each class, estimated from a stream of features in float64."""

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from scipy.spatial.distance import cdist


class ClassNormals(NamedTuple):
    """Classes with their shares, means and covariances.

    Args:
        classes: (C,) integers, the numbers of the classes of which there were examples.
        log_priors: (C,) logs of their shares.
        means: (C, F).
        factors: (G, F, F) lower Cholesky factors of the distinct covariances.
        groups: (C,) integers, which of them a class has.
    """

    classes: np.ndarray
    log_priors: np.ndarray
    means: np.ndarray
    factors: np.ndarray
    groups: np.ndarray

    def log_joint(self, features: np.ndarray) -> np.ndarray:
        """Returns log pi_k + log N(h; mu_k, Sigma_k) for features (N, F), all finite: (N, C)."""
        size = features.shape[1]
        result = np.empty((len(features), len(self.classes)))
        for group, factor in enumerate(self.factors):
            members = self.groups == group
            # Differences from a point among the features, so that large offsets cost no digits.
            center = self.means[members].mean(0)
            both = np.concatenate([features, self.means[members]]) - center
            white = scipy.linalg.solve_triangular(factor, both.T, lower=True).T
            squares = cdist(white[: len(features)], white[len(features) :], "sqeuclidean")
            log_determinant = 2 * np.log(np.diag(factor)).sum()
            result[:, members] = -0.5 * (squares + log_determinant + size * np.log(2 * np.pi))
        return result + self.log_priors


class ClassMoments:
    """Counts, means and sums of squared differences of each class, batch by batch.

    Args:
        num_classes: K.
        own: Keep the differences of each class apart, K times F x F numbers.
    """

    def __init__(self, num_classes: int, own: bool):
        self._own = own
        self.counts = np.zeros(num_classes, "int64")
        self._means: dict[int, np.ndarray] = {}
        self._scatters: dict[int | None, np.ndarray] = {}

    def add(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Takes in features (B, F) of examples with labels (B,)."""
        for label in np.unique(labels).tolist():
            rows = features[labels == label]
            before, added = self.counts[label], len(rows)
            mean = rows.mean(0)
            step = mean - self._means.get(label, 0.0)
            centered = rows - mean
            # Chan, Golub and LeVeque 1979: squares about the new mean, without large sums.
            scatter = centered.T @ centered
            if before:
                scatter += np.outer(step, step) * (before * added / (before + added))
            key = label if self._own else None
            self._scatters[key] = self._scatters.get(key, 0.0) + scatter
            self._means[label] = self._means.get(label, 0.0) + step * added / (before + added)
            self.counts[label] += added

    def normals(self, ridge: float) -> tuple[ClassNormals, np.ndarray]:
        """Returns the most likely distributions, and classes too small for their own covariance.

        Args:
            ridge: Added to each variance, as a share of the average variance within classes.

        Raises:
            ValueError: If features do not vary within classes.
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
                f"{counts.sum()} examples of {len(classes)} classes, alike within each. "
                "Hint: more examples of a class; is the network trained?"
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
            "Expected a `ridge` that makes covariances positive definite. Received: features of "
            f"which some follow from others, {error}. Hint: a larger one, such as ridge=1e-3."
        ) from error
