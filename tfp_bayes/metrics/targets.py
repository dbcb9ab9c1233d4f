"""Checks of real-valued targets and their predictions."""

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.checks import check_unmasked


def as_same_shape(
    y_true: ArrayLike, infinite: bool = False, **predicted: ArrayLike
) -> tuple[np.ndarray, ...]:
    """Returns targets, and predictions of the same shape, as float64.

    Args:
        y_true: (N,) or (N, D) targets.
        infinite: Whether predictions may be infinite, as the ends of intervals may.
        **predicted: Predictions by argument name.

    Raises:
        ValueError: If shapes differ, there is no target, or a number is not finite.
    """
    y = _finite(y_true, "y_true")
    if y.ndim not in (1, 2) or y.size == 0:
        raise ValueError(
            "Expected (N,) or (N, D) with at least one target for `y_true`. "
            f"Received: y_true of shape {y.shape}. Hint: give one row per example."
        )
    arrays = [y]
    for name, given in predicted.items():
        check_unmasked(given, name)
        array = np.asarray(given, dtype="float64")
        if array.shape != y.shape:
            raise ValueError(
                f"Expected the shape {y.shape} of `y_true` for `{name}`. "
                f"Received: {name} of shape {array.shape}. Hint: reshape one of them; (N,) and "
                "(N, 1) differ."
            )
        arrays.append(array if infinite else _finite(array, name))
    return tuple(arrays)


def as_normal(
    y_true: ArrayLike, loc: ArrayLike, scale: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns targets and normal parameters of the same shape as float64.

    Raises:
        ValueError: If shapes differ, a number is not finite, or a scale is not positive.
    """
    y, loc, scale = as_same_shape(y_true=y_true, loc=loc, scale=scale)
    check_scale(scale)
    return y, loc, scale


def as_sampled(
    y_true: ArrayLike, samples: ArrayLike, name: str = "samples"
) -> tuple[np.ndarray, np.ndarray]:
    """Returns targets (N,) or (N, D), and samples (S, N) or (S, N, D), as float64.

    Args:
        y_true: (N,) or (N, D) targets.
        samples: Samples of the targets, or one parameter of S mixture components.
        name: Name of the argument `samples` in error messages.

    Raises:
        ValueError: If shapes do not match, or a number is not finite.
    """
    (y,) = as_same_shape(y_true=y_true)
    samples = _finite(samples, name)
    if samples.shape[1:] != y.shape or samples.shape[0] == 0:
        raise ValueError(
            f"Expected shape (S, {', '.join(map(str, y.shape))}) for `{name}`. "
            f"Received: {name} of shape {samples.shape}. Hint: the sample axis comes first."
        )
    return y, samples


def check_scale(scale: np.ndarray) -> None:
    """Raises ValueError unless every standard deviation is positive."""
    if not (scale > 0).all():
        raise ValueError(
            f"Expected positive numbers for `scale`. Received: {scale.min():.4g} as the smallest. "
            "Hint: pass standard deviations, not their logarithms."
        )


def check_level(level: float) -> None:
    """Raises ValueError unless `level` is in (0, 1)."""
    if not 0 < level < 1:
        raise ValueError(
            f"Expected a number in (0, 1) for `level`. Received: level={level!r}. "
            "Hint: use 0.9 for 90 % intervals."
        )


def _finite(given: ArrayLike, name: str) -> np.ndarray:
    check_unmasked(given, name)
    array = np.asarray(given, dtype="float64")
    if not np.isfinite(array).all():
        raise ValueError(
            f"Expected finite numbers for `{name}`. Received: {(~np.isfinite(array)).sum()} of "
            f"{array.size} are NaN or infinite. Hint: drop examples without a target."
        )
    return array
