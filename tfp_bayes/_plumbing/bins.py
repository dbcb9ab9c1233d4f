"""Bins of probabilities, for everything that compares them with frequencies."""

import numpy as np

from tfp_bayes._plumbing.checks import check_integers


def inner_edges(num_bins: int) -> np.ndarray:
    """Returns the (num_bins - 1,) edges between bins (lo, hi] of equal width on [0, 1]."""
    return np.linspace(0, 1, num_bins + 1)[1:-1]


def equal_width(values: np.ndarray, num_bins: int) -> np.ndarray:
    """Returns the bin (N,) of each value; the first also has 0, the last what rounds above 1."""
    return np.searchsorted(inner_edges(num_bins), values, side="left")


def equal_mass(values: np.ndarray, num_bins: int) -> np.ndarray:
    """Returns the bin (N,) of each value, of N / num_bins values each.

    Equal values share the bin of the first of them, so that the order of rows does not matter.

    Raises:
        ValueError: If there are fewer values than bins.
    """
    if len(values) < num_bins:
        raise ValueError(
            f"Expected at least {num_bins} rows for as many bins of equal mass. "
            f'Received: {len(values)} rows. Hint: fewer bins, or bins="equal_width".'
        )
    first = np.searchsorted(np.sort(values), values, side="left")
    sizes = [len(part) for part in np.array_split(np.arange(len(values)), num_bins)]
    return np.searchsorted(np.cumsum(sizes), first, side="right")


_RULES = {"equal_width": equal_width, "equal_mass": equal_mass}


def assign_bins(values: np.ndarray, num_bins: int, bins: str) -> np.ndarray:
    """Returns the bin (N,) of each value under a rule given by name.

    Raises:
        ValueError: If there is no such rule, or `num_bins` is not a positive integer.
    """
    check_integers(1, num_bins=num_bins)
    if bins not in _RULES:
        raise ValueError(
            f'Expected "equal_width" or "equal_mass" for `bins`. Received: bins={bins!r}. '
            "Hint: published figures mostly use equal width."
        )
    return _RULES[bins](values, num_bins)
