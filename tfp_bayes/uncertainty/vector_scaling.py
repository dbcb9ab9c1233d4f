"""Vector scaling: a temperature and an offset for each class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.probabilities import (
    SMALLEST_PROBABILITY,
    as_labelled,
    as_probabilities,
    as_weights,
    check_every_class,
)

_LARGEST = 20.0  # of scales, whose inverse is a temperature


@dataclass(frozen=True)
class VectorScaling:
    """Probabilities proportional to exp(offset_k) p_k^(scale_k).

    Use it where a model is too sure of some classes and not of others, or takes a class for more
    frequent than it is, and there are some hundreds of held-out examples with each class among
    them. Unlike a temperature it can change which class is the likeliest. Of two classes it is
    beta calibration.

    Args:
        scale: (K,), at least 0; 1 leaves the class as it is.
        offset: (K,).

    Reference:
        Guo et al. 2017, section 4.2, arXiv:1706.04599; Kull, Silva Filho and Flach 2017, "Beta
        calibration", equation 5.

    Example:

    >>> from tfp_bayes.uncertainty import VectorScaling
    >>> probs = np.tile([[0.8, 0.2]], (100, 1))
    >>> scaling = VectorScaling.fit(np.arange(100) % 2, probs)  # either class is right in half
    >>> scaling(probs)[0].round(2)
    array([0.5, 0.5])
    """

    scale: np.ndarray
    offset: np.ndarray

    @classmethod
    def fit(
        cls,
        y_true: ArrayLike,
        probs: ArrayLike,
        sample_weight: ArrayLike | None = None,
        l2: float = 1.0,
    ) -> "VectorScaling":
        """Minimizes the negative log likelihood on held-out examples, plus a penalty.

        The penalty is l2 / 2 times the squares of scale - 1 and offset, against the sum of losses:
        standard normal priors, which matter where examples are few.

        Args:
            y_true: (N,) integer labels, each class among them.
            probs: (N, K) probabilities.
            sample_weight: (N,) weights of the examples, or None for equal ones; only their ratios
                matter.
            l2: Precision of the priors, above 0: only with them are the offsets determined.

        Raises:
            ValueError: If labels and probabilities do not match, a class is missing, whose
                probability would become as small as the penalty lets it, or `l2` is not positive.
        """
        check_positive(l2=l2)
        y_true, probs = as_labelled(y_true, probs)
        weights = as_weights(sample_weight, len(y_true))
        check_every_class(y_true[weights > 0], probs.shape[1], "vector scaling")
        return cls.from_rows(y_true, probs, weights, l2)

    @classmethod
    def from_rows(
        cls, y_true: np.ndarray, probs: np.ndarray, weights: np.ndarray, l2: float = 1.0
    ) -> "VectorScaling":
        """Minimizes as `fit` does, of arguments that were checked; a class may be missing."""
        log_p = np.log(np.maximum(probs, SMALLEST_PROBABILITY))
        num_rows, num_classes = log_p.shape
        one_hot = np.eye(num_classes)[y_true]
        identity = np.repeat([1.0, 0.0], num_classes)

        def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            scale, offset = np.split(parameters, 2)
            log_q = log_softmax(scale * log_p + offset, axis=1)
            excess = parameters - identity
            loss = -(weights @ log_q[np.arange(num_rows), y_true])
            error = weights[:, None] * (np.exp(log_q) - one_hot)
            slope = np.concatenate([(error * log_p).sum(0), error.sum(0)])
            return (
                (loss + l2 / 2 * excess @ excess) / num_rows,
                (slope + l2 * excess) / num_rows,
            )

        bounds = [(0.0, _LARGEST)] * num_classes + [(None, None)] * num_classes
        options = {"maxiter": 1000, "ftol": 1e-14, "gtol": 1e-8}
        found = minimize(objective, identity, jac=True, bounds=bounds, options=options)
        return cls(*np.split(found.x, 2))

    def __call__(self, probs: ArrayLike) -> np.ndarray:
        """Returns calibrated probabilities (N, K).

        Args:
            probs: (N, K) probabilities.
        """
        log_p = np.log(np.maximum(as_probabilities(probs), SMALLEST_PROBABILITY))
        return softmax(self.scale * log_p + self.offset, axis=1)
