"""Quality of predicted class probabilities, given the labels."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.bins import assign_bins
from tfp_bayes._plumbing.probabilities import as_labelled, log_losses


def accuracy(y_true: ArrayLike, probs: ArrayLike) -> float:
    """Share of examples whose most probable class is the label.

    Use it to score the guesses alone; it says nothing of how sure they were. While a model trains,
    Keras' own metric "accuracy" counts the same.

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

    Use it to compare predictive distributions; confident mistakes cost most. The Keras metric
    `NegativeLogLikelihood` streams it.

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
    return float(log_losses(*as_labelled(y_true, probs)).mean())


def brier(y_true: ArrayLike, probs: ArrayLike) -> float:
    """Brier score: squared distance from the one-hot label, summed over classes.

    Use it as a proper score that is bounded, so that no single mistake dominates. scikit-learn
    halves it for two classes; TensorFlow Probability leaves out a constant 1. The Keras metric
    `BrierScore` streams it.

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


class BrierDecomposition(NamedTuple):
    """The Brier score as the sum of five terms, see `brier_decomposition`.

    Attributes:
        reliability: Squared gap between forecasts and frequencies of their bins; the smaller, the
            better calibrated.
        resolution: How far the frequencies of the bins are from the base rates; the larger, the
            more the forecasts tell examples apart. Subtracted.
        uncertainty: Brier score of a forecast of the base rates, a property of the labels alone.
        within_bin_variance: Variance of forecasts inside bins.
        within_bin_covariance: Covariance of forecasts and labels inside bins. Subtracted twice.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bin_variance: float
    within_bin_covariance: float

    @property
    def brier(self) -> float:
        """The Brier score, which the terms add up to."""
        between = self.reliability - self.resolution + self.uncertainty
        return between + self.within_bin_variance - 2 * self.within_bin_covariance


def brier_decomposition(
    y_true: ArrayLike, probs: ArrayLike, num_bins: int = 15, bins: str = "equal_width"
) -> BrierDecomposition:
    """Splits the Brier score into calibration, sharpness and what the labels leave open.

    Use it to see why one model scores better than another: by reliability, which recalibration
    mends, or by resolution, which it does not. The sum is the Brier score exactly, for any bins,
    because the two terms within bins are kept; they vanish where forecasts in a bin are equal.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities.
        num_bins: Bins of each class' probability.
        bins: "equal_width" or "equal_mass".

    Returns:
        The five terms, each summed over classes.

    Raises:
        ValueError: If labels and probabilities do not match, or the bins are none.

    Reference:
        Stephenson, Coelho and Jolliffe 2008, "Two extra components in the Brier score
        decomposition", Weather and Forecasting 23(4).

    Example:

    >>> terms = brier_decomposition([0, 1], [[0.8, 0.2], [0.4, 0.6]], num_bins=2)
    >>> round(terms.reliability, 4), round(terms.resolution, 4), round(terms.uncertainty, 4)
    (0.2, 0.5, 0.5)
    """
    y_true, probs = as_labelled(y_true, probs)
    num_rows = len(probs)
    terms = np.zeros(5)
    for k in range(probs.shape[1]):
        forecast, outcome = probs[:, k], (y_true == k).astype("float64")
        bin_of = assign_bins(forecast, num_bins, bins)
        count = np.bincount(bin_of, minlength=num_bins)
        some = np.maximum(count, 1)  # the sums of an empty bin are 0
        forecast_of_bin = np.bincount(bin_of, forecast, num_bins) / some
        outcome_of_bin = np.bincount(bin_of, outcome, num_bins) / some
        rate = outcome.mean()
        forecast_left = forecast - forecast_of_bin[bin_of]
        terms += (
            count @ (forecast_of_bin - outcome_of_bin) ** 2 / num_rows,
            count @ (outcome_of_bin - rate) ** 2 / num_rows,
            rate * (1 - rate),
            (forecast_left**2).mean(),
            (forecast_left * (outcome - outcome_of_bin[bin_of])).mean(),
        )
    return BrierDecomposition(*terms.tolist())
