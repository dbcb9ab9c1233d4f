"""Quality of predicted class probabilities, given the labels."""

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.probabilities import SMALLEST_PROBABILITY, as_labelled


def accuracy(y_true: ArrayLike, probs: ArrayLike) -> float:
    """Share of examples whose most probable class is the label.

    Use it to score the guesses alone; it says nothing of how sure they were.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If labels and probabilities do not match.

    Example:

    >>> accuracy([0, 1], [[0.9, 0.1], [0.6, 0.4]])
    0.5
    """
    y_true, probs = as_labelled(y_true, probs)
    return float((probs.argmax(axis=-1) == y_true).mean())


def nll(y_true: ArrayLike, probs: ArrayLike) -> float:
    """Mean negative log likelihood of the labels, the proper score that training minimises.

    Use it to compare predictive distributions; confident mistakes cost most.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities; those below 1e-7 count as 1e-7, as in Keras' losses.

    Returns:
        Float, nats per example.

    Raises:
        ValueError: If labels and probabilities do not match.

    Reference:
        Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation",
        section 3, the logarithmic score with its sign changed.

    Example:

    >>> round(nll([0, 1], [[0.5, 0.5], [0.0, 1.0]]), 4)
    0.3466
    """
    y_true, probs = as_labelled(y_true, probs)
    chosen = probs[np.arange(len(y_true)), y_true]
    return float(-np.log(np.maximum(chosen, SMALLEST_PROBABILITY)).mean())


def brier(y_true: ArrayLike, probs: ArrayLike) -> float:
    """Brier score: squared distance from the one-hot label, summed over classes.

    Use it as a proper score that is bounded, so that no single mistake dominates.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities.

    Returns:
        Float in [0, 2], the mean over examples.

    Raises:
        ValueError: If labels and probabilities do not match.

    Reference:
        Brier 1950, "Verification of forecasts expressed in terms of probability", equation 2.

    Example:

    >>> brier([0, 1], [[0.5, 0.5], [0.0, 1.0]])
    0.25
    """
    y_true, probs = as_labelled(y_true, probs)
    return float(((probs - np.eye(probs.shape[1])[y_true]) ** 2).sum(axis=-1).mean())


def expected_calibration_error(y_true: ArrayLike, probs: ArrayLike, num_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy, over bins of equal width in confidence.

    Use it to see whether confidences can be read as frequencies. Zero does not mean useful:
    predicting the class frequencies for every input is calibrated too.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities.
        num_bins: Bins (lo, hi] that divide [0, 1]; published figures use 10 or 15.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If labels and probabilities do not match or `num_bins` is below 1.

    Reference:
        Guo et al. 2017, equation 3, arXiv:1706.04599.

    Example:

    >>> round(expected_calibration_error([0, 1], [[0.9, 0.1], [0.9, 0.1]]), 4)
    0.4
    """
    y_true, probs = as_labelled(y_true, probs)
    if not isinstance(num_bins, int | np.integer) or num_bins < 1:
        raise ValueError(
            "Expected a positive integer for `num_bins`. "
            f"Received: num_bins={num_bins!r}. Hint: 15 is usual."
        )
    confidence = probs.max(axis=-1)  # (N,)
    correct = probs.argmax(axis=-1) == y_true  # (N,)
    edges = np.linspace(0, 1, num_bins + 1)
    # Confidences are positive; rounding may put one a hair above 1, which is the last bin's.
    bins = np.searchsorted(edges[1:-1], confidence, side="left")
    gaps = np.bincount(bins, weights=correct - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(y_true))
