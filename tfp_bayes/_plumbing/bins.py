"""Bins of probabilities, for measures that compare predicted probabilities with frequencies."""

import numpy as np

from tfp_bayes._plumbing.checks import check_integers


def inner_edges(num_bins: int) -> np.ndarray:
    """Return the (num_bins - 1,) edges between bins (lo, hi] of equal width on [0, 1]."""
    return np.linspace(0, 1, num_bins + 1)[1:-1]


def equal_width(values: np.ndarray, num_bins: int) -> np.ndarray:
    """Return the bin index (N,) of each value.

    The first bin includes 0; the last one includes values that rounding pushed above 1.
    """
    return np.searchsorted(inner_edges(num_bins), values, side="left")


def equal_mass(values: np.ndarray, num_bins: int) -> np.ndarray:
    """Return the bin index (N,) of each value, for bins of N / num_bins values each.

    Equal values share the bin of the first of them, so the order of the rows does not matter.

    Raises:
        ValueError: If there are fewer values than bins.
    """
    if len(values) < num_bins:
        raise ValueError(
            f"Expected at least {num_bins} rows for {num_bins} bins of equal mass. "
            f'Received: {len(values)} rows. Hint: use fewer bins, or bins="equal_width".'
        )
    first = np.searchsorted(np.sort(values), values, side="left")
    sizes = [len(part) for part in np.array_split(np.arange(len(values)), num_bins)]
    return np.searchsorted(np.cumsum(sizes), first, side="right")


_RULES = {"equal_width": equal_width, "equal_mass": equal_mass}


def assign_bins(values: np.ndarray, num_bins: int, bins: str) -> np.ndarray:
    """Return the bin index (N,) of each value under the binning rule `bins`.

    Raises:
        ValueError: If there is no rule of that name, or `num_bins` is not a positive integer.
    """
    check_integers(1, num_bins=num_bins)
    if bins not in _RULES:
        raise ValueError(
            f'Expected "equal_width" or "equal_mass" for `bins`. Received: bins={bins!r}. '
            'Hint: most published results use "equal_width".'
        )
    return _RULES[bins](values, num_bins)
