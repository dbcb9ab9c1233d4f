"""Calibration errors, and their floor: the error that calibrated probabilities show by chance."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.bins import assign_bins
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.probabilities import as_labelled

SMALLEST_BIN = 10  # rows; with fewer, the gap is mostly chance
_ROWS_AT_ONCE = 2**22  # random numbers held in memory at once


class ReliabilityBins(NamedTuple):
    """Data of a reliability diagram, one entry per bin. See `reliability_bins`.

    Attributes:
        counts: (num_bins,) number of examples.
        confidence: (num_bins,) mean confidence; NaN in an empty bin.
        accuracy: (num_bins,) share of correct predictions; NaN in an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """The absolute difference of confidence and accuracy, (num_bins,); 0 in an empty bin."""
        return np.where(self.counts > 0, np.abs(self.accuracy - self.confidence), 0.0)


def reliability_bins(
    y_true: ArrayLike, probs: ArrayLike, num_bins: int = 15, bins: str = "equal_width"
) -> ReliabilityBins:
    """Returns mean confidence and accuracy in bins of confidence.

    Use it to draw a reliability diagram, or to see where a calibration error comes from.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities; the largest in a row is its confidence.
        num_bins: Number of bins (lo, hi] that divide [0, 1].
        bins: "equal_width", or "equal_mass" for bins of about N / num_bins rows. Rows of equal
            confidence always share a bin.

    Returns:
        A named tuple of `counts`, `confidence` and `accuracy`, (num_bins,) each.

    Raises:
        ValueError: If labels and probabilities do not match, `num_bins` is below 1, or there are
            fewer rows than equal-mass bins.

    Example:

    >>> table = reliability_bins([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]], num_bins=2)
    >>> table.counts, table.accuracy.round(2)
    (array([0, 3]), array([ nan, 0.67]))
    """
    y_true, probs = as_labelled(y_true, probs)
    return _table(probs.max(axis=-1), probs.argmax(axis=-1) == y_true, num_bins, bins)


def expected_calibration_error(
    y_true: ArrayLike, probs: ArrayLike, num_bins: int = 15, bins: str = "equal_width"
) -> float:
    """Mean gap between confidence and accuracy, over bins of confidence.

    Use it to see whether confidences can be read as frequencies. An error of zero does not make a
    model useful: predicting the class frequencies for every input is calibrated too. In a finite
    sample the error is positive even for calibrated probabilities, so report `calibration_floor`
    beside it and do not compare errors below that floor. The Keras metric
    `ExpectedCalibrationError` streams it for equal-width bins; equal-mass bins need all
    confidences at once.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities.
        num_bins: Number of bins (lo, hi] that divide [0, 1]; published results use 10 or 15.
        bins: "equal_width", or "equal_mass" for bins of about N / num_bins rows ("adaptive").

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If labels and probabilities do not match, `num_bins` is below 1, or there are
            fewer rows than equal-mass bins.

    Reference:
        Guo et al. 2017, equation 3, arXiv:1706.04599; equal mass as in Nixon et al. 2019,
        arXiv:1904.01685.

    Example:

    >>> round(expected_calibration_error([0, 1], [[0.9, 0.1], [0.9, 0.1]]), 4)
    0.4
    """
    table = reliability_bins(y_true, probs, num_bins, bins)
    return float(table.counts @ table.gap / table.counts.sum())


def maximum_calibration_error(
    y_true: ArrayLike, probs: ArrayLike, num_bins: int = 15, bins: str = "equal_width"
) -> float:
    """Largest gap between confidence and accuracy among bins with at least ten rows.

    Use it when the worst gap matters rather than the average one. It is noisier than the mean
    gap. The Keras metric `MaximumCalibrationError` streams it for equal-width bins.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities.
        num_bins: Number of bins (lo, hi] that divide [0, 1].
        bins: "equal_width" or "equal_mass".

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If labels and probabilities do not match, or no bin has ten rows.

    Reference:
        Guo et al. 2017, equation 5, arXiv:1706.04599, without bins so small that their gap is
        mostly chance.

    Example:

    >>> round(maximum_calibration_error([0] * 9 + [1], [[0.7, 0.3]] * 10), 4)
    0.2
    """
    table = reliability_bins(y_true, probs, num_bins, bins)
    if table.counts.max() < SMALLEST_BIN:
        raise ValueError(
            f"Expected a bin of at least {SMALLEST_BIN} rows. Received: {table.counts.sum()} rows, "
            f"at most {table.counts.max()} in a bin. Hint: use more rows or fewer bins."
        )
    return float(table.gap[table.counts >= SMALLEST_BIN].max())


