"""Continuous ranked probability scores, which compare predictive distributions with targets."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from tfp_bayes.metrics.targets import as_normal, as_sampled, check_scale


def crps_normal(y_true: ArrayLike, loc: ArrayLike, scale: ArrayLike) -> float:
    """Mean continuous ranked probability score of normal predictions; smaller is better.

    Use it as a proper score in the unit of the targets. Outliers dominate it less than the
    likelihood. The Keras metric `NormalCRPS` streams it.

    Args:
        y_true: (N,) or (N, D) targets.
        loc: Predicted means, of the same shape.
        scale: Predicted standard deviations, of the same shape.

    Returns:
        Float, in the unit of the targets, averaged over all targets.

    Raises:
        ValueError: If shapes differ, a number is not finite, or a scale is not positive.

    Reference:
        Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation",
        equation 21 and the one after it, with the sign changed.

    Example:

    >>> round(crps_normal([0.0], [0.0], [1.0]), 4)
    0.2337
    """
    y, loc, scale = as_normal(y_true, loc, scale)
    return float(normal_scores(y, loc, scale).mean())


def normal_scores(y: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns the score of each target, of the same shape as the three arguments."""
    # E|Y - y| - E|Y - Y'| / 2, where Y - Y' has twice the variance and E|Y - Y'| = 2 scale / √π.
    return _mean_distance(y - loc, scale) - scale / math.sqrt(math.pi)


def crps_mixture(
    y_true: ArrayLike, loc: ArrayLike, scale: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Mean continuous ranked probability score of mixtures of normal distributions.

    Use it for a model with normal outputs and S posterior samples, whose predictive distribution
    is a mixture of S normals. A single normal of the same mean and variance would hide several
    modes. The cost is O(S² N).

    Args:
        y_true: (N,) or (N, D) targets.
        loc: Means of the components, (S, N) or (S, N, D).
        scale: Standard deviations of the components, of the same shape.
        weights: (S,) weights of the components, which sum to 1. None weights them equally.

    Returns:
        Float, in the unit of the targets, averaged over all targets.

    Raises:
        ValueError: If shapes do not match, a number is not finite, a scale is not positive, or
            the weights are negative or do not sum to 1.

    Reference:
        Grimit et al. 2006, "The continuous ranked probability score for circular variables and
        its application to mesoscale forecast ensemble verification".

    Example:

    >>> round(crps_mixture([0.0], [[0.0], [0.0]], [[1.0], [1.0]]), 4)
    0.2337
    """
    y, loc = as_sampled(y_true, loc, "loc")
    _, scale = as_sampled(y_true, scale, "scale")
    if scale.shape != loc.shape:
        raise ValueError(
            f"Expected the shape {loc.shape} of `loc` for `scale`. "
            f"Received: scale of shape {scale.shape}. "
            "Hint: give one for each component and target."
        )
    check_scale(scale)
    weights = _as_weights(weights, len(loc))
    score = np.einsum("s,s...->...", weights, _mean_distance(y - loc, scale))
    for i in range(len(loc)):  # one component at a time, against itself and those before it
        spread = np.hypot(scale[: i + 1], scale[i])
        pairs = np.where(np.arange(i + 1) < i, 2, 1) * weights[: i + 1] * weights[i]
        distance = _mean_distance(loc[: i + 1] - loc[i], spread)
        score -= np.einsum("s,s...->...", pairs, distance) / 2
    return float(score.mean())


def crps_samples(y_true: ArrayLike, samples: ArrayLike, fair: bool = True) -> float:
    """Mean continuous ranked probability score of predictions that are given as samples.

    Use it for predictive distributions without a closed form. The samples must be draws of the
    target itself, including observation noise, and not of its mean.

    Args:
        y_true: (N,) or (N, D) targets. Each is scored separately; `energy_score` scores them
            jointly.
        samples: (S, N) or (S, N, D) samples of the targets.
        fair: True estimates the score of the sampled distribution without bias, so that scores
            with 10 and with 50 samples are comparable. False scores the S samples themselves as
            the prediction, which favors large S.

    Returns:
        Float, in the unit of the targets, averaged over all targets.

    Raises:
        ValueError: If shapes do not match, a number is not finite, or `fair` is True and there is
            only one sample.

    Reference:
        Ferro 2014, "Fair scores for ensemble forecasts", Quarterly Journal of the Royal
        Meteorological Society 140.

    Example:

    >>> crps_samples([0.0], [[-1.0], [1.0]]), crps_samples([0.0], [[-1.0], [1.0]], fair=False)
    (0.0, 0.5)
    """
    y, samples = as_sampled(y_true, samples)
    pairs = _num_pairs(len(samples), fair)
    num_samples = len(samples)
    rank_weights = 2 * np.arange(1, num_samples + 1) - num_samples - 1
    spread = np.einsum("s,s...->...", rank_weights, np.sort(samples, axis=0)) / pairs
    return float((np.abs(samples - y).mean(axis=0) - spread).mean())


def energy_score(y_true: ArrayLike, samples: ArrayLike, fair: bool = True) -> float:
    """Mean energy score of joint predictions of D targets that are given as samples.

    Use it when targets depend on each other; for D = 1 it equals `crps_samples`. Scale targets of
    different units first. The cost is O(S² N D).

    Args:
        y_true: (N, D) targets.
        samples: (S, N, D) samples of the targets, including observation noise.
        fair: As in `crps_samples`.

    Returns:
        Float, in the unit of the targets, averaged over examples.

    Raises:
        ValueError: If shapes do not match, a number is not finite, or `fair` is True and there is
            only one sample.

    Reference:
        Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation",
        section 4.3, with the sign changed.

    Example:

    >>> energy_score([[3.0, 4.0]], [[[0.0, 0.0]], [[0.0, 0.0]]])
    5.0
    """
    y, samples = as_sampled(y_true, samples)
    if y.ndim != 2:
        raise ValueError(
            f"Expected (N, D) for `y_true`. Received: y_true of shape {y.shape}. "
            "Hint: use crps_samples for single targets."
        )
    pairs = _num_pairs(len(samples), fair)
    spread = np.zeros(len(y))
    for i in range(1, len(samples)):
        spread += np.linalg.norm(samples[:i] - samples[i], axis=-1).sum(axis=0)
    return float((np.linalg.norm(samples - y, axis=-1).mean(axis=0) - spread / pairs).mean())


def _mean_distance(shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns E|X| of X ~ Normal(shift, scale)."""
    z = shift / scale
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return 2 * scale * density + shift * (2 * ndtr(z) - 1)


def _num_pairs(num_samples: int, fair: bool) -> int:
    if fair and num_samples == 1:
        raise ValueError(
            "Expected at least two samples for `samples`. Received: one. "
            "Hint: fair=False scores it as a certain prediction."
        )
    return num_samples * (num_samples - 1 if fair else num_samples)


def _as_weights(weights: ArrayLike | None, num_components: int) -> np.ndarray:
    if weights is None:
        return np.full(num_components, 1 / num_components)
    given = np.asarray(weights, dtype="float64")
    positive = given.shape == (num_components,) and (given >= 0).all()
    if not (positive and abs(given.sum() - 1) < 1e-6):
        raise ValueError(
            f"Expected {num_components} weights that sum to 1 for `weights`. "
            f"Received: shape {given.shape}, sum {given.sum():.6g}. "
            "Hint: None weights all components equally."
        )
    return given
