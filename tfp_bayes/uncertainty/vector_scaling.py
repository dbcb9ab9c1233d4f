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

_LARGEST = 20.0  # largest scale; a scale is an inverse temperature


@dataclass(frozen=True)
class VectorScaling:
    """A calibration to probabilities proportional to exp(offset_k) p_k^(scale_k).

    Use it if a model is overconfident for some classes and not for others, or overestimates the
    frequency of a class, and there are a few hundred held-out examples with at least one of each
    class. Unlike a temperature it can change the most probable class. For two classes it is beta
    calibration.

    Args:
        scale: (K,) exponents, at least 0; 1 leaves a class unchanged.
        offset: (K,) offsets of the log probabilities.

    Reference:
        Guo et al. 2017, section 4.2, arXiv:1706.04599; Kull, Silva Filho and Flach 2017, "Beta
        calibration", equation 5.

    Example:

    >>> from tfp_bayes.uncertainty import VectorScaling
    >>> probs = np.tile([[0.8, 0.2]], (100, 1))
    >>> scaling = VectorScaling.fit(np.arange(100) % 2, probs)  # each class is right half the time
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
        """Minimizes the negative log likelihood of held-out examples plus a penalty.

        The penalty is l2 / 2 times the sum of squares of scale - 1 and offset, and is added to the
        sum of the losses. With l2 = 1 these are standard normal priors, which matter if there are
        few examples.

        Args:
            y_true: (N,) integer labels, with at least one of each class.
            probs: (N, K) probabilities.
            sample_weight: (N,) weights of the examples. None weights them equally. Only ratios of
                weights matter.
            l2: Precision of the priors, above 0. Without priors the offsets are not identifiable.

        Raises:
            ValueError: If labels and probabilities do not match, `l2` is not positive, or a class
                is missing, whose probability only the penalty would keep above 0.
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
        """Does the work of `fit` on checked arguments; a class may be missing."""
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

        Raises:
            ValueError: If `probs` are not probabilities of the K classes that were fitted.
        """
        log_p = np.log(np.maximum(as_probabilities(probs, len(self.scale)), SMALLEST_PROBABILITY))
        return softmax(self.scale * log_p + self.offset, axis=1)
