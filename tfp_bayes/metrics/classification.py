"""Quality of predicted class probabilities, given the labels."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.bins import assign_bins
from tfp_bayes._plumbing.probabilities import as_labelled, log_losses


def accuracy(y_true: ArrayLike, probs: ArrayLike) -> float:
    """Share of examples whose most probable class is the label.

    Use it to score the predicted classes alone; it ignores how confident they are. During
    training, Keras' own metric "accuracy" computes the same number.

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
    """Mean negative log likelihood of the labels, the proper score that training minimizes.

    Use it to compare predictive distributions; confident mistakes cost most. The Keras metric
    `NegativeLogLikelihood` streams it.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities; those below 1e-7 count as 1e-7, as in Keras' losses.

    Returns:
        Float, in nats per example.

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

    Use it as a bounded proper score, which no single mistake dominates. scikit-learn's binary
    score is half of this one; TensorFlow Probability's is this one minus 1. The Keras metric
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
    """Five terms that make up the Brier score. See `brier_decomposition`.

    Attributes:
        reliability: Mean squared gap between forecast and observed frequency per bin; smaller
            means better calibrated.
        resolution: Mean squared gap between each bin's observed frequency and the base rate;
            larger means that forecasts separate examples better. Subtracted in the sum.
        uncertainty: Brier score of forecasting the base rates; depends on the labels alone.
        within_bin_variance: Variance of forecasts within bins.
        within_bin_covariance: Covariance of forecasts and labels within bins. Subtracted twice in
            the sum.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bin_variance: float
    within_bin_covariance: float

    @property
    def brier(self) -> float:
        """The Brier score, as the signed sum of the terms."""
        between = self.reliability - self.resolution + self.uncertainty
        return between + self.within_bin_variance - 2 * self.within_bin_covariance


def brier_decomposition(
    y_true: ArrayLike, probs: ArrayLike, num_bins: int = 15, bins: str = "equal_width"
) -> BrierDecomposition:
    """Splits the Brier score into reliability, resolution, uncertainty and within-bin terms.

    Use it to see why one model scores better than another: because of reliability, which
    recalibration improves, or because of resolution, which it does not. The terms sum to the Brier
    score exactly, for any bins, because the two within-bin terms are included; these vanish if all
    forecasts in a bin are equal.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities.
        num_bins: Number of bins of each class's probability.
        bins: "equal_width" or "equal_mass".

    Returns:
        The five terms, each summed over classes.

    Raises:
        ValueError: If labels and probabilities do not match, or `num_bins` or `bins` is invalid.

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
