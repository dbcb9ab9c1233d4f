"""Retention and risk-coverage curves of selective prediction."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from tfp_bayes import metrics
from tfp_bayes.plots.canvas import check_axes, legend_above, next_style


def retention_curve(
    errors: ArrayLike,
    uncertainty: ArrayLike,
    *,
    ax: Axes,
    label: str | None = None,
    oracle: bool = False,
    legend: bool = True,
) -> Axes:
    """Draws the accuracy on the most certain examples against the share of examples kept.

    Use it to see what rejecting uncertain examples gains. Call it once per method on the same axes.
    Examples of equal uncertainty are kept or rejected together.

    Args:
        errors: (N,) 0 or 1, such as `p.mean.argmax(-1) != y_true`.
        uncertainty: (N,) uncertainties, higher where the model is less sure, such as
            `p.mutual_information`.
        ax: Axes to draw on.
        label: Name of the method.
        oracle: Whether rejected examples count as right, as if a person answered them.
        legend: Whether to add a legend above the frame.

    Returns:
        `ax`.

    Raises:
        ValueError: If the shapes differ, or an uncertainty is NaN.

    Reference:
        Malinin et al. 2021, "Shifts: A Dataset of Real Distributional Shift Across Multiple
        Large-Scale Tasks", section 2, arXiv:2107.07455, for `oracle=True`.

    Example:

    >>> from matplotlib.figure import Figure
    >>> ax = tfp_bayes.plots.retention_curve([0, 0, 1, 0], [1, 2, 3, 3], ax=Figure().subplots())
    >>> ax.lines[0].get_xydata()
    array([[0.25, 1. ], [0.5 , 1. ], [1. , 0.75]])
    """
    check_axes(ax)
    curve = metrics.retention_curve(errors, uncertainty)
    _draw(ax, curve.retained, curve.accuracy_with_oracle if oracle else curve.accuracy, label)
    ylabel = "accuracy, rejected counted right" if oracle else "accuracy on examples kept"
    ax.set(xlabel="share of examples kept", ylabel=ylabel, xlim=(0, 1.01))
    if legend:
        legend_above(ax)
    return ax


def risk_coverage_curve(
    errors: ArrayLike,
    uncertainty: ArrayLike,
    *,
    ax: Axes,
    label: str | None = None,
    legend: bool = True,
) -> Axes:
    """Draws the error rate on the most certain examples (risk) against their share (coverage).

    Use it to compare with published curves. Call it once per method on the same axes. The area
    under the curve is the AURC. The risk is one minus the accuracy of `retention_curve`.

    Args:
        errors: (N,) 0 or 1, such as `p.mean.argmax(-1) != y_true`.
        uncertainty: (N,) uncertainties, higher where the model is less sure.
        ax: Axes to draw on.
        label: Name of the method.
        legend: Whether to add a legend above the frame.

    Returns:
        `ax`.

    Raises:
        ValueError: If the shapes differ, or an uncertainty is NaN.

    Reference:
        El-Yaniv and Wiener 2010, "On the Foundations of Noise-free Selective Classification",
        Journal of Machine Learning Research 11.

    Example:

    >>> from matplotlib.figure import Figure
    >>> ax = tfp_bayes.plots.risk_coverage_curve([0, 1], [0.1, 0.9], ax=Figure().subplots())
    >>> ax.lines[0].get_xydata()
    array([[0.5, 0. ], [1. , 0.5]])
    """
    check_axes(ax)
    curve = metrics.retention_curve(errors, uncertainty)
    _draw(ax, curve.retained, 1 - curve.accuracy, label)
    ax.set(xlabel="coverage (share of examples kept)", ylabel="risk (error rate on examples kept)")
    ax.set(xlim=(0, 1.01))
    if legend:
        legend_above(ax)
    return ax


def _draw(ax: Axes, share: np.ndarray, height: np.ndarray, label: str | None) -> None:
    style = next_style(ax)
    ax.plot(share, height, label=label, markevery=[-1], markersize=4, **style)
