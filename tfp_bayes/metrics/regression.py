"""Metrics of regression: of point predictions and of predictive distributions.

Means are over all targets. Shapes must agree exactly, because (N,) and (N, 1) would broadcast to
(N, N).
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from tfp_bayes.metrics.targets import as_normal, as_same_shape, as_sampled, check_level

QUANTILES = np.arange(1, 100) / 100  # the levels at which calibration is measured


def rmse(y_true: ArrayLike, mean: ArrayLike) -> float:
    """Root mean squared error, in the unit of the targets.

    Use it to score point predictions alone; it ignores the predicted uncertainty. The Keras metric
    `RootMeanSquaredError` streams it.

    Args:
        y_true: (N,) or (N, D) targets.
        mean: Point predictions, of the same shape.

    Returns:
        Float, in the unit of the targets.

    Raises:
        ValueError: If shapes differ, or a number is not finite.

    Example:

    >>> round(rmse([1.0, 3.0], [2.0, 3.0]), 4)
    0.7071
    """
    y, mean = as_same_shape(y_true=y_true, mean=mean)
    return float(np.sqrt(((y - mean) ** 2).mean()))


def normal_nll(y_true: ArrayLike, loc: ArrayLike, scale: ArrayLike) -> float:
    """Mean negative log likelihood of targets under normal predictions.

    Use it to compare predictive distributions; targets many standard deviations away cost most.
    The Keras metric `NormalNegativeLogLikelihood` streams it.

    Args:
        y_true: (N,) or (N, D) targets.
        loc: Predicted means, of the same shape.
        scale: Predicted standard deviations, of the same shape. Pass the total one
            (`Prediction.std`), not only its epistemic part.

    Returns:
        Float, in nats per example, summed over the D targets of an example.

    Raises:
        ValueError: If shapes differ, a number is not finite, or a scale is not positive.

    Reference:
        Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation",
        section 4.1, the logarithmic score with its sign changed.

    Example:

    >>> round(normal_nll([0.0], [0.0], [1.0]), 4)  # log(2 pi) / 2
    0.9189
    """
    y, loc, scale = as_normal(y_true, loc, scale)
    return float(normal_log_losses(y, loc, scale).sum() / len(y))


def normal_log_losses(y: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns the negative log likelihood of each target in nats, of the shape of `y`."""
    return np.log(scale) + (((y - loc) / scale) ** 2 + math.log(2 * math.pi)) / 2


