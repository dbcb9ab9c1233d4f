"""Split conformal prediction on arrays: nonconformity scores and their quantiles.

A score measures how badly a label or target fits a prediction. If a new example is exchangeable
with n held-out examples, its score is at most the k-th smallest of their scores with probability at
least k / (n + 1), for any model. The set of labels whose score does not exceed that quantile
therefore contains the true label with the desired probability.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.checks import check_labels
from tfp_bayes._plumbing.probabilities import as_labelled, as_probabilities

_ROUNDING = 1e-9  # (n + 1) * 0.9 may be rounded to just above a whole number
_PENALTIES = (0.001, 0.01, 0.1, 0.2, 0.5)
GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def conformal_quantile(scores: ArrayLike, coverage: float = 0.9) -> np.ndarray:
    """Returns the score that a new example does not exceed with probability `coverage`.

    Use it with any nonconformity score. It is the k-th smallest of n scores, k = ceil((n + 1)
    coverage), without interpolation, and infinite if k > n. If no scores are equal, the coverage
    given the n held-out examples is distributed as Beta(k, n + 1 - k).

    Args:
        scores: (n,) scores of held-out examples, or (n, D) for one quantile per column.
        coverage: Desired probability, in (0, 1).

    Returns:
        Float64 scalar, or (D,).

    Raises:
        ValueError: If a score is NaN or `coverage` is not in (0, 1).

    Reference:
        Vovk, Gammerman and Shafer 2005, "Algorithmic Learning in a Random World"; Angelopoulos
        and Bates 2021, section 1.1 and appendix C, arXiv:2107.07511.

    Example:

    >>> float(conformal_quantile([0.3, 0.1, 0.4, 0.2], 0.8))  # the 4th smallest of 4
    0.4
    >>> float(conformal_quantile([0.3, 0.1, 0.4, 0.2], 0.9))  # needs more than 4 examples
    inf
    """
    scores = np.asarray(scores, dtype="float64")
    check_coverage(coverage)
    if scores.ndim == 0 or np.isnan(scores).any():
        raise ValueError(
            "Expected scores (n,) or (n, D) without NaN for `scores`. Received: scores of shape "
            f"{scores.shape} with {int(np.isnan(scores).sum())} NaN. Hint: correct or drop "
            "the examples whose prediction is NaN."
        )
    rank = math.ceil((len(scores) + 1) * coverage - _ROUNDING)
    if rank > len(scores):
        return np.full(scores.shape[1:], np.inf)
    return np.partition(scores, rank - 1, axis=0)[rank - 1]


def class_conditional_quantiles(
    scores: ArrayLike, y_true: ArrayLike, num_classes: int, coverage: float = 0.9
) -> np.ndarray:
    """Returns the `conformal_quantile` of each class, computed from the examples of that class.

    Use it for Mondrian conformal prediction, where every class must be covered and not only the
    average. A class with too few examples has an infinite quantile, so it is in every set.

    Args:
        scores: (n,) scores of held-out examples at their true labels.
        y_true: (n,) integer labels.
        num_classes: Number of classes K.
        coverage: Desired probability, in (0, 1).

    Returns:
        Float64 (K,).

    Raises:
        ValueError: If `y_true` does not hold one class number per score. See also
            `conformal_quantile`.

    Reference:
        Vovk 2012, "Conditional validity of inductive conformal predictors", arXiv:1209.2673.

    Example:

    >>> class_conditional_quantiles([0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1], 2, coverage=0.75)
    array([0.3, inf])
    """
    scores = np.asarray(scores, dtype="float64")
    y_true = check_labels(y_true, len(scores), num_classes, "y_true")
    return np.stack([conformal_quantile(scores[y_true == k], coverage) for k in range(num_classes)])


def lac_scores(probs: ArrayLike) -> np.ndarray:
    """Returns the score 1 - p_k of every class, (N, K), which gives the smallest sets on average.

    Use it when small sets matter most. The sets cover hard examples too rarely, and may be empty
    for them, and cover easy examples too often.

    Args:
        probs: (N, K) probabilities.

    Returns:
        Float64 (N, K) scores in [0, 1].

    Raises:
        ValueError: If `probs` are not probabilities.

    Reference:
        Sadinle, Lei and Wasserman 2019, "Least ambiguous set-valued classifiers with bounded
        error levels", arXiv:1609.00451.

    Example:

    >>> lac_scores([[0.75, 0.25]])
    array([[0.25, 0.75]])
    """
    return 1 - as_probabilities(probs)


def aps_scores(
    probs: ArrayLike, u: ArrayLike, penalty: float = 0.0, free_ranks: int = 0
) -> np.ndarray:
    """Returns the adaptive (APS) or regularized adaptive (RAPS) score of every class, (N, K).

    The score of a class is the total probability of the more probable classes plus (1 - u) times
    its own. Use it for sets that are larger for hard examples and smaller for easy ones. A positive
    penalty gives RAPS, whose sets are smaller when there are many classes.

    Args:
        probs: (N, K) probabilities. Among equal ones the first class counts as more probable.
        u: (N,) uniform numbers in [0, 1], one per example and shared by its classes, so that a set
            always holds the most probable classes; see `row_uniforms`. Zeros give sets with more
            than the desired coverage.
        penalty: lambda of RAPS, added for each rank above `free_ranks`; 0 is APS.
        free_ranks: k_reg of RAPS, the number of ranks without penalty.

    Returns:
        Float64 (N, K) scores.

    Raises:
        ValueError: If `probs` are not probabilities, `u` is not (N,) numbers in [0, 1], or
            `penalty` or `free_ranks` is negative.

    Reference:
        Romano, Sesia and Candes 2020, equation 8, arXiv:2006.02544; Angelopoulos et al. 2021,
        algorithm 2, arXiv:2009.14193.

    Example:

    >>> aps_scores([[0.25, 0.5, 0.25]], u=[0.5])
    array([[0.625, 0.25 , 0.875]])
    """
    probs, u = as_probabilities(probs), np.asarray(u, dtype="float64")
    if u.shape != probs.shape[:1] or not np.all((u >= 0) & (u <= 1)):
        raise ValueError(
            f"Expected numbers in [0, 1] of shape {probs.shape[:1]} for `u`. "
            f"Received: u of shape {u.shape}. Hint: u=row_uniforms(probs, seed=0)."
        )
    if not (0 <= penalty < np.inf and free_ranks >= 0):
        raise ValueError(
            "Expected numbers of at least 0 for `penalty` and `free_ranks`. Received: "
            f"penalty={penalty!r}, free_ranks={free_ranks!r}. Hint: penalty=0 is APS."
        )
    order = np.argsort(-probs, axis=1, kind="stable")
    likeliest_first = np.take_along_axis(probs, order, axis=1)
    scores = np.cumsum(likeliest_first, axis=1) - u[:, None] * likeliest_first
    scores += penalty * np.maximum(np.arange(1, probs.shape[1] + 1) - free_ranks, 0)
    unsorted = np.empty_like(scores)
    np.put_along_axis(unsorted, order, scores, axis=1)
    return unsorted


def choose_raps_penalty(
    y_true: ArrayLike, probs: ArrayLike, u: ArrayLike, coverage: float = 0.9
) -> tuple[float, int]:
    """Returns the `penalty` and `free_ranks` of RAPS that give the smallest sets.

    Use other examples than those that the quantile is computed from; otherwise the coverage
    guarantee is lost.

    Args:
        y_true: (n,) integer labels.
        probs: (n, K) probabilities.
        u: (n,) uniform numbers in [0, 1].
        coverage: Desired probability, in (0, 1).

    Returns:
        The penalty, and the number of free ranks.

    Raises:
        ValueError: If labels and probabilities do not match.

    Reference:
        Angelopoulos et al. 2021, appendix E, arXiv:2009.14193.

    Example:

    >>> probs = np.tile([[0.7, 0.1, 0.1, 0.1]], (20, 1))
    >>> choose_raps_penalty(np.zeros(20, "int64"), probs, row_uniforms(probs), coverage=0.8)
    (0.001, 1)
    """
    y_true, probs = as_labelled(y_true, probs)
    rows = np.arange(len(y_true))
    ranks = np.argsort(np.argsort(-probs, axis=1, kind="stable"), axis=1) + 1
    free_ranks = int(min(conformal_quantile(ranks[rows, y_true], coverage), probs.shape[1]))
    sizes = []
    for penalty in _PENALTIES:
        scores = aps_scores(probs, u, penalty, free_ranks)
        quantile = conformal_quantile(scores[rows, y_true], coverage)
        sizes.append((scores <= quantile).sum())
    return _PENALTIES[int(np.argmin(sizes))], free_ranks


def row_uniforms(probs: ArrayLike, seed: int = 0) -> np.ndarray:
    """Returns one number in [0, 1) per row, (N,), as a hash of the row and the seed.

    Use it to randomize `aps_scores`. The number of a row does not depend on the batch or the
    process, and equal rows have equal numbers. Scores are then a fixed function of example and
    label, so the coverage guarantee holds as it does for any such score.

    Args:
        probs: (N, K) probabilities.
        seed: Integer seed.

    Returns:
        Float64 (N,) numbers in [0, 1).

    Raises:
        ValueError: If `probs` is not two-dimensional.

    Example:

    >>> u = row_uniforms([[0.5, 0.5], [0.4, 0.6], [0.5, 0.5]])
    >>> bool(u[0] == u[2]), bool(u[0] == u[1])
    (True, False)
    """
    rows = np.ascontiguousarray(probs, dtype="float64") + 0.0  # -0 becomes 0
    if rows.ndim != 2:
        raise ValueError(
            f"Expected (N, K) for `probs`. Received: probs of shape {rows.shape}. "
            "Hint: give one row per example."
        )
    bits = rows.view("uint64")
    state = _mix(np.full(len(bits), seed % 2**64, dtype="uint64"))
    for column in bits.T:
        state = _mix(state ^ column)
    return (state >> np.uint64(11)) * 2.0**-53


def _mix(state: np.ndarray) -> np.ndarray:
    """Applies one step of SplitMix64 (Steele, Lea and Flood 2014), which is a bijection."""
    state = state + np.uint64(GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(MIX_1)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(MIX_2)
    return state ^ (state >> np.uint64(31))


def normalized_scores(y_true: ArrayLike, loc: ArrayLike, scale: ArrayLike) -> np.ndarray:
    """Returns the score |y - loc| / scale, whose intervals are [loc - q scale, loc + q scale].

    Use it for regression with intervals that are wider where the model is less certain.

    Args:
        y_true: Targets.
        loc: Predicted means, of the same shape.
        scale: Predicted standard deviations, of the same shape, positive.

    Returns:
        Float64 scores of the shape of the targets.

    Raises:
        ValueError: If shapes differ, a scale is not positive or a number is not finite.

    Reference:
        Lei et al. 2018, section 5.2, arXiv:1604.04173.

    Example:

    >>> normalized_scores([1.0, -2.0], [0.0, 0.0], [0.5, 4.0])
    array([2. , 0.5])
    """
    y_true, loc, scale = _same_shape(y_true=y_true, loc=loc, scale=scale)
    if not np.all(scale > 0):
        raise ValueError(
            "Expected positive standard deviations for `scale`. "
            f"Received: the smallest is {scale.min():.4g}. Hint: use cqr_scores for a model that "
            "predicts no noise and whose samples agree."
        )
    return np.abs(y_true - loc) / scale


def cqr_scores(y_true: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> np.ndarray:
    """Returns the score max(lower - y, y - upper), whose intervals are [lower - q, upper + q].

    Use it for regression with predicted quantiles. The score is negative between the quantiles, so
    intervals that are too wide become narrower.

    Args:
        y_true: Targets.
        lower: Predicted lower quantiles, of the same shape.
        upper: Predicted upper quantiles, of the same shape.

    Returns:
        Float64 scores of the shape of the targets.

    Raises:
        ValueError: If shapes differ or a number is not finite.

    Reference:
        Romano, Patterson and Candes 2019, "Conformalized Quantile Regression", equation 6,
        arXiv:1905.03222.

    Example:

    >>> cqr_scores([3.0, 0.5], [0.0, 0.0], [1.0, 1.0])
    array([ 2. , -0.5])
    """
    y_true, lower, upper = _same_shape(y_true=y_true, lower=lower, upper=upper)
    return np.maximum(lower - y_true, y_true - upper)


def check_coverage(coverage: float) -> None:
    """Raises ValueError unless `coverage` is in (0, 1)."""
    if not 0 < coverage < 1:
        raise ValueError(
            f"Expected a probability in (0, 1) for `coverage`. Received: coverage={coverage!r}. "
            "Hint: coverage=0.9 misses one label in ten on average."
        )


def _same_shape(**arrays: ArrayLike) -> list[np.ndarray]:
    found = {name: np.asarray(array, dtype="float64") for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in found.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            f"Expected arrays of the same shape. Received: {shapes}. "
            "Hint: use (N,) for all or (N, 1) for all if there is one target."
        )
    for name, array in found.items():
        if not np.isfinite(array).all():
            raise ValueError(
                f"Expected finite numbers for `{name}`. Received: "
                f"{int((~np.isfinite(array)).sum())} that are not. Hint: drop those rows."
            )
    return list(found.values())
