"""Confidence intervals of means by Student's t-distribution."""

import numpy as np
import scipy.stats

CONFIDENCE = 0.95


def t_margin(values: np.ndarray) -> np.ndarray:
    """Return half the width of the 95% confidence interval of the mean over the first axis.

    The result is NaN for a single value, which does not determine the spread.
    """
    num_values = len(values)
    if num_values == 1:
        return np.full(values.shape[1:], np.nan)
    quantile = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, num_values - 1)
    return quantile * values.std(0, ddof=1) / np.sqrt(num_values)
