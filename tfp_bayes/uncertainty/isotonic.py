"""Isotonic calibration, which maps each class's probability through a fitted increasing curve."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.probabilities import (
    as_labelled,
    as_probabilities,
    as_weights,
    check_every_class,
)

_FEWEST_ROWS = 1000


@dataclass(frozen=True)
class Isotonic:
    """A calibration that maps the probability of each class through its own increasing curve.

    Use it if thousands of held-out examples show a reliability diagram with a shape that no
    temperature corrects. It can change the most probable class. All examples on a flat part of a
    curve get the same probability, so it may rank them worse.

    A curve is linear between its knots and constant beyond them. The mapped probabilities are
    normalized to sum to 1. Before that, none is below 1 / (N + 2): N examples without a case do not
    prove that there is none, and a single such case would cost the mean log likelihood more than
    the curve gains.

    Args:
        inputs: (K, M) probabilities of each class at its knots, increasing. If a class has fewer
            knots, its last one is repeated.
        outputs: (K, M) frequencies at the knots.

    Reference:
        Zadrozny and Elkan 2002, "Transforming classifier scores into accurate multiclass
        probability estimates", section 3.

    Example:

    >>> from tfp_bayes.uncertainty import Isotonic
    >>> sure = np.arange(1000) % 2
    >>> probs = np.where(sure[:, None], [[0.9, 0.1]], [[0.6, 0.4]])
    >>> labels = np.arange(1000) % 5 == 0  # one in five is of class 1
    >>> Isotonic.fit(labels.astype("int64"), probs)(probs[:2]).round(2)
    array([[0.8, 0.2],
           [0.8, 0.2]])
    """

    inputs: np.ndarray
    outputs: np.ndarray

    @classmethod
    def fit(
        cls, y_true: ArrayLike, probs: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> "Isotonic":
        """Fits an increasing curve per class to held-out examples, by least squares.

        Args:
            y_true: (N,) integer labels, with at least one of each class.
            probs: (N, K) probabilities.
            sample_weight: (N,) weights of the examples. None weights them equally.

        Raises:
            ValueError: If fewer than 1,000 examples have a positive weight, a class is missing, or
                labels and probabilities do not match.
        """
        y_true, probs = as_labelled(y_true, probs)
        weights = as_weights(sample_weight, len(y_true))
        number = np.count_nonzero(weights)
        if number < _FEWEST_ROWS:
            raise ValueError(
                f"Expected at least {_FEWEST_ROWS:,} held-out examples for isotonic regression. "
                f"Received: {number}. Hint: a temperature has one parameter and needs fewer."
            )
        check_every_class(y_true[weights > 0], probs.shape[1], "isotonic regression")
        return cls.from_rows(y_true, probs, weights)

    @classmethod
    def from_rows(cls, y_true: np.ndarray, probs: np.ndarray, weights: np.ndarray) -> "Isotonic":
        """Does the work of `fit` on checked arguments, without a minimum number of rows."""
        from sklearn.isotonic import IsotonicRegression  # takes a second to import

        least = 1 / (np.count_nonzero(weights) + 2)
        curves = [
            IsotonicRegression(y_min=least, y_max=1 - least).fit(
                probs[:, k], (y_true == k).astype("float64"), weights
            )
            for k in range(probs.shape[1])
        ]
        knots = max(2, *(len(curve.X_thresholds_) for curve in curves))
        inputs, outputs = (
            np.stack([_padded(getattr(curve, name), knots) for curve in curves])
            for name in ("X_thresholds_", "y_thresholds_")
        )
        return cls(inputs, outputs)

    def __call__(self, probs: ArrayLike) -> np.ndarray:
        """Returns calibrated probabilities (N, K).

        Args:
            probs: (N, K) probabilities.

        Raises:
            ValueError: If `probs` are not probabilities of the K classes that were fitted.
        """
        probs = as_probabilities(probs, len(self.inputs))
        curves = zip(probs.T, self.inputs, self.outputs, strict=True)
        raised = np.stack([np.interp(*curve) for curve in curves], axis=1)
        return raised / raised.sum(axis=1, keepdims=True)


def _padded(knots: np.ndarray, length: int) -> np.ndarray:
    knots = knots.astype("float64")
    return np.append(knots, np.full(length - len(knots), knots[-1]))
