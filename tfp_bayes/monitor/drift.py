"""Two-sample tests on binned counts, and bins from the quantiles of a reference."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc, kolmogorov

# Smallest expected number of rows in a bin. At a level of 1e-5, the tail of the index is five times
# as heavy as that of the chi-squared distribution with 10 rows, less than twice with 20, and equal
# with 50.
SMALLEST_EXPECTED = 20
# Smaller differences are rounding errors, which depend on the machine and the batch size. An edge
# between 1 and 1 - 1e-7 would report drift where there is none.
_DECIMALS = 5


class DriftStatistic(NamedTuple):
    """The distance of counts from those of a reference, with its p-value.

    Attributes:
        value: (...) statistic; 0 for equal distributions.
        p_value: (...) probability of a value at least as large if the distribution is unchanged.
    """

    value: np.ndarray
    p_value: np.ndarray


def population_stability_index(reference: ArrayLike, window: ArrayLike) -> DriftStatistic:
    """Population stability index of counts against reference counts, with its p-value.

    Use it to detect any change of a distribution. With p and q the shares of the bins in the window
    and in the reference, after adding 1/2 to each count, PSI = sum_b (p_b - q_b) log(p_b / q_b).
    Without a change, PSI / (1 / n + 1 / m) follows a chi-squared distribution with B - 1 degrees of
    freedom, where n and m are the numbers of rows of the window and of the reference. The usual
    threshold of 0.1 ignores n and m: with ten bins, three of four unchanged windows of 50 rows
    exceed it.

    Args:
        reference: (B,) counts in at least two bins.
        window: (..., B) counts in the same bins.

    Returns:
        A named tuple of `value` and `p_value`, each (...).

    Raises:
        ValueError: If the arguments are not counts in the same bins, or all counts are 0.

    Reference:
        Yurdakul and Naranjo 2020, "Statistical properties of the population stability index",
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

    Use it to detect a shift to larger or smaller values, for which it has more power than the
    population stability index. The distance is the largest difference of the two distribution
    functions at the edges of the bins, which is at most that of the raw values. The asymptotic
    p-value is therefore conservative, also under ties.

    Args:
        reference: (B,) counts in at least two bins, in ascending order of values.
        window: (..., B) counts in the same bins.

    Returns:
        A named tuple of `value`, in [0, 1], and `p_value`, each (...).

    Raises:
        ValueError: If the arguments are not counts in the same bins, or all counts are 0.

    Reference:
        Smirnov 1939; the null distribution is that of `scipy.stats.ks_2samp(method="asymp")`.

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
    """Returns the inner edges of bins with equally many values, as far as ties allow.

    Edges are midpoints between distinct values, so no repeated value, such as a vote, lies on one.

    Args:
        values: (m,) finite numbers.
        num_bins: Largest number of bins. Ties and `smallest` may merge neighboring bins.
        smallest: Smallest number of values in a bin.
    """
    distinct, counts = np.unique(values.round(_DECIMALS), return_counts=True)
    up_to = counts.cumsum()
    edges, below = [], 0
    for quantile in np.arange(1, num_bins) / num_bins:
        # The tolerance allows for products that are rounded to just above a whole number.
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
    """Returns both counts as float64, the reference's number of rows and that of each window."""
    arrays = np.asarray(reference, "float64"), np.asarray(window, "float64")
    if arrays[0].ndim != 1 or len(arrays[0]) < 2 or arrays[1].shape[-1:] != arrays[0].shape:
        raise ValueError(
            "Expected (B,) with at least two bins for `reference` and (..., B) for `window`. "
            f"Received: shapes {arrays[0].shape} and {arrays[1].shape}. Hint: pass counts in the "
            "same bins, not values."
        )
    for name, counts in zip(("reference", "window"), arrays, strict=True):
        # Written so that NaN fails too.
        if not ((counts >= 0) & (counts == np.floor(counts))).all() or not counts.sum(-1).all():
            raise ValueError(
                f"Expected counts, at least one of them positive, for `{name}`. Received: {name} "
                f"from {counts.min():.4g} to {counts.max():.4g}. Hint: pass numbers of rows, not "
                "shares."
            )
    m, n = arrays[0].sum(), np.asarray(arrays[1].sum(-1))
    return *arrays, float(m), n
