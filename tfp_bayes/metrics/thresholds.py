"""Counts above each threshold of a score, for everything that ranks examples."""

import numpy as np
from numpy.typing import ArrayLike


def as_scores(scores: ArrayLike, name: str) -> np.ndarray:
    """Returns scores (N,) as float64.

    Raises:
        ValueError: If they are not at least one number, or some are NaN.
    """
    scores = np.asarray(scores)
    if scores.ndim != 1 or scores.size == 0 or scores.dtype.kind not in "fiub":
        raise ValueError(
            f"Expected at least one number, of shape (N,), for `{name}`. Received: {scores.dtype} "
            f"of shape {scores.shape}. Hint: one score for each example, such as "
            "prediction.predictive_entropy; a column (N, 1) becomes one by squeeze(-1)."
        )
    scores = scores.astype("float64")
    if np.isnan(scores).any():
        raise ValueError(
            f"Expected numbers for `{name}`. Received: {np.isnan(scores).sum()} of "
            f"{scores.size} are NaN. Hint: inputs or weights that are not finite give NaN."
        )
    return scores


def count_above(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts examples, and positive ones, at or above each distinct score from the highest down.

    Equal scores are passed together: no threshold separates them, whatever the order of rows.

    Args:
        positive: (N,) 0 or 1.
        score: (N,) numbers.

    Returns:
        Examples and positive examples, (T,) integers each, for the T distinct scores.
    """
    order = np.argsort(-score, kind="stable")
    score = score[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))
    return last + 1, np.cumsum(positive[order].astype("int64"))[last]


def auroc_of_counts(above: np.ndarray, positive: np.ndarray) -> float:
    """Returns the area under the ROC curve of the counts of `count_above`.

    It is the chance that a positive example scores above a negative one, ties counted half.
    """
    negative = above - positive
    pairs = positive[-1] * negative[-1]
    # Integers, so that the area of trapezoids is exact.
    doubled = np.diff(negative, prepend=0) @ (positive + np.append(0, positive[:-1]))
    return float(doubled / (2 * pairs))
