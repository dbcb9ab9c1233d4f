"""Counts of examples above each threshold of a score, shared by the metrics that rank examples."""

import numpy as np
from numpy.typing import ArrayLike


def as_scores(scores: ArrayLike, name: str) -> np.ndarray:
    """Returns scores (N,) as float64.

    Raises:
        ValueError: If `scores` is not a non-empty numeric array (N,), or contains NaN.
    """
    scores = np.asarray(scores)
    if scores.ndim != 1 or scores.size == 0 or scores.dtype.kind not in "fiub":
        raise ValueError(
            f"Expected at least one number, of shape (N,), for `{name}`. Received: {scores.dtype} "
            f"of shape {scores.shape}. Hint: give one score per example, such as "
            "prediction.predictive_entropy; squeeze(-1) converts a column (N, 1)."
        )
    scores = scores.astype("float64")
    if np.isnan(scores).any():
        raise ValueError(
            f"Expected numbers for `{name}`. Received: {np.isnan(scores).sum()} of "
            f"{scores.size} are NaN. Hint: check for inputs or weights that are not finite."
        )
    return scores


def count_above(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts all examples and positive examples at or above each distinct score, highest first.

    Equal scores are counted together, because no threshold separates them; the order of rows does
    not matter.

    Args:
        positive: (N,) 0 or 1.
        score: (N,) numbers.

    Returns:
        Numbers of examples and of positive examples, (T,) integers each, for the T distinct scores.
    """
    order = np.argsort(-score, kind="stable")
    score = score[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))
    return last + 1, np.cumsum(positive[order].astype("int64"))[last]


def auroc_of_counts(above: np.ndarray, positive: np.ndarray) -> float:
    """Returns the area under the ROC curve from the counts of `count_above`.

    It is the probability that a positive example scores above a negative one, with ties counted as
    one half.
    """
    negative = above - positive
    pairs = positive[-1] * negative[-1]
    # Integer arithmetic makes the sum of trapezoids exact.
    doubled = np.diff(negative, prepend=0) @ (positive + np.append(0, positive[:-1]))
    return float(doubled / (2 * pairs))
