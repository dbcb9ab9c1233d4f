"""Statistics of learning curves over paired seeds: whether one method is better than another."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tfp_bayes.active import Round

NUM_RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate from several seeds with its 95 % bootstrap interval over seeds."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
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
    """Returns the crossing of the mean curve.

    Args:
        acquired: (R,) labels acquired, ascending.
        errors: (M, R) of M seeds.
        level: Error to reach.

    Example:

    >>> mean_crossing(np.array([0, 10]), np.array([[0.5, 0.25], [0.5, 0.25]]), 0.375)
    Interval(estimate=5.0, low=5.0, high=5.0)
    """
    errors = _checked(acquired, errors)
    return _bootstrap(lambda at: crossing(acquired, errors[at].mean(0), level), len(errors))


def mean_area(acquired: np.ndarray, errors: np.ndarray) -> Interval:
    """Returns the average height of the mean curve (M, R): its area over the labels acquired."""
    areas = _areas(acquired, _checked(acquired, errors))
    return _bootstrap(lambda at: areas[at].mean(), len(areas))


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
    differences = _areas(acquired, errors) - _areas(acquired, baseline)
    return _bootstrap(lambda at: differences[at].mean(), len(differences))


def _areas(acquired: np.ndarray, errors: np.ndarray) -> np.ndarray:
    if len(acquired) == 1:
        return errors[:, 0]
    return np.trapezoid(errors, acquired, axis=1) / (acquired[-1] - acquired[0])


def _checked(acquired: np.ndarray, errors: np.ndarray) -> np.ndarray:
    errors = np.asarray(errors, "float64")
    if errors.ndim != 2 or not errors.size or errors.shape[1] != len(acquired):
        raise ValueError(
            f"Expected curves (M, {len(acquired)}), one row for each seed. "
            f"Received: shape {errors.shape}. Hint: np.stack the errors of runs of equal length."
        )
    return errors


def _bootstrap(statistic: Callable[[np.ndarray], float], num_seeds: int) -> Interval:
    """Resamples seeds; the interval may be infinite, where a level is not always reached."""
    rng = np.random.default_rng(0)
    everything = np.arange(num_seeds)
    values = [statistic(rng.choice(everything, num_seeds)) for _ in range(NUM_RESAMPLES)]
    low, high = np.quantile(values, [0.025, 0.975], method="closest_observation")
    return Interval(float(statistic(everything)), float(low), float(high))
