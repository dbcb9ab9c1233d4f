"""Plots of the weight posteriors of variational layers."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import keras
import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes.layers import VariationalLayer, variational_layers
from tfp_bayes.layers.random_weight import RandomWeight
from tfp_bayes.plots.canvas import (
    COLORS,
    as_numbers,
    check_axes,
    check_same_length,
    legend_above,
    named,
)
from tfp_bayes.posteriors import Deterministic

_NUM_DRAWS = 200  # for posterior families without closed-form moments
_MOST_WEIGHTS = 2000  # largest number of densities to average per tensor


class WeightMoments(NamedTuple):
    """Mean and standard deviation of each weight of a tensor. See `weight_moments`.

    Attributes:
        mean: (P,) means.
        std: (P,) standard deviations.
    """

    mean: np.ndarray
    std: np.ndarray


Weights: TypeAlias = keras.Model | VariationalLayer | Mapping[str, tuple[ArrayLike, ArrayLike]]


def weight_moments(model: keras.Model | VariationalLayer) -> dict[str, WeightMoments]:
    """Returns the mean and standard deviation of every random weight of a model or layer.

    Use it to plot or to prune weights. Weights with only a point estimate are left out. If a
    posterior family has no closed form, the moments are estimated from 200 draws, with the same
    result at each call.

    Args:
        model: A built model with variational layers, or one such layer.

    Returns:
        Moments by tensor name, such as "dense_flipout/kernel", in graph order. If layers of nested
        models share a name, the second is "dense_flipout/kernel (2)".

    Raises:
        ValueError: If no weight is random.

    Example:

    >>> layer = DenseFlipout(3, name="head")
    >>> layer.build((None, 4))
    >>> moments = tfp_bayes.plots.weight_moments(layer)
    >>> list(moments), moments["head/kernel"].std.shape
    (['head/kernel'], (12,))
    """
    layers = [model] if isinstance(model, VariationalLayer) else variational_layers(model)
    found: dict[str, WeightMoments] = {}
    for layer in layers:
        for name, weight in getattr(layer, "random_weights", {}).items():
            if isinstance(weight.posterior, Deterministic):
                continue
            # The path distinguishes the projections of different attention layers.
            key = f"{weight.variables['loc'].path.rpartition('/')[0]}/{name}"
            twins = sum(each.partition(" (")[0] == key for each in found)  # in nested models
            found[f"{key} ({twins + 1})" if twins else key] = _moments(weight)
    if not found:
        raise ValueError(
            f"Expected a model with random weights. Received: {model.name!r} without any. "
            'Hint: convert it by to_bayesian(model, "flipout"), and build it.'
        )
    return found


def weight_posteriors(weights: Weights, *, ax: Axes, legend: bool = True) -> Axes:
    """Draws, for each tensor, the posterior density of its weights.

    Use it to see whether training moved the posteriors away from their initial values, and which
    layers use large weights. The density is that of a posterior draw of a randomly picked weight:
    the average of normal densities over all weights, or over 2,000 evenly spaced ones if there are
    more.

    Args:
        weights: A model or layer, or (mean, std) of each tensor by name, as returned by
            `weight_moments`.
        ax: Axes to draw on.
        legend: Whether to add a legend above the frame.

    Returns:
        `ax`.

    Raises:
        ValueError: If there are no random weights, or their moments are not finite and positive.

    Reference:
        Blundell et al. 2015, "Weight Uncertainty in Neural Networks", figure 2, arXiv:1505.05424.

    Example:

    >>> from matplotlib.figure import Figure
    >>> ax = tfp_bayes.plots.weight_posteriors({"kernel": ([0.0], [1.0])}, ax=Figure().subplots())
    >>> float(ax.lines[0].get_ydata().max().round(2))
    0.4
    """
    check_axes(ax)
    for i, (name, (mean, std)) in enumerate(_as_moments(weights).items()):
        order = np.argsort(mean)
        if len(order) > _MOST_WEIGHTS:
            order = order[np.linspace(0, len(order) - 1, _MOST_WEIGHTS).astype(int)]
        mean, std = mean[order], std[order]
        at = np.linspace((mean - 4 * std).min(), (mean + 4 * std).max(), 401)
        density = scipy.stats.norm.pdf(at[:, None], mean, std).mean(-1)
        ax.plot(at, density, color=COLORS[i % len(COLORS)], ls=_dashes(i), label=name)
    ax.set(xlabel="weight", ylabel="posterior density")
    ax.set_ylim(bottom=0)
    if legend:
        legend_above(ax)
    return ax


def signal_to_noise(weights: Weights, *, ax: Axes, num_bins: int = 50, legend: bool = True) -> Axes:
    """Draws, for each tensor, the histogram of its weights' signal-to-noise ratios |mean| / std.

    Use it to see how many weights the data determine. Weights with a ratio far below 1 can be
    pruned, because even their sign is unknown.

    Args:
        weights: A model or layer, or (mean, std) of each tensor by name, as returned by
            `weight_moments`.
        ax: Axes to draw on; its x axis becomes logarithmic.
        num_bins: Number of bins of equal width in the logarithm. Ratios below 0.001 count as 0.001.
        legend: Whether to add a legend above the frame.

    Returns:
        `ax`.

    Raises:
        ValueError: If there are no random weights, or their moments are not finite and positive.

    Reference:
        Blundell et al. 2015, "Weight Uncertainty in Neural Networks", figure 3, arXiv:1505.05424.

    Example:

    >>> from matplotlib.figure import Figure
    >>> weights = {"kernel": ([1.0, -3.0], [1.0, 1.0])}
    >>> ax = tfp_bayes.plots.signal_to_noise(weights, ax=Figure().subplots(), num_bins=2)
    >>> ax.patches[0].get_data().values
    array([0.5, 0.5])
    """
    check_axes(ax)
    check_integers(1, num_bins=num_bins)
    ratios = {
        name: np.maximum(np.abs(mean) / std, 1e-3)
        for name, (mean, std) in _as_moments(weights).items()
    }
    joined = np.concatenate(list(ratios.values()))
    edges = np.geomspace(joined.min() * (1 - 1e-9), joined.max() * (1 + 1e-9), num_bins + 1)
    for i, (name, values) in enumerate(ratios.items()):
        shares = np.histogram(values, edges)[0] / len(values)
        label = f"{name}, median {np.median(values):.2g}"
        ax.stairs(shares, edges, color=COLORS[i % len(COLORS)], ls=_dashes(i), label=label)
    ax.axvline(1, color="gray", lw=0.8, ls=":")
    ax.set(xlabel="signal-to-noise ratio |mean| / std", ylabel="share of weights", xscale="log")
    ax.set_ylim(bottom=0)
    if legend:
        legend_above(ax)
    return ax


def _dashes(i: int) -> str:
    return ("-", "--", ":", "-.")[i // len(COLORS) % 4]


def _moments(weight: RandomWeight) -> WeightMoments:
    """Returns the mean and standard deviation (P,) of one tensor."""
    q = weight.distribution()
    try:
        mean, std = weight.mean(), q.stddev()
    except NotImplementedError:
        draws = np.asarray(q.sample(_NUM_DRAWS, seed=[0, 0]))
        mean, std = draws.mean(0), draws.std(0, ddof=1)
    return WeightMoments(*(np.asarray(part, "float64").reshape(-1) for part in (mean, std)))


def _as_moments(weights: Weights) -> dict[str, WeightMoments]:
    if isinstance(weights, keras.layers.Layer):
        return weight_moments(weights)
    found = {}
    for name, moments in named(weights, "weights").items():
        if len(moments) != 2:
            raise ValueError(
                f"Expected a pair of means and standard deviations for `weights[{name!r}]`. "
                f"Received: {len(moments)} entries. Hint: weight_moments(model) returns them."
            )
        mean, std = moments
        mean = as_numbers(np.reshape(mean, -1), f"weights[{name!r}][0]")
        std = as_numbers(np.reshape(std, -1), f"weights[{name!r}][1]")
        check_same_length(mean=mean, std=std)
        if std.min() <= 0:
            raise ValueError(
                f"Expected positive standard deviations for `weights[{name!r}][1]`. "
                f"Received: {std.min():.4g} among them. Hint: drop weights without noise."
            )
        found[name] = WeightMoments(mean, std)
    return found
