"""Two-sample tests on counts in bins, and the bins: quantiles of a reference."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc, kolmogorov

# Rows expected in each bin. With 10 the tail of the index is five times as heavy as that of the
# chi-squared law at a level of 1e-5, with 20 less than twice, with 50 the same.
SMALLEST_EXPECTED = 20
# Values that differ by less are told apart by rounding alone, which another machine or batch size
# does differently: an edge between 1 and 1 - 1e-7 would see drift where there is none.
_DECIMALS = 5


class DriftStatistic(NamedTuple):
    """How far counts are from those of the reference, and how probable that is without drift.

    Attributes:
        value: (...) statistic, 0 for equal distributions.
        p_value: (...) probability of a value at least as large when nothing has changed.
    """

    value: np.ndarray
    p_value: np.ndarray


def population_stability_index(reference: ArrayLike, window: ArrayLike) -> DriftStatistic:
    """Population stability index of counts against reference counts, with its p-value.

    Use it to see any change of a distribution. Shares p of the window and q of the reference, each
    count raised by 1/2, give PSI = sum_b (p_b - q_b) log(p_b / q_b). Without a change
    PSI / (1 / n + 1 / m) follows a chi-squared law of B - 1 degrees of freedom, n and m being the
    rows of the window and of the reference; the usual threshold of 0.1 knows neither, and with ten
    bins is exceeded by three of four windows of 50 rows in which nothing has changed.

    Args:
        reference: (B,) counts in at least two bins.
        window: (..., B) counts in the same bins.

    Returns:
        A named tuple of `value` and `p_value`, each (...).

    Raises:
        ValueError: If these are not counts in the same bins, or there are none.

    Reference:
        Yurdakul and Naranjo 2020, Statistical properties of the population stability index,
        Journal of Risk Model Validation 14(4).

    Example:

    >>> from tfp_bayes.monitor import population_stability_index
    >>> index = population_stability_index([500, 500], [[48, 52], [80, 20]])
    >>> index.value.round(4), index.p_value.round(4)
    (array([0.0016, 0.4063]), array([0.7056, 0.    ]))
    """
    reference, window, m, n = _check_counts(reference, window)
    num_bins = len(reference)
    q = (reference + 0.5) / (m + num_bins / 2)
    p = (window + 0.5) / (n[..., None] + num_bins / 2)
    value = ((p - q) * np.log(p / q)).sum(-1)
    return DriftStatistic(value, chdtrc(num_bins - 1, value / (1 / n + 1 / m)))


def binned_kolmogorov_smirnov(reference: ArrayLike, window: ArrayLike) -> DriftStatistic:
    """Kolmogorov-Smirnov distance of counts from reference counts, with a bound on its p-value.

    Use it to see a shift to larger or smaller values, for which it is stronger than the index. The
    distance is the largest difference of the two distribution functions at the edges of the bins,
    at most that of the values themselves. So the p-value, by the asymptotic law, is too large
    rather than too small, and it is so under ties.

    Args:
        reference: (B,) counts in at least two bins, in ascending order of values.
        window: (..., B) counts in the same bins.

    Returns:
        A named tuple of `value`, in [0, 1], and `p_value`, each (...).

    Raises:
        ValueError: If these are not counts in the same bins, or there are none.

    Reference:
        Smirnov 1939; the law is that of `scipy.stats.ks_2samp(method="asymp")`.

    Example:

    >>> from tfp_bayes.monitor import binned_kolmogorov_smirnov
    >>> distance = binned_kolmogorov_smirnov([500, 500], [[48, 52], [80, 20]])
    >>> distance.value.round(2), distance.p_value.round(4)
    (array([0.02, 0.3 ]), array([1., 0.]))
    """
    reference, window, m, n = _check_counts(reference, window)
    of_window = window.cumsum(-1) / n[..., None]
    value = np.abs(of_window - reference.cumsum() / m).max(-1)
    return DriftStatistic(value, kolmogorov(value * np.sqrt(n * m / (n + m))))


def quantile_edges(values: np.ndarray, num_bins: int, smallest: int) -> np.ndarray:
    """Returns inner edges of bins that hold equally many values, where ties allow it.

    Edges lie in the middle between values, so that none is hit by repeated ones, such as votes.

    Args:
        values: (m,) finite numbers.
        num_bins: Bins at most. Fewer are left where ties, or `smallest`, join neighbors.
        smallest: Values that every bin holds at least.
    """
    distinct, counts = np.unique(values.round(_DECIMALS), return_counts=True)
    up_to = counts.cumsum()
    edges, below = [], 0
    for quantile in np.arange(1, num_bins) / num_bins:
        # The tolerance is for products that rounding lifts above a whole number.
        k = np.searchsorted(up_to, quantile * len(values) - 1e-9)
        if up_to[k] - below >= smallest and len(values) - up_to[k] >= smallest:
            edges.append((distinct[k] + distinct[k + 1]) / 2)
            below = up_to[k]
    return np.array(edges)


def count_in_bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Returns the bin (N,) of each value."""
    return np.searchsorted(edges, values)


def _check_counts(
    reference: ArrayLike, window: ArrayLike
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Returns counts as float64, the rows of the reference and those of each window."""
    arrays = np.asarray(reference, "float64"), np.asarray(window, "float64")
    if arrays[0].ndim != 1 or len(arrays[0]) < 2 or arrays[1].shape[-1:] != arrays[0].shape:
        raise ValueError(
            "Expected (B,) with two bins or more for `reference` and (..., B) for `window`. "
            f"Received: shapes {arrays[0].shape} and {arrays[1].shape}. Hint: counts in the same "
            "bins, not values."
        )
    for name, counts in zip(("reference", "window"), arrays, strict=True):
        # Written so that NaN fails too.
        if not ((counts >= 0) & (counts == np.floor(counts))).all() or not counts.sum(-1).all():
            raise ValueError(
                f"Expected counts, at least one of them not 0, for `{name}`. Received: {name} "
                f"from {counts.min():.4g} to {counts.max():.4g}. Hint: numbers of rows, not shares."
            )
    m, n = arrays[0].sum(), np.asarray(arrays[1].sum(-1))
    return *arrays, float(m), n
