"""The inverse of softplus, from positive scales to the unconstrained weights that are trained."""

import numpy as np


def inverse_softplus(value: float | np.ndarray) -> np.ndarray:
    """Return the float64 array whose softplus is a positive value."""
    value = np.asarray(value, "float64")
    return value + np.log(-np.expm1(-value))  # log(expm1(value)) would overflow