def interval_coverage(y_true: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> float:
    """Share of targets inside their intervals, ends included.

    Use it to check that 90 % intervals contain 90 % of the targets. Intervals of one width
    everywhere can do so too; `interval_score` also takes the width into account. The Keras metric
    `IntervalCoverage` streams it for normal predictions.

    Args:
        y_true: (N,) or (N, D) targets.
        lower: Lower ends, of the same shape.
        upper: Upper ends, of the same shape.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If shapes differ, a target is not finite, or a lower end is above its upper
            end.

    Example:

    >>> interval_coverage([0.0, 5.0], [-1.0, -1.0], [1.0, 1.0])
    0.5
    """
    y, lower, upper = _as_intervals(y_true, lower, upper)
    return float(((lower <= y) & (y <= upper)).mean())


def interval_score(
    y_true: ArrayLike, lower: ArrayLike, upper: ArrayLike, level: float = 0.9
) -> float:
    """Mean width of intervals, plus 2 / (1 - level) times the distance of targets outside.

    Use it to compare intervals of the same level. It is a proper score in the unit of the targets;
    smaller is better. The Keras metric `IntervalScore` streams it for normal predictions.

    Args:
        y_true: (N,) or (N, D) targets.
        lower: Predicted quantiles at (1 - level) / 2, of the same shape.
        upper: Predicted quantiles at (1 + level) / 2, of the same shape.
        level: Nominal coverage of the intervals, in (0, 1).

    Returns:
        Float, in the unit of the targets, averaged over all targets.

    Raises:
        ValueError: If shapes differ, a target is not finite, a lower end is above its upper end,
            or `level` is not in (0, 1).

    Reference:
        Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation",
        equation 43.

    Example:

    >>> round(interval_score([0.0, 1.5], [-1.0, -1.0], [1.0, 1.0], level=0.9), 4)
    7.0
    """
    check_level(level)
    y, lower, upper = _as_intervals(y_true, lower, upper)
    missed = np.maximum(lower - y, 0) + np.maximum(y - upper, 0)
    return float((upper - lower + 2 / (1 - level) * missed).mean())


def normal_pit(y_true: ArrayLike, loc: ArrayLike, scale: ArrayLike) -> np.ndarray:
    """Returns the probability integral transform: the predicted probability of a smaller target.

    Use it to draw a histogram, which is flat if predictions are calibrated, or for
    `pit_calibration_error`.

    Args:
        y_true: (N,) or (N, D) targets.
        loc: Predicted means, of the same shape.
        scale: Predicted standard deviations, of the same shape.

    Returns:
        Float64 of the same shape, in [0, 1].

    Raises:
        ValueError: If shapes differ, a number is not finite, or a scale is not positive.

    Reference:
        Gneiting, Balabdaoui and Raftery 2007, "Probabilistic forecasts, calibration and
        sharpness".

    Example:

    >>> normal_pit([0.0], [0.0], [2.0])
    array([0.5])
    """
    y, loc, scale = as_normal(y_true, loc, scale)
    return ndtr((y - loc) / scale)


def sample_pit(y_true: ArrayLike, samples: ArrayLike, seed: int = 0) -> np.ndarray:
    """Returns the randomized rank of targets among samples of their predictive distributions.

    Use it instead of `normal_pit` when predictions are given as samples. The samples must be draws
    of the target, not of its mean. A uniform random offset within each rank, and a random order of
    ties, make the result exactly uniform for calibrated predictions with any number of samples.

    Args:
        y_true: (N,) or (N, D) targets.
        samples: (S, N) or (S, N, D) samples of the targets.
        seed: Seed of the random offsets.

    Returns:
        Float64 of the shape of the targets, in [0, 1].

    Raises:
        ValueError: If shapes do not match, or a number is not finite.

    Example:

    >>> pit = sample_pit([2.5], [[1.0], [2.0], [3.0]])  # the third of four cells
    >>> 0.5 < float(pit[0]) < 0.75
    True
    """
    y, samples = as_sampled(y_true, samples)
    below, equal = (samples < y).sum(axis=0), (samples == y).sum(axis=0)
    spread = np.random.default_rng(seed).random(y.shape)
    return (below + spread * (equal + 1)) / (len(samples) + 1)


def pit_calibration_error(pit: ArrayLike) -> float:
    """Mean gap between the level of a quantile and the share of targets below it, over 99 levels.

    Use it as one number for the calibration of regression, also called the "miscalibration area".
    Calibrated predictions of N targets have an error of about 0.3 / √N, not zero. The Keras metric
    `PITCalibrationError` streams it for normal predictions.

    Args:
        pit: Transforms from `normal_pit` or `sample_pit`, of any shape.

    Returns:
        Float in [0, 1/2].

    Raises:
        ValueError: If `pit` is empty, or has a number outside [0, 1].

    Reference:
        Kuleshov, Fenner and Ermon 2018, arXiv:1807.00263, with absolute gaps.

    Example:

    >>> round(pit_calibration_error([0.5, 0.5]), 4)  # every target at its median
    0.2525
    """
    pit = np.asarray(pit, dtype="float64").ravel()
    if pit.size == 0 or not ((pit >= 0) & (pit <= 1)).all():  # NaN fails too
        raise ValueError(
            "Expected at least one number, all in [0, 1], for `pit`. "
            f"Received: {pit.size} numbers"
            + (f" from {pit.min():.4g} to {pit.max():.4g}. " if pit.size else ". ")
            + "Hint: normal_pit or sample_pit computes them from targets and predictions."
        )
    return float(np.abs(shares_below(pit) - QUANTILES).mean())


def shares_below(pit: np.ndarray) -> np.ndarray:
    """Returns the share of transforms (n,) at or below each of `QUANTILES`."""
    return np.searchsorted(np.sort(pit), QUANTILES, side="right") / pit.size


def _as_intervals(
    y_true: ArrayLike, lower: ArrayLike, upper: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lower, upper = np.asarray(lower, "float64"), np.asarray(upper, "float64")
    if lower.shape == upper.shape and not (lower <= upper).all():  # NaN fails too
        raise ValueError(
            "Expected each lower end at or below its upper end for `lower`. "
            f"Received: {(~(lower <= upper)).sum()} of {lower.size} that are not. "
            "Hint: lower, upper = prediction.interval(0.9)."
        )
    y, lower, upper = as_same_shape(y_true=y_true, lower=lower, upper=upper, infinite=True)
    return y, lower, upper
