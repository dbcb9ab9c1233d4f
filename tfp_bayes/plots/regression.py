"""Predictive bands of regression with one input."""

from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from tfp_bayes.plots.canvas import COLORS, as_numbers, check_axes, check_same_length, legend_above
from tfp_bayes.prediction import Prediction


def regression_bands(
    x: ArrayLike,
    mean: ArrayLike | Prediction,
    epistemic_std: ArrayLike | None = None,
    aleatoric_std: ArrayLike | None = None,
    *,
    ax: Axes,
    data: tuple[ArrayLike, ArrayLike] | None = None,
    inner: Literal["aleatoric", "epistemic"] = "aleatoric",
    num_stds: float = 2.0,
    legend: bool = True,
) -> Axes:
    """Draws the predictive mean of one target with bands of its uncertainty.

    Use it to see where predictions are uncertain, and why. The outer band is the total uncertainty,
    whose variance is the sum of the epistemic and the aleatoric variance; standard deviations do
    not add up. The inner band is one of the two parts, and the extra width of the outer band is due
    to the other part.

    Args:
        x: (N,) or (N, 1) inputs, in any order.
        mean: (N,) or (N, 1) predictive mean. Or a `Prediction` of one real target, which includes
            both standard deviations.
        epistemic_std: (N,) standard deviation of the function. None means 0.
        aleatoric_std: (N,) standard deviation of the noise. None means 0.
        ax: Axes to draw on.
        data: Inputs (M,) and targets (M,) to mark, such as the training data.
        inner: The part that the inner band shows, "aleatoric" or "epistemic".
        num_stds: Half the width of the bands in standard deviations; 2 holds 95 % of a normal.
        legend: Whether to add a legend above the frame.

    Returns:
        `ax`.

    Raises:
        ValueError: If shapes do not match, values are not finite, standard deviations are
            negative, or the prediction is of classes or of several targets.

    Reference:
        Kendall and Gal 2017, "What Uncertainties Do We Need in Bayesian Deep Learning for Computer
        Vision?", equation 9, arXiv:1703.04977, for the total variance as the sum of both parts.

    Example:

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> ax = tfp_bayes.plots.regression_bands([0, 1, 2], [1, 2, 3], [3, 3, 3], [4, 4, 4], ax=ax)
    >>> ax.get_legend_handles_labels()[1]
    ['total, 2 std', 'aleatoric, 2 std', 'mean']
    """
    check_axes(ax)
    if isinstance(mean, Prediction):
        mean, epistemic_std, aleatoric_std = _of_one_target(mean)
    x, mean = as_numbers(x, "x"), as_numbers(mean, "mean")
    stds = {
        "epistemic": _as_std(epistemic_std, "epistemic_std", mean),
        "aleatoric": _as_std(aleatoric_std, "aleatoric_std", mean),
    }
    check_same_length(
        x=x, mean=mean, epistemic_std=stds["epistemic"], aleatoric_std=stds["aleatoric"]
    )
    if inner not in stds:
        raise ValueError(
            f'Expected "aleatoric" or "epistemic" for `inner`. Received: inner={inner!r}. '
            "Hint: the outer band is the total."
        )
    if not 0 < num_stds < np.inf:
        raise ValueError(
            f"Expected a positive number for `num_stds`. Received: num_stds={num_stds!r}. "
            "Hint: 2 standard deviations hold about 95 % of a normal."
        )
    order = np.argsort(x, kind="stable")
    bands = {"total": np.hypot(stds["epistemic"], stds["aleatoric"]), inner: stds[inner]}
    for (name, std), alpha in zip(bands.items(), (0.2, 0.35)):
        low, high = ((mean + sign * num_stds * std)[order] for sign in (-1, 1))
        label = f"{name}, {num_stds:g} std"
        ax.fill_between(x[order], low, high, alpha=alpha, color=COLORS[0], lw=0, label=label)
    ax.plot(x[order], mean[order], color=COLORS[0], label="mean")
    if data is not None:
        if len(data) != 2:
            raise ValueError(
                f"Expected a pair of inputs and targets for `data`. Received: {len(data)} entries. "
                "Hint: data=(x_train, y_train)."
            )
        inputs, targets = as_numbers(data[0], "data[0]"), as_numbers(data[1], "data[1]")
        check_same_length(inputs=inputs, targets=targets)
        ax.plot(inputs, targets, "k.", markersize=4, label="data")
    ax.set(xlabel="x", ylabel="y")
    if legend:
        legend_above(ax)
    return ax


def _as_std(std: ArrayLike | None, name: str, mean: np.ndarray) -> np.ndarray:
    if std is None:
        return np.zeros_like(mean)
    std = as_numbers(std, name)
    if std.min() < 0:
        raise ValueError(
            f"Expected standard deviations for `{name}`. Received: {std.min():.4g} among them. "
            "Hint: pass the square root of a variance."
        )
    return std


def _of_one_target(prediction: Prediction) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean and standard deviations, (N,) each."""
    if prediction.likelihood != "normal" or prediction.mean.ndim != 2:
        raise ValueError(
            "Expected a prediction of real targets for `mean`. Received: likelihood="
            f"{prediction.likelihood!r}, mean of shape {prediction.mean.shape}. "
            "Hint: use reliability_diagram for predictions of classes."
        )
    if prediction.mean.shape[1] != 1:
        raise ValueError(
            f"Expected one target for `mean`. Received: {prediction.mean.shape[1]} targets. "
            "Hint: pass p.mean[:, k], np.sqrt(p.epistemic_variance[:, k]) and "
            "np.sqrt(p.aleatoric_variance[:, k]) for target k."
        )
    variances = prediction.epistemic_variance, prediction.aleatoric_variance
    return prediction.mean[:, 0], *(np.sqrt(variance[:, 0]) for variance in variances)
