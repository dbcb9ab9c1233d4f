"""Learning curves over several seeds."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.t_interval import t_margin
from tfp_bayes.plots.canvas import as_numbers, check_axes, legend_above, next_style


def learning_curve(
    acquired: ArrayLike,
    accuracy: ArrayLike,
    *,
    ax: Axes,
    label: str | None = None,
    legend: bool = True,
) -> Axes:
    """Draws the mean learning curve of one method over seeds, with a 95 % band of the mean.

    Call it once per method on the same axes. The band is Student's t interval of the mean at each
    round; a single seed has no band. Overlapping bands do not show that methods are equal. With
    paired seeds, use `studies.curves.paired_difference`.

    Args:
        acquired: (R,) numbers of labels acquired, ascending.
        accuracy: (M, R) test accuracies of M seeds, or (R,) of one seed. For another quantity, also
            set the label of the y axis.
        ax: Axes to draw on.
        label: Name of the method.
        legend: Whether to add a legend above the frame.

    Returns:
        `ax`.

    Raises:
        ValueError: If shapes do not match, values are not finite, or `acquired` decreases.

    Example:

    >>> from matplotlib.figure import Figure
    >>> accuracy = [[0.5, 0.7], [0.6, 0.9]]
    >>> ax = tfp_bayes.plots.learning_curve([0, 10], accuracy, ax=Figure().subplots())
    >>> ax.lines[0].get_ydata()
    array([0.55, 0.8 ])
    """
    check_axes(ax)
    acquired = as_numbers(acquired, "acquired")
    values = as_numbers(np.atleast_2d(accuracy), "accuracy", num_axes=2)
    if values.shape[1] != len(acquired) or (np.diff(acquired) < 0).any():
        raise ValueError(
            f"Expected ascending `acquired` (R,) and `accuracy` (M, R). Received: shapes "
            f"{acquired.shape} and {values.shape}, `acquired` from {acquired[0]:g} to "
            f"{acquired[-1]:g}. Hint: give one row per seed, cut to the rounds that all have."
        )
    mean, margin = values.mean(0), t_margin(values)
    style = next_style(ax)
    ax.plot(acquired, mean, markersize=4, label=label, **style)
    if len(values) > 1:
        low, high = mean - margin, mean + margin
        ax.fill_between(acquired, low, high, color=style["color"], alpha=0.2, lw=0)
    ax.set(xlabel="labels acquired", ylabel="test accuracy")
    if legend:
        legend_above(ax)
    return ax
