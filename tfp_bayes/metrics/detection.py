"""Metrics of out-of-distribution detection by uncertainty.

All of them use the convention of OpenOOD 1.5: **out-of-distribution examples are positive, and the
score is the uncertainty**. OpenOOD 1.0 and others use the opposite convention, which leaves the
AUROC unchanged but changes the other metrics. Use equal numbers of in- and out-of-distribution
examples, preprocessed the same way. These metrics rank the examples, so they need all scores at
once and cannot stream.
"""

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes.metrics.thresholds import as_scores, auroc_of_counts, count_above


def auroc(uncertainty_in: ArrayLike, uncertainty_out: ArrayLike) -> float:
    """Area under the ROC curve of detecting out-of-distribution examples by high uncertainty.

    Use it to compare detectors independently of a threshold. It is the probability that an
    out-of-distribution example is more uncertain than an in-distribution one, with ties counted as
    one half. A random detector has 1/2.

    Args:
        uncertainty_in: (N,) uncertainties of in-distribution examples; higher is less sure.
        uncertainty_out: (M,) uncertainties of out-of-distribution examples.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If either array is empty or contains NaN.

    Reference:
        Hendrycks and Gimpel 2017, section 2, arXiv:1610.02136.

    Example:

    >>> auroc([0.1, 0.2], [0.2, 0.9])
    0.875
    """
    return auroc_of_counts(*_out_is_positive(uncertainty_in, uncertainty_out))


def aupr_out(uncertainty_in: ArrayLike, uncertainty_out: ArrayLike) -> float:
    """Average precision of detecting out-of-distribution examples by high uncertainty.

    Use it when they are rare. A random detector scores their share of all examples.

    Args:
        uncertainty_in: (N,) uncertainties of in-distribution examples; higher is less sure.
        uncertainty_out: (M,) uncertainties of out-of-distribution examples.

    Returns:
        Float in (0, 1], the step-wise sum of precision over recall, without interpolation.

    Raises:
        ValueError: If either array is empty or contains NaN.

    Reference:
        Hendrycks and Gimpel 2017, section 2, arXiv:1610.02136.

    Example:

    >>> round(aupr_out([0.1, 0.3], [0.2, 0.9]), 4)
    0.8333
    """
    return _average_precision(*_out_is_positive(uncertainty_in, uncertainty_out))


def aupr_in(uncertainty_in: ArrayLike, uncertainty_out: ArrayLike) -> float:
    """Average precision of detecting in-distribution examples by low uncertainty.

    Use it beside `aupr_out`. Here in-distribution examples are positive, and the score is the
    negative uncertainty.

    Args:
        uncertainty_in: (N,) uncertainties of in-distribution examples; higher is less sure.
        uncertainty_out: (M,) uncertainties of out-of-distribution examples.

    Returns:
        Float in (0, 1]. A random detector scores the share of in-distribution examples.

    Raises:
        ValueError: If either array is empty or contains NaN.

    Reference:
        Hendrycks and Gimpel 2017, section 2, arXiv:1610.02136.

    Example:

    >>> round(aupr_in([0.1, 0.3], [0.2, 0.9]), 4)
    0.8333
    """
    scores, is_out = _scores(uncertainty_in, uncertainty_out)
    return _average_precision(*count_above(1 - is_out, -scores))


def fpr_at_tpr(uncertainty_in: ArrayLike, uncertainty_out: ArrayLike, tpr: float = 0.95) -> float:
    """False positive rate at a given true positive rate; FPR95 by default.

    It is the share of in-distribution examples that a detector rejects when its threshold rejects
    95 % of out-of-distribution examples. Use it as the cost of a detector that misses few. The
    threshold is the highest uncertainty that reaches `tpr`; examples at the threshold are rejected.

    Args:
        uncertainty_in: (N,) uncertainties of in-distribution examples; higher is less sure.
        uncertainty_out: (M,) uncertainties of out-of-distribution examples.
        tpr: Share of out-of-distribution examples to reject, in (0, 1].

    Returns:
        Float in [0, 1]; smaller is better.

    Raises:
        ValueError: If either array is empty or contains NaN, or `tpr` is not in (0, 1].

    Reference:
        Liang, Li and Srikant 2018, arXiv:1706.02690, who count in-distribution as positive.

    Example:

    >>> fpr_at_tpr([0.1, 0.2, 0.3, 0.6], [0.5, 0.7, 0.8, 0.9])
    0.25
    """
    if not 0 < tpr <= 1:
        raise ValueError(
            f"Expected a number in (0, 1] for `tpr`. Received: tpr={tpr!r}. Hint: 0.95 is usual."
        )
    above, positive = _out_is_positive(uncertainty_in, uncertainty_out)
    negative = above - positive
    reached = np.argmax(positive / positive[-1] >= tpr - 1e-12)
    return float(negative[reached] / negative[-1])


def _scores(uncertainty_in: ArrayLike, uncertainty_out: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    familiar = as_scores(uncertainty_in, "uncertainty_in")
    other = as_scores(uncertainty_out, "uncertainty_out")
    is_out = np.repeat([0, 1], [len(familiar), len(other)])
    return np.concatenate([familiar, other]), is_out


def _out_is_positive(
    uncertainty_in: ArrayLike, uncertainty_out: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    scores, is_out = _scores(uncertainty_in, uncertainty_out)
    return count_above(is_out, scores)


def _average_precision(above: np.ndarray, positive: np.ndarray) -> float:
    recall_gained = np.diff(positive, prepend=0) / positive[-1]
    return float(recall_gained @ (positive / above))
