"""Reliability diagrams and confidence histograms."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from tfp_bayes import metrics
from tfp_bayes._plumbing.bins import assign_bins
from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.probabilities import as_labelled
from tfp_bayes.metrics.calibration import calibrated_accuracies, floor_of
from tfp_bayes.plots.canvas import RIGHT, WRONG, check_axes, legend_above
from tfp_bayes.prediction import Prediction

_NUM_DRAWS = 1000
_COUNT_SIZE = 7  # points


def reliability_diagram(
    y_true: ArrayLike,
    probs: ArrayLike | Prediction,
    *,
    ax: Axes,
    num_bins: int = 15,
    seed: int = 0,
    legend: bool = True,
) -> Axes:
    """Draws accuracy against confidence in bins, with the range expected under calibration.

    Use it to see whether confidences can be read as frequencies. A gray bar spans the central 95 %
    of the accuracies of its bin over label sets drawn from the probabilities themselves. A point
    within its bar is no evidence of miscalibration, however far it is from the diagonal. The legend
    shows the expected calibration error, and its 95 % quantile under calibration. The number of
    examples in each bin is above the frame.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) predictive mean, or the `Prediction`; the largest in a row is its confidence.
        ax: Axes to draw on.
        num_bins: Number of bins (lo, hi] that divide [0, 1]; empty bins have no point.
        seed: Seed of the simulated labels.
        legend: Whether to add a legend above the counts.

    Returns:
        `ax`.

    Raises:
        ValueError: If labels and probabilities do not match, or `num_bins` is below 1.

    Reference:
        Bröcker and Smith 2007, "Increasing the Reliability of Reliability Diagrams", for the
        consistency bars, here with fixed probabilities; Guo et al. 2017, figure 1,
        arXiv:1706.04599.

    Example:

    >>> from matplotlib.figure import Figure
    >>> probs = [[0.9, 0.1], [0.9, 0.1], [0.7, 0.3]]
    >>> ax = tfp_bayes.plots.reliability_diagram([0, 1, 0], probs, ax=Figure().subplots())
    >>> ax.lines[1].get_xydata()
    array([[0.7, 1. ], [0.9, 0.5]])
    """
    check_axes(ax)
    check_integers(1, num_bins=num_bins)
    y_true, probs = _labelled(y_true, probs)
    confidence = probs.max(-1)
    table = metrics.reliability_bins(y_true, probs, num_bins)
    shown = np.flatnonzero(table.counts)
    bin_of = assign_bins(confidence, num_bins, "equal_width")
    drawn = calibrated_accuracies(confidence, bin_of, _NUM_DRAWS, seed)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    error = metrics.expected_calibration_error(y_true, probs, num_bins)
    floor = floor_of(drawn, confidence, bin_of).quantile_95
    ax.plot([0, 1], [0, 1], color="gray", lw=0.8, ls="--")
    ax.bar(
        table.confidence[shown],
        high - low,
        bottom=low,
        width=0.6 / num_bins,
        color="lightgray",
        label=f"95 % if calibrated (ECE up to {floor:.3f})",
    )
    label = f"observed (ECE {error:.3f})"
    ax.plot(table.confidence[shown], table.accuracy[shown], "o-", color=RIGHT, ms=4, label=label)
    ax.set(xlabel="confidence (largest probability)", ylabel="accuracy")
    ax.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    counts = [f"{count:,}" for count in table.counts[shown]]
    top = ax.secondary_xaxis("top")
    top.set_xticks((shown + 0.5) / num_bins, counts, rotation=90, fontsize=_COUNT_SIZE)
    top.set_xlabel("examples in the bin", fontsize=_COUNT_SIZE + 1)
    if legend:
        points = 11 + _COUNT_SIZE * (0.65 * max(map(len, counts)) + 1.6)
        legend_above(ax, gap=points / 72)
    return ax


def confidence_histogram(
    y_true: ArrayLike,
    probs: ArrayLike | Prediction,
    *,
    ax: Axes,
    num_bins: int = 20,
    legend: bool = True,
) -> Axes:
    """Draws the histogram of confidences, with their mean and the accuracy.

    Use it beside a reliability diagram. The two lines coincide if the mean confidence equals the
    accuracy, as it does for a calibrated model.

    Args:
        y_true: (N,) integer labels.
        probs: (N, K) predictive mean, or the `Prediction`.
        ax: Axes to draw on.
        num_bins: Number of bins (lo, hi] that divide [0, 1].
        legend: Whether to add a legend above the frame.

    Returns:
        `ax`.

    Raises:
        ValueError: If labels and probabilities do not match, or `num_bins` is below 1.

    Reference:
        Guo et al. 2017, figure 1, arXiv:1706.04599.

    Example:

    >>> from matplotlib.figure import Figure
    >>> probs = [[0.9, 0.1], [0.9, 0.1], [0.7, 0.3], [0.4, 0.6]]
    >>> ax = Figure().subplots()
    >>> ax = tfp_bayes.plots.confidence_histogram([0] * 4, probs, ax=ax, num_bins=4)
    >>> [float(bar.get_height()) for bar in ax.patches]
    [0.0, 0.0, 0.5, 0.5]
    """
    check_axes(ax)
    check_integers(1, num_bins=num_bins)
    y_true, probs = _labelled(y_true, probs)
    confidence, correct = probs.max(-1), probs.argmax(-1) == y_true
    shares = metrics.reliability_bins(y_true, probs, num_bins).counts / len(probs)
    centers = (np.arange(num_bins) + 0.5) / num_bins
    ax.bar(centers, shares, width=1 / num_bins, color="lightgray", edgecolor="gray", lw=0.5)
    for name, value, color, dashes in (
        ("mean confidence", confidence.mean(), WRONG, "--"),
        ("accuracy", correct.mean(), RIGHT, "-"),
    ):
        ax.axvline(value, color=color, ls=dashes, label=f"{name} {value:.3f}")
    ax.set(xlabel="confidence (largest probability)", ylabel="share of examples", xlim=(0, 1))
    if legend:
        legend_above(ax)
    return ax


def _labelled(y_true: ArrayLike, probs: ArrayLike | Prediction) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels (N,) and probabilities (N, K) of at least two classes."""
    if isinstance(probs, Prediction):
        if probs.likelihood != "categorical":
            raise ValueError(
                f"Expected a prediction of classes for `probs`. Received: likelihood="
                f"{probs.likelihood!r}. Hint: np.hstack([1 - p, p]) converts sigmoids p (N, 1) to "
                "two classes; for real targets use regression_bands."
            )
        probs = probs.mean
    if np.ndim(probs) > 2:
        raise ValueError(
            f"Expected (N, K) for `probs`. Received: shape {np.shape(probs)}. "
            "Hint: for pixels, pass p.mean.reshape(-1, K) and y_true.reshape(-1)."
        )
    return as_labelled(y_true, probs)
