"""Exact sums of floating-point numbers, which are the same for any partition of the numbers."""

from fractions import Fraction

import numpy as np

_LEAST = -1073  # exponent of the smallest float64, in the convention of `np.frexp`
_BITS, _HALF = 53, 27  # number of bits in a float64's fraction, and in its lower half
MOST_VALUES = 2**24  # number of values that one call adds up exactly


def exact_sum(values: np.ndarray) -> int:
    """Return the exact sum of finite numbers (n,), as an integer multiple of 2^-1126.

    Add such integers directly, and round once at the end with `as_float`.

    Example:

    >>> from tfp_bayes.scale.sums import as_float, exact_sum
    >>> as_float(exact_sum(np.array([1e100, 1.0, -1e100])))
    1.0
    """
    fraction, exponent = np.frexp(np.asarray(values, "float64"))
    if not fraction.size:
        return 0
    whole = np.ldexp(fraction, _BITS).astype("int64")
    place = exponent - exponent.min()
    # Sums of 2^24 halves of 27 bits are still exact in the float64 of `bincount`.
    high = np.bincount(place, (whole >> _HALF).astype("float64"))
    low = np.bincount(place, (whole & (2**_HALF - 1)).astype("float64"))
    total = sum(((int(h) << _HALF) + int(w)) << i for i, (h, w) in enumerate(zip(high, low)))
    return total << (int(exponent.min()) - _LEAST)


def as_float(total: int) -> float:
    """Return the float64 nearest to a sum of `exact_sum`."""
    return float(Fraction(total, 2 ** (_BITS - _LEAST)))
