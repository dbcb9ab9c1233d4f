"""Distributions of uncertainty scores over examples."""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes.plots.canvas import (
    COLORS,
    RIGHT,
    WRONG,
    as_errors,
    as_numbers,
    check_axes,
    check_same_length,
    legend_above,
    named,
)


def score_histograms(
    scores: dict[str, ArrayLike],
    *,
    ax: Axes,
    num_bins: int = 40,
    legend: bool = True,
) -> Axes:
    """Draws histograms of one score on several sets of examples, with the same bins.

    Use it to see whether a score separates out-of-distribution inputs from in-distribution ones:
    `{"MNIST": p_in.predictive_entropy, "Fashion-MNIST": p_out.predictive_entropy}`. Heights are
    shares of each set, so sets of different sizes are comparable.

    Args:
        scores: (N,) scores of each set, by name; N may differ between sets.
        ax: Axes to draw on. The label of its x axis becomes "predictive entropy (nats)"; change it
            for other scores.
        num_bins: Number of equal-width bins from the smallest to the largest score of all sets.
        legend: Whether to add a legend above the frame.

    Returns:
        `ax`.

    Raises:
        ValueError: If `scores` is not a dictionary of finite numbers, or has more sets than colors.

    Example:

    >>> from matplotlib.figure import Figure
    >>> scores = {"in": [0.0, 0.1, 0.2], "out": [0.8, 1.0]}
    >>> ax = tfp_bayes.plots.score_histograms(scores, ax=Figure().subplots(), num_bins=2)
    >>> ax.get_legend_handles_labels()[1]
    ['in (3)', 'out (2)']
    """
    check_axes(ax)
    check_integers(1, num_bins=num_bins)
    checked = {
        name: as_numbers(v, f"scores[{name!r}]") for name, v in named(scores, "scores").items()
    }
    if len(checked) > len(COLORS):
        raise ValueError(
            f"Expected at most {len(COLORS)} sets for `scores`. Received: {len(checked)}. "
            "Hint: more histograms cannot be told apart; use several plots."
        )
    edges = np.histogram_bin_edges(np.concatenate(list(checked.values())), num_bins)
    for (name, values), color in zip(checked.items(), COLORS):
        shares = np.histogram(values, edges)[0] / len(values)
        label = f"{name} ({len(values):,})"
        ax.stairs(shares, edges, fill=True, color=color, alpha=0.35, lw=0)
        ax.stairs(shares, edges, color=color, label=label)
    ax.set(xlabel="predictive entropy (nats)", ylabel="share of examples")
    ax.set_ylim(bottom=0)
    if legend:
        legend_above(ax)
    return ax


def entropy_against_information(
    predictive_entropy: ArrayLike,
    mutual_information: ArrayLike,
    errors: ArrayLike | None = None,
    *,
    ax: Axes,
    legend: bool = True,
) -> Axes:
    """Draws the mutual information of each example against its predictive entropy.

    Use it to see why examples are uncertain. Near the diagonal, posterior samples disagree, which
    more training data would reduce. Near the x axis, each sample is uncertain, which more data
    would not change. Mutual information cannot exceed the entropy, so no point is above the line.

    Args:
        predictive_entropy: (N,) entropies in nats, `p.predictive_entropy`.
        mutual_information: (N,) mutual information in nats, `p.mutual_information`.
        errors: (N,) 0 or 1, such as `p.mean.argmax(-1) != y_true`, to mark wrong predictions. None
            marks nothing.
        ax: Axes to draw on.
        legend: Whether to add a legend above the frame.

    Returns:
        `ax`.

    Raises:
        ValueError: If shapes do not match or values are not finite.

    Reference:
        Smith and Gal 2018, "Understanding Measures of Uncertainty for Adversarial Example
        Detection", section 3, arXiv:1803.08533.

    Example:

    >>> from matplotlib.figure import Figure
    >>> p = tfp_bayes.BayesianMLP((4,), 3).predict_uncertainty(np.ones([6, 4]), seed=0)
    >>> ax = tfp_bayes.plots.entropy_against_information(
    ...     p.predictive_entropy, p.mutual_information, ax=Figure().subplots()
    ... )
    >>> len(ax.collections[0].get_offsets())
    6
    """
    check_axes(ax)
    entropy = as_numbers(predictive_entropy, "predictive_entropy")
    information = as_numbers(mutual_information, "mutual_information")
    wrong = np.zeros(len(entropy), bool) if errors is None else as_errors(errors)
    check_same_length(predictive_entropy=entropy, mutual_information=information, errors=wrong)
    kinds = [(~wrong, RIGHT, ".", 12, "right"), (wrong, WRONG, "x", 16, "wrong")]
    for rows, color, marker, size, label in kinds if errors is not None else kinds[:1]:
        ax.scatter(
            entropy[rows],
            information[rows],
            s=size,
            c=color,
            marker=marker,
            linewidths=0.8,
            alpha=0.7,
            rasterized=True,  # a PDF with 10,000 vector markers is slow to display
            label=f"{label} ({rows.sum():,})" if errors is not None else None,
        )
    ax.axline((0, 0), slope=1, color="gray", lw=0.8, ls="--", label="information = entropy")
    low, high = min(0.0, information.min()), max(information.max(), 1e-3)
    ax.set(xlabel="predictive entropy (nats)", ylabel="mutual information (nats)")
    ax.set_xlim(0 - 0.02 * entropy.max(), max(entropy.max(), 1e-3) * 1.05)
    ax.set_ylim(low - 0.03 * high, high * 1.08)
    if legend:
        legend_above(ax)
    return ax
