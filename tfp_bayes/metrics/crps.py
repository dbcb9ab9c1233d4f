"""Continuous ranked probability scores: how far predicted distributions are from what came."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from tfp_bayes.metrics.targets import as_normal, as_sampled, check_scale


def crps_normal(y_true: ArrayLike, loc: ArrayLike, scale: ArrayLike) -> float:
    """Mean continuous ranked probability score of normal predictions, the smaller the better.

    Use it as a proper score in the unit of the targets that outliers do not dominate, as they do
    the likelihood. The Keras metric `NormalCRPS` streams it.

    Args:
        y_true: (N,) or (N, D) targets.
        loc: Means of the same shape.
        scale: Standard deviations of the same shape.

    Raises:
        ValueError: If shapes differ, a number is not finite, or a scale is not positive.

    Reference:
        Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation",
        equation 21 and the next, with the sign changed.

    Example:

    >>> round(crps_normal([0.0], [0.0], [1.0]), 4)
    0.2337
    """
    y, loc, scale = as_normal(y_true, loc, scale)
    return float(normal_scores(y, loc, scale).mean())


def normal_scores(y: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns the score of each target under its normal, of the shape of all three."""
    # E|Y - y| - E|Y - Y'| / 2, where Y - Y' has twice the variance and E|Y - Y'| = 2 scale / √π.
    return _mean_distance(y - loc, scale) - scale / math.sqrt(math.pi)


def crps_mixture(
    y_true: ArrayLike, loc: ArrayLike, scale: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Mean continuous ranked probability score of mixtures of normal distributions.

    Use it for what S draws of the weights of a model with normal outputs predict together; the
    normal distribution of the same mean and variance would hide several modes. Takes S² N steps.

    Args:
        y_true: (N,) or (N, D) targets.
        loc: Means of the components, (S, N) or (S, N, D).
        scale: Standard deviations of the components, of the same shape.
        weights: (S,) of the components, which sum to 1; equal if left out.

    Raises:
        ValueError: If shapes do not match, a number is not finite, a scale is not positive, or
            weights are none.

    Reference:
        Grimit et al. 2006, "The continuous ranked probability score for circular variables and
        its application to mesoscale forecast ensemble verification".

    Example:

    >>> round(crps_mixture([0.0], [[0.0], [0.0]], [[1.0], [1.0]]), 4)
    0.2337
    """
    y, loc = as_sampled(y_true, loc)
    _, scale = as_sampled(y_true, scale)
    if scale.shape != loc.shape:
        raise ValueError(
            f"Expected the shape {loc.shape} of `loc` for `scale`. "
            f"Received: scale of shape {scale.shape}. Hint: one for each component and target."
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
    """Mean continuous ranked probability score of predictions known by samples.

    Use it for predictive distributions without a formula. Samples are of the target, noise
    included, and not of its mean.

    Args:
        y_true: (N,) or (N, D) targets; each is scored by itself, see `energy_score`.
        samples: (S, N) or (S, N, D).
        fair: Whether to estimate the score of the distribution that was sampled, without bias, so
            that 10 and 50 samples compare. False scores the S samples as the prediction itself,
            which favors large S.

    Raises:
        ValueError: If shapes do not match, a number is not finite, or there is one sample, of
            which there is no fair score.

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
    """Mean energy score of joint predictions of D targets, known by samples.

    Use it where targets depend on each other; for D = 1 it is `crps_samples`. Targets of different
    units are to be scaled first. Takes S² N D steps.

    Args:
        y_true: (N, D) targets.
        samples: (S, N, D), of the targets, noise included.
        fair: As in `crps_samples`.

    Raises:
        ValueError: If shapes do not match, a number is not finite, or there is one sample, of
            which there is no fair score.

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
            "Hint: crps_samples scores single targets."
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
            "Hint: fair=False scores it as a prediction that is certain."
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
            f"Received: shape {given.shape}, sum {given.sum():.6g}. Hint: None for equal ones."
        )
    return given
