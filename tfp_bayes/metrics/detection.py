"""Scores of how well uncertainty tells inputs of another kind from familiar ones.

The convention of all of these: **out-of-distribution is positive, the score is uncertainty**. It is
that of OpenOOD 1.5; OpenOOD 1.0 and others have it the other way round, which leaves the AUROC as
it is and changes the rest. Take equally many examples of both kinds, preprocessed alike. All rank
the examples and so keep all scores; none streams.
"""

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes.metrics.thresholds import as_scores, auroc_of_counts, count_above


def auroc(uncertainty_in: ArrayLike, uncertainty_out: ArrayLike) -> float:
    """Chance that an out-of-distribution example is less sure than a familiar one.

    Use it to compare detectors whatever their threshold; 1/2 is chance, ties count half.

    Args:
        uncertainty_in: (N,) of examples of the kind trained on, higher where less sure.
        uncertainty_out: (M,) of examples of another kind.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If there are no scores of a kind, or some are NaN.

    Reference:
        Hendrycks and Gimpel 2017, section 2, arXiv:1610.02136.

    Example:

    >>> auroc([0.1, 0.2], [0.2, 0.9])
    0.875
    """
    return auroc_of_counts(*_out_is_positive(uncertainty_in, uncertainty_out))


def aupr_out(uncertainty_in: ArrayLike, uncertainty_out: ArrayLike) -> float:
    """Average precision of finding out-of-distribution examples as the least sure.

    Use it where they are rare; chance is their share of all.

    Args:
        uncertainty_in: (N,) of examples of the kind trained on, higher where less sure.
        uncertainty_out: (M,) of examples of another kind.

    Returns:
        Float in (0, 1], the step-wise sum of precision over recall, not interpolated.

    Raises:
        ValueError: If there are no scores of a kind, or some are NaN.

    Reference:
        Hendrycks and Gimpel 2017, section 2, arXiv:1610.02136.

    Example:

    >>> round(aupr_out([0.1, 0.3], [0.2, 0.9]), 4)
    0.8333
    """
    return _average_precision(*_out_is_positive(uncertainty_in, uncertainty_out))


def aupr_in(uncertainty_in: ArrayLike, uncertainty_out: ArrayLike) -> float:
    """Average precision of finding familiar examples as the surest.

    Use it beside `aupr_out`; here the kind trained on is positive and the score is minus the
    uncertainty.

    Args:
        uncertainty_in: (N,) of examples of the kind trained on, higher where less sure.
        uncertainty_out: (M,) of examples of another kind.

    Returns:
        Float in (0, 1]; chance is the share of familiar examples.

    Raises:
        ValueError: If there are no scores of a kind, or some are NaN.

    Reference:
        Hendrycks and Gimpel 2017, section 2, arXiv:1610.02136.

    Example:

    >>> round(aupr_in([0.1, 0.3], [0.2, 0.9]), 4)
    0.8333
    """
    scores, is_out = _scores(uncertainty_in, uncertainty_out)
    return _average_precision(*count_above(1 - is_out, -scores))


def fpr_at_tpr(uncertainty_in: ArrayLike, uncertainty_out: ArrayLike, tpr: float = 0.95) -> float:
    """Share of familiar examples rejected where 95 % of the others are (FPR95).

    Use it as the cost of a detector that misses few. The threshold is the highest uncertainty that
    reaches the rate; examples at the threshold are rejected.

    Args:
        uncertainty_in: (N,) of examples of the kind trained on, higher where less sure.
        uncertainty_out: (M,) of examples of another kind.
        tpr: Share of out-of-distribution examples to be rejected, in (0, 1].

    Returns:
        Float in [0, 1], the smaller the better.

    Raises:
        ValueError: If there are no scores of a kind, some are NaN, or the rate is none.

    Reference:
        Liang, Li and Srikant 2018, arXiv:1706.02690, where familiar is positive.

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