def classwise_calibration_error(
    y_true: ArrayLike, probs: ArrayLike, num_bins: int = 15, bins: str = "equal_width"
) -> float:
    """Calibration error of each class's probability, averaged over classes.

    Use it when a decision reads all probabilities and not only the largest, for example because
    costs differ by class. The Keras metric `ClasswiseCalibrationError` streams it for equal-width
    bins.

    Args:
        y_true: (N,) integer labels. A class without labels is included, with frequency 0.
        probs: (N, K) probabilities.
        num_bins: Number of bins of each class's probability.
        bins: "equal_width" or "equal_mass".

    Returns:
        Float in [0, 1]. With many classes most probabilities are close to 0, and so is the error.

    Raises:
        ValueError: If labels and probabilities do not match, or `num_bins` or `bins` is invalid.

    Reference:
        Kull et al. 2019, "Beyond temperature scaling: Obtaining well-calibrated multiclass
        probabilities with Dirichlet calibration", arXiv:1910.12656.

    Example:

    >>> round(classwise_calibration_error([0, 1], [[0.9, 0.1], [0.9, 0.1]]), 4)
    0.4
    """
    y_true, probs = as_labelled(y_true, probs)
    errors = []
    for k in range(probs.shape[1]):
        table = _table(probs[:, k], y_true == k, num_bins, bins)
        errors.append(table.counts @ table.gap / len(probs))
    return float(np.mean(errors))


class CalibrationFloor(NamedTuple):
    """Distribution of the expected calibration error under calibration. See `calibration_floor`.

    Attributes:
        mean: Mean of the error.
        quantile_95: 95 % quantile of the error.
    """

    mean: float
    quantile_95: float


def calibration_floor(
    probs: ArrayLike,
    num_bins: int = 15,
    bins: str = "equal_width",
    num_draws: int = 1000,
    seed: int = 0,
) -> CalibrationFloor:
    """Returns the expected calibration error that these probabilities would show if calibrated.

    Report it beside every `expected_calibration_error`: in a finite sample that error is positive
    even if every probability is right. An error below the 95 % quantile is no evidence of
    miscalibration, and two such errors do not tell which model is better calibrated.

    Args:
        probs: (N, K) probabilities of the rows that were scored.
        num_bins: Number of bins, as in `expected_calibration_error`.
        bins: Kind of bins, as in `expected_calibration_error`.
        num_draws: Number of simulated label sets. Each draws every label from its row of `probs`.
        seed: Seed of the draws.

    Returns:
        Mean and 95 % quantile of the error over the draws.

    Raises:
        ValueError: If `probs` are not probabilities, or `num_bins`, `bins` or `num_draws` is
            invalid.

    Reference:
        Vaicenavicius et al. 2019, "consistency resampling", arXiv:1902.06977, with inputs fixed.

    Example:

    >>> calibration_floor([[1.0, 0.0], [0.0, 1.0]])  # certain labels
    CalibrationFloor(mean=0.0, quantile_95=0.0)
    """
    probs = np.asarray(probs, dtype="float64")
    _, probs = as_labelled(np.zeros(probs.shape[:1], "int64"), probs)
    check_integers(1, num_draws=num_draws)
    confidence = probs.max(axis=-1)
    bin_of = assign_bins(confidence, num_bins, bins)
    return floor_of(calibrated_accuracies(confidence, bin_of, num_draws, seed), confidence, bin_of)


def floor_of(
    accuracies: np.ndarray, confidence: np.ndarray, bin_of: np.ndarray
) -> CalibrationFloor:
    """Returns the floor from `calibrated_accuracies(confidence, bin_of, ...)`."""
    _, group, counts = np.unique(bin_of, return_inverse=True, return_counts=True)
    expected = np.bincount(group, confidence)
    found = np.abs(accuracies * counts - expected).sum(axis=1) / len(confidence)
    return CalibrationFloor(float(found.mean()), float(np.quantile(found, 0.95)))


def calibrated_accuracies(
    confidence: np.ndarray, bin_of: np.ndarray, num_draws: int, seed: int
) -> np.ndarray:
    """Draws the accuracy of each bin as if the confidences were calibrated.

    Args:
        confidence: (N,) probabilities that the predictions are right.
        bin_of: (N,) integers, the bin of each prediction.
        num_draws: Number of simulated sets of N outcomes.
        seed: Seed of the draws.

    Returns:
        Float64 (num_draws, B) accuracies of the B bins that are not empty.
    """
    order = np.argsort(bin_of, kind="stable")
    confidence = confidence[order]
    _, starts, counts = np.unique(bin_of[order], return_index=True, return_counts=True)
    rng = np.random.default_rng(seed)
    at_once = max(1, _ROWS_AT_ONCE // len(confidence))
    hits: list[np.ndarray] = []
    for done in range(0, num_draws, at_once):
        correct = rng.random((min(at_once, num_draws - done), len(confidence))) < confidence
        hits.append(np.add.reduceat(correct, starts, axis=1, dtype="float64"))
    return np.concatenate(hits) / counts


def _table(forecast: np.ndarray, outcome: np.ndarray, num_bins: int, bins: str) -> ReliabilityBins:
    bin_of = assign_bins(forecast, num_bins, bins)
    count = np.bincount(bin_of, minlength=num_bins)
    with np.errstate(invalid="ignore"):  # an empty bin has no mean
        return ReliabilityBins(
            count,
            np.bincount(bin_of, forecast, num_bins) / count,
            np.bincount(bin_of, outcome, num_bins) / count,
        )
