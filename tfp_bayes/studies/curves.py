"""Statistics of learning curves over paired seeds: whether one method is better than another."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfp_bayes._plumbing.t_interval import t_margin
from tfp_bayes.active.round import Round

LEVELS = (0.10, 0.05)  # test errors whose crossings are reported


class Interval(NamedTuple):
    """An estimate from several seeds with its 95 % confidence interval by Student's t.

    With five seeds a bootstrap over seeds covers the truth 83 times in 100 instead of 95. One
    seed says nothing about the spread over seeds: both ends are then NaN.
    """

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.estimate:.4g} (one seed)"
        return f"{self.estimate:.4g} ({self.low:.4g} to {self.high:.4g})"


def crossing(acquired: np.ndarray, errors: np.ndarray, level: float) -> float:
    """Returns how many labels it took to bring an error down to a level.

    Args:
        acquired: (R,) labels acquired, ascending.
        errors: (R,) error at each.
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
    """Returns how files call the crossing of a level."""
    return f"images_to_{100 * level:.0f}_percent_error"


def images_to_error(history: Sequence[Round], error: float) -> float | None:
    """Returns how many acquired examples it took to reach a test error.

    Args:
        history: Rounds in order.
        error: Test error to reach, e.g. 0.05.

    Returns:
        Acquired examples at the first crossing, linearly interpolated between rounds; None if
        the error was never reached.

    Example:

    >>> rounds = [Round(0, 20, 0, 0.75), Round(1, 30, 10, 0.875)]
    >>> images_to_error(rounds, 0.1875)
    5.0
    """
    acquired = np.array([row.num_acquired for row in history])
    found = crossing(acquired, np.array([1 - row.test_accuracy for row in history]), error)
    return None if np.isinf(found) else found


def mean_crossing(acquired: np.ndarray, errors: np.ndarray, level: float) -> Interval:
    """Returns how many labels it took to bring the mean curve down to a level.

    The interval holds every number of labels at which the t-interval of the mean error contains
    the level, so it is valid whether or not every seed gets there. Its upper end is infinite where
    the rounds that were run do not show that the mean stays below the level.

    Args:
        acquired: (R,) labels acquired, ascending.
        errors: (M, R) of M seeds.
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
    # The last descent of the upper bound; an earlier one may be luck, which a later rise shows.
    above = np.flatnonzero(upper > level)
    last = above[-1] if above.size else 0
    high = crossing(acquired[last:], upper[last:], level)
    return Interval(estimate, crossing(acquired, mean - margin, level), high)


def mean_area(acquired: np.ndarray, errors: np.ndarray) -> Interval:
    """Returns the average height of the mean curve (M, R): its area over the labels acquired."""
    return _mean(_areas(acquired, _checked(acquired, errors)))


def paired_difference(acquired: np.ndarray, errors: np.ndarray, baseline: np.ndarray) -> Interval:
    """Returns how much higher one method's curves lie than another's, seed by seed.

    Args:
        acquired: (R,) labels acquired, ascending.
        errors: (M, R) of M seeds.
        baseline: (M, R) of the same seeds.

    Returns:
        The difference of average heights; below 0, and its interval too, `errors` is better.

    Raises:
        ValueError: If shapes do not fit.
    """
    errors, baseline = _checked(acquired, errors), _checked(acquired, baseline)
    if errors.shape != baseline.shape:
        raise ValueError(
            "Expected the same seeds of both methods. Received: curves of shape "
            f"{errors.shape} and {baseline.shape}. Hint: only seeds that both have can be paired."
        )
    return _mean(_areas(acquired, errors) - _areas(acquired, baseline))


def _areas(acquired: np.ndarray, errors: np.ndarray) -> np.ndarray:
    if acquired[-1] == acquired[0]:  # one round, or a filter that believed no label
        return errors.mean(1)
    return np.trapezoid(errors, acquired, axis=1) / (acquired[-1] - acquired[0])


def _checked(acquired: np.ndarray, errors: np.ndarray) -> np.ndarray:
    errors = np.asarray(errors, "float64")
    if errors.ndim != 2 or not errors.size or errors.shape[1] != len(acquired):
        raise ValueError(
            f"Expected curves (M, {len(acquired)}), one row for each seed. "
            f"Received: shape {errors.shape}. Hint: np.stack the errors of runs of equal length."
        )
    return errors


def _mean(values: np.ndarray) -> Interval:
    """Returns the mean of values (M,), one for each seed, with its interval."""
    estimate, margin = float(values.mean()), float(t_margin(values))
    return Interval(estimate, estimate - margin, estimate + margin)
