"""Errors of calibration, and the floor: how large that of calibrated confidences would look."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.bins import assign_bins
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.probabilities import as_labelled

SMALLEST_BIN = 10  # rows; the gap of fewer is mostly chance
_ROWS_AT_ONCE = 2**22  # random numbers held in memory


class ReliabilityBins(NamedTuple):
    """What a reliability diagram shows, one entry a bin, see `reliability_bins`.

    Attributes:
        counts: (num_bins,) examples.
        confidence: (num_bins,) mean confidence; NaN in an empty bin.
        accuracy: (num_bins,) share of correct guesses; NaN in an empty bin.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """How far confidence and accuracy are apart, (num_bins,); 0 in an empty bin."""
        return np.where(self.counts > 0, np.abs(self.accuracy - self.confidence), 0.0)


def reliability_bins(
    y_true: ArrayLike, probs: ArrayLike, num_bins: int = 15, bins: str = "equal_width"
) -> ReliabilityBins:
    """Returns mean confidence and accuracy by bins of confidence.

    Use it to draw a reliability diagram, or to see where an error of calibration comes from.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities; the largest of a row is its confidence.
        num_bins: Bins (lo, hi] that divide [0, 1].
        bins: "equal_width", or "equal_mass" for bins of N / num_bins rows, where equal confidences
            share a bin.

    Raises:
        ValueError: If labels and probabilities do not match, `num_bins` is below 1, or there are
            fewer rows than bins of equal mass.

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

    Use it to see whether confidences can be read as frequencies. Zero does not mean useful:
    predicting the class frequencies for every input is calibrated too. It is never zero by
    chance: print `calibration_floor` beside it, below which there is nothing to compare. The
    Keras metric `ExpectedCalibrationError` streams it for bins of equal width; those of equal mass
    need all confidences.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities.
        num_bins: Bins (lo, hi] that divide [0, 1]; published figures use 10 or 15.
        bins: "equal_width", or "equal_mass" for bins of N / num_bins rows ("adaptive").

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If labels and probabilities do not match, `num_bins` is below 1, or there are
            fewer rows than bins of equal mass.

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
    """Largest gap between confidence and accuracy among bins of ten rows or more.

    Use it where the worst confidence matters, not the average one. It is noisier than the mean
    gap. The Keras metric `MaximumCalibrationError` streams it.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) probabilities.
        num_bins: Bins (lo, hi] that divide [0, 1].
        bins: "equal_width" or "equal_mass".

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If labels and probabilities do not match, or no bin has ten rows.

    Reference:
        Guo et al. 2017, equation 5, arXiv:1706.04599, without the bins that are mostly chance.

    Example:

    >>> round(maximum_calibration_error([0] * 9 + [1], [[0.7, 0.3]] * 10), 4)
    0.2
    """
    table = reliability_bins(y_true, probs, num_bins, bins)
    if table.counts.max() < SMALLEST_BIN:
        raise ValueError(
            f"Expected a bin of at least {SMALLEST_BIN} rows. Received: {table.counts.sum()} rows, "
            f"at most {table.counts.max()} in a bin. Hint: more rows, or fewer bins."
        )
    return float(table.gap[table.counts >= SMALLEST_BIN].max())


def classwise_calibration_error(
    y_true: ArrayLike, probs: ArrayLike, num_bins: int = 15, bins: str = "equal_width"
) -> float:
    """Mean over classes of the calibration error of that class' probability.

    Use it where all probabilities are read, not only the largest, as costs that differ by class
    need. The Keras metric `ClasswiseCalibrationError` streams it for bins of equal width.

    Args:
        y_true: (N,) integer labels; a class without any counts, its frequency is 0.
        probs: (N, K) probabilities.
        num_bins: Bins of each class' probability.
        bins: "equal_width" or "equal_mass".

    Returns:
        Float in [0, 1]; with many classes most probabilities are next to 0, and so is this.

    Raises:
        ValueError: If labels and probabilities do not match, or the bins are none.

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
    """Expected calibration errors of calibrated probabilities, see `calibration_floor`.

    Attributes:
        mean: Their mean.
        quantile_95: Their 95 % quantile.
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
    """Returns the expected calibration error that these probabilities would have if calibrated.

    Use it beside every `expected_calibration_error`: the error of finitely many rows is positive
    even where each probability is right. An error below the 95 % quantile gives no evidence of
    miscalibration, and two such errors say nothing about which model is better.

    Args:
        probs: (N, K) probabilities of the rows that were scored.
        num_bins: As for the error.
        bins: As for the error.
        num_draws: Sets of N labels, each drawn from its row's probabilities.
        seed: Of the draws.

    Returns:
        Mean and 95 % quantile over the draws.

    Raises:
        ValueError: If these are not probabilities, or the bins or draws are none.

    Reference:
        Vaicenavicius et al. 2019, "consistency resampling", arXiv:1902.06977, with inputs fixed.

    Example:

    >>> calibration_floor([[1.0, 0.0], [0.0, 1.0]])  # nothing is left to chance
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
    """Returns the floor by accuracies that `calibrated_accuracies` drew of the other two."""
    _, group, counts = np.unique(bin_of, return_inverse=True, return_counts=True)
    expected = np.bincount(group, confidence)
    found = np.abs(accuracies * counts - expected).sum(axis=1) / len(confidence)
    return CalibrationFloor(float(found.mean()), float(np.quantile(found, 0.95)))


def calibrated_accuracies(
    confidence: np.ndarray, bin_of: np.ndarray, num_draws: int, seed: int
) -> np.ndarray:
    """Draws accuracies (num_draws, B) of the B bins that are not empty, as if calibrated.

    Args:
        confidence: (N,) chances that the guesses are right.
        bin_of: (N,) integers, the bin of each.
        num_draws: Sets of N outcomes, each drawn from its own chance.
        seed: Seed of the draws.
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
