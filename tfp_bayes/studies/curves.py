"""Statistics of learning curves over paired seeds, to compare methods."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfp_bayes._plumbing.t_interval import t_margin
from tfp_bayes.active.round import Round

LEVELS = (0.10, 0.05)  # test errors for which reports state the number of labels needed


class Interval(NamedTuple):
    """An estimate from several seeds with its 95 % confidence interval by Student's t.

    With five seeds, a bootstrap over seeds would cover the true value in 83 % of cases instead of
    95 %. With one seed, the spread over seeds is unknown and both ends are NaN.
    """

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.estimate:.4g} (one seed)"
        return f"{self.estimate:.4g} ({self.low:.4g} to {self.high:.4g})"


def crossing(acquired: np.ndarray, errors: np.ndarray, level: float) -> float:
    """Return the number of labels at which an error first reaches a level.

    Args:
        acquired: (R,) numbers of labels acquired, ascending.
        errors: (R,) error at each of these numbers.
        level: Error to reach.

    Returns:
        The first crossing, linearly interpolated between rounds; infinity if never reached.

    Example:

    >>> crossing(np.array([0, 10]), np.array([0.5, 0.25]), 0.375)
    5.0
    """
    reached = np.flatnonzero(errors <= level)
    if not reached.size:
        return float("inf")
    i = reached[0]
    if i == 0:
        return float(acquired[0])
    share = (errors[i - 1] - level) / (errors[i - 1] - errors[i])
    return float(acquired[i - 1] + (acquired[i] - acquired[i - 1]) * share)


def level_name(level: float) -> str:
    """Return the name of a level's crossing in files."""
    return f"images_to_{100 * level:.0f}_percent_error"


def images_to_error(history: Sequence[Round], error: float) -> float | None:
    """Return the number of acquired examples at which a run first reaches a test error.

    Args:
        history: Rounds in order.
        error: Test error to reach, such as 0.05.

    Returns:
        Acquired examples at the first crossing, linearly interpolated between rounds. None if the
        error is never reached.

    Example:

    >>> rounds = [Round(0, 20, 0, 0.75), Round(1, 30, 10, 0.875)]
    >>> images_to_error(rounds, 0.1875)
    5.0
    """
    acquired = np.array([row.num_acquired for row in history])
    found = crossing(acquired, np.array([1 - row.test_accuracy for row in history]), error)
    return None if np.isinf(found) else found


def mean_crossing(acquired: np.ndarray, errors: np.ndarray, level: float) -> Interval:
    """Return the number of labels at which the mean curve first reaches a level.

    The interval contains every number of labels at which the t interval of the mean error contains
    the level, so it is valid even if some seeds never reach the level. Its upper end is infinite if
    the rounds so far do not show that the mean stays below the level.

    Args:
        acquired: (R,) numbers of labels acquired, ascending.
        errors: (M, R) errors of M seeds.
        level: Error to reach.

    Reference:
        Fieller 1954, "Some Problems in Interval Estimation": an interval by inverting a test.

    Example:

    >>> mean_crossing(np.array([0, 10]), np.array([[0.5, 0.25], [0.5, 0.25]]), 0.375)
    Interval(estimate=5.0, low=5.0, high=5.0)
    """
    errors = _checked(acquired, errors)
    mean, margin = errors.mean(0), t_margin(errors)
    estimate = crossing(acquired, mean, level)
    if len(errors) == 1:
        return Interval(estimate, float("nan"), float("nan"))
    upper = mean + margin
    # Use the last crossing of the upper bound: if it rises again later, an earlier one was chance.
    above = np.flatnonzero(upper > level)
    last = above[-1] if above.size else 0
    high = crossing(acquired[last:], upper[last:], level)
    return Interval(estimate, crossing(acquired, mean - margin, level), high)


def mean_area(acquired: np.ndarray, errors: np.ndarray) -> Interval:
    """Return the average height of the mean of curves (M, R): its area over the labels acquired."""
    return _mean(_areas(acquired, _checked(acquired, errors)))


def paired_difference(acquired: np.ndarray, errors: np.ndarray, baseline: np.ndarray) -> Interval:
    """Return the mean difference, paired by seed, between the curves of two methods.

    Args:
        acquired: (R,) numbers of labels acquired, ascending.
        errors: (M, R) errors of M seeds.
        baseline: (M, R) errors of the baseline with the same seeds.

    Returns:
        The difference of average heights. If it and its interval are below 0, `errors` is better.

    Raises:
        ValueError: If the shapes do not match.
    """
    errors, baseline = _checked(acquired, errors), _checked(acquired, baseline)
    if errors.shape != baseline.shape:
        raise ValueError(
            "Expected curves of the same seeds for `errors` and `baseline`. Received: shapes "
            f"{errors.shape} and {baseline.shape}. Hint: use only the seeds that both have."
        )
    return _mean(_areas(acquired, errors) - _areas(acquired, baseline))


def _areas(acquired: np.ndarray, errors: np.ndarray) -> np.ndarray:
    if acquired[-1] == acquired[0]:  # one round, or a filter that rejected every label
        return errors.mean(1)
    return np.trapezoid(errors, acquired, axis=1) / (acquired[-1] - acquired[0])


def _checked(acquired: np.ndarray, errors: np.ndarray) -> np.ndarray:
    errors = np.asarray(errors, "float64")
    if errors.ndim != 2 or not errors.size or errors.shape[1] != len(acquired):
        raise ValueError(
            f"Expected curves (M, {len(acquired)}), one row for each seed. "
            f"Received: shape {errors.shape}. Hint: stack the errors of runs of equal length."
        )
    if not np.isfinite(errors).all():
        raise ValueError(
            "Expected finite errors in every round. Received: NaN or infinity in "
            f"{np.count_nonzero(~np.isfinite(errors))} of {errors.size}. "
            "Hint: a run without a test set, or of a regression, has no test accuracy."
        )
    if np.any(np.diff(acquired) < 0):
        raise ValueError(
            "Expected numbers of labels that do not decrease for `acquired`. Received: "
            f"{np.asarray(acquired).tolist()}. Hint: sort the rounds, and list each one once."
        )
    return errors


def _mean(values: np.ndarray) -> Interval:
    """Return the mean of values (M,), one for each seed, with its interval."""
    estimate, margin = float(values.mean()), float(t_margin(values))
    return Interval(estimate, estimate - margin, estimate + margin)
