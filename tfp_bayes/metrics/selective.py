"""Metrics of selective prediction: how well uncertainty separates wrong from right predictions.

All of them take errors (N,), 1 where the prediction is wrong, and any uncertainty (N,) that is
higher where the model is less sure: `1 - p.mean.max(-1)`, `p.predictive_entropy` or
`p.mutual_information`. They rank the examples, so they need all scores at once and cannot stream.
Examples of equal uncertainty are kept or rejected together, because no threshold separates them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes.metrics.thresholds import as_scores, auroc_of_counts, count_above

_ROUNDING = 1e-12  # lets 3 of 10 reach a coverage of 1 - 0.7


class RetentionCurve(NamedTuple):
    """Accuracy against the share of examples retained. See `retention_curve`.

    Attributes:
        retained: (T,) share of examples retained at each of the T distinct uncertainties,
            ascending to 1.
        accuracy: (T,) accuracy on the retained examples.
        accuracy_with_oracle: (T,) accuracy on all examples if every rejected one is answered
            correctly.
    """

    retained: np.ndarray
    accuracy: np.ndarray
    accuracy_with_oracle: np.ndarray


def retention_curve(errors: ArrayLike, uncertainty: ArrayLike) -> RetentionCurve:
    """Returns the accuracy on the most certain examples for every possible share of them.

    Use it to draw what rejecting uncertain examples would gain, with or without a person who
    answers the rejected ones. One minus the accuracy is the selective risk of a risk-coverage
    curve.

    Args:
        errors: (N,) bool, or 0 and 1; 1 where the prediction is wrong.
        uncertainty: (N,) uncertainties, higher where the model is less sure.

    Returns:
        A named tuple of `retained`, `accuracy` and `accuracy_with_oracle`, (T,) each.

    Raises:
        ValueError: If the shapes differ, or an uncertainty is NaN.

    Reference:
        El-Yaniv and Wiener 2010, "On the Foundations of Noise-free Selective Classification",
        Journal of Machine Learning Research 11.

    Example:

    >>> curve = retention_curve([0, 0, 1, 0], [0.1, 0.2, 0.4, 0.4])
    >>> curve.retained, curve.accuracy
    (array([0.25, 0.5 , 1.  ]), array([1.  , 1.  , 0.75]))
    """
    kept, wrong, num_rows = _kept(errors, uncertainty)
    return RetentionCurve(kept / num_rows, 1 - wrong / kept, 1 - wrong / num_rows)


def aurc(errors: ArrayLike, uncertainty: ArrayLike) -> float:
    """Area under the risk-coverage curve; smaller is better.

    Use it to compare with published results. To rank methods prefer `augrc`, because this area
    weights the most certain examples far more than the rest. It is the mean over examples of the
    error rate among the examples that are at least as certain. Other libraries use the trapezoidal
    rule (fd-shifts, often times 1,000; divided by 1 - 1/N in torch-uncertainty), which without ties
    is smaller by (first + last risk) / (2 N).

    Args:
        errors: (N,) bool, or 0 and 1; 1 where the prediction is wrong.
        uncertainty: (N,) uncertainties, higher where the model is less sure.

    Returns:
        Float in [0, 1]; the error rate if all uncertainties are equal.

    Raises:
        ValueError: If the shapes differ, or an uncertainty is NaN.

    Reference:
        Geifman, Uziel and El-Yaniv 2019, "Bias-Reduced Uncertainty Estimation for Deep Neural
        Classifiers", arXiv:1805.08206.

    Example:

    >>> round(aurc([0, 0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.5]), 4)
    0.1967
    """
    kept, wrong, num_rows = _kept(errors, uncertainty)
    return float(np.diff(kept, prepend=0) @ (wrong / kept) / num_rows)


def excess_aurc(errors: ArrayLike, uncertainty: ArrayLike) -> float:
    """Area under the risk-coverage curve minus that of a perfect ranking (E-AURC).

    Use it to compare the rankings of models of different accuracy. It does not remove the influence
    of accuracy entirely; see `augrc`.

    Args:
        errors: (N,) bool, or 0 and 1; 1 where the prediction is wrong.
        uncertainty: (N,) uncertainties, higher where the model is less sure.

    Returns:
        Float in [0, 1]; 0 if every wrong prediction is more uncertain than every right one. The
        area of the perfect ranking is computed for N examples; its limit for large N at error rate
        r is r + (1 - r) ln(1 - r).

    Raises:
        ValueError: If the shapes differ, or an uncertainty is NaN.

    Reference:
        Geifman, Uziel and El-Yaniv 2019, "Bias-Reduced Uncertainty Estimation for Deep Neural
        Classifiers", arXiv:1805.08206.

    Example:

    >>> excess_aurc([0, 0, 1], [0.1, 0.2, 0.3])
    0.0
    """
    _, wrong, num_rows = _kept(errors, uncertainty)
    kept = np.arange(1, num_rows + 1)
    best = np.maximum(kept - (num_rows - wrong[-1]), 0) / kept
    return aurc(errors, uncertainty) - float(best.sum() / num_rows)


def augrc(errors: ArrayLike, uncertainty: ArrayLike) -> float:
    """Area under the generalized risk-coverage curve; smaller is better.

    Use it to rank methods by their undetected errors. It is the probability that an example is both
    kept and wrong, averaged over all coverages. With accuracy a and `error_auroc` A it equals
    (1 - A) a (1 - a) + (1 - a)^2 / 2, so both accuracy and ranking count.

    Args:
        errors: (N,) bool, or 0 and 1; 1 where the prediction is wrong.
        uncertainty: (N,) uncertainties, higher where the model is less sure.

    Returns:
        Float in [0, 1/2]; half the squared error rate for a perfect ranking.

    Raises:
        ValueError: If the shapes differ, or an uncertainty is NaN.

    Reference:
        Traub et al. 2024, "Overcoming Common Flaws in the Evaluation of Selective Classification
        Systems", arXiv:2407.01032.

    Example:

    >>> augrc([0, 1], [0.1, 0.9]), augrc([1, 0], [0.1, 0.9])
    (0.125, 0.375)
    """
    kept, wrong, num_rows = _kept(errors, uncertainty)
    doubled = np.diff(kept, prepend=0) @ (wrong + np.append(0, wrong[:-1]))
    return float(doubled / (2 * num_rows**2))


def error_auroc(errors: ArrayLike, uncertainty: ArrayLike) -> float:
    """Area under the ROC curve of detecting errors by high uncertainty.

    Use it to score the ranking independently of accuracy. It is the probability that a wrong
    prediction is more uncertain than a right one, with ties counted as one half. A random ranking
    has 1/2.

    Args:
        errors: (N,) bool, or 0 and 1; 1 where the prediction is wrong.
        uncertainty: (N,) uncertainties, higher where the model is less sure.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If the shapes differ, an uncertainty is NaN, or all predictions are right or
            all are wrong.

    Reference:
        Hendrycks and Gimpel 2017, section 2, arXiv:1610.02136.

    Example:

    >>> error_auroc([0, 1, 0], [0.1, 0.4, 0.4])
    0.75
    """
    wrong, unsure = _as_errors(errors, uncertainty)
    if wrong.min() == wrong.max():
        raise ValueError(
            "Expected right and wrong predictions in `errors`. "
            f"Received: {wrong.sum()} errors in {wrong.size} examples. "
            "Hint: augrc is also defined without errors."
        )
    return auroc_of_counts(*count_above(wrong, unsure))


def accuracy_at_coverage(errors: ArrayLike, uncertainty: ArrayLike, coverage: float) -> float:
    """Accuracy on the most certain share of the examples.

    Use it when people can handle a fixed share of the cases.

    Args:
        errors: (N,) bool, or 0 and 1; 1 where the prediction is wrong.
        uncertainty: (N,) uncertainties, higher where the model is less sure.
        coverage: Share of examples to keep, in (0, 1]. If ties or N do not allow this share, the
            next larger one is used.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If the shapes differ, an uncertainty is NaN, or `coverage` is not in (0, 1].

    Example:

    >>> accuracy_at_coverage([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], coverage=0.5)
    1.0
    """
    _check_share(coverage, "coverage", 0.9)
    if coverage <= 0:
        raise ValueError(
            f"Expected a positive number for `coverage`. Received: coverage={coverage!r}. "
            "Hint: without kept examples there is no accuracy."
        )
    curve = retention_curve(errors, uncertainty)
    return float(curve.accuracy[np.argmax(curve.retained >= coverage - _ROUNDING)])


def coverage_at_risk(errors: ArrayLike, uncertainty: ArrayLike, risk: float) -> float:
    """Largest share of examples that can be kept with an error rate of at most `risk`.

    Use it when the error rate of the accepted predictions is prescribed. The result is optimistic,
    because the threshold is chosen on the same examples that the coverage is reported for.

    Args:
        errors: (N,) bool, or 0 and 1; 1 where the prediction is wrong.
        uncertainty: (N,) uncertainties, higher where the model is less sure.
        risk: Largest acceptable error rate, in [0, 1].

    Returns:
        Float in [0, 1]; 0 if no threshold reaches the error rate.

    Raises:
        ValueError: If the shapes differ, an uncertainty is NaN, or `risk` is not in [0, 1].

    Reference:
        Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks",
        arXiv:1705.08500.

    Example:

    >>> coverage_at_risk([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], risk=0.34)
    0.75
    """
    _check_share(risk, "risk", 0.01)
    kept, wrong, num_rows = _kept(errors, uncertainty)
    good = np.flatnonzero(wrong / kept <= risk + _ROUNDING)
    return float(kept[good[-1]] / num_rows) if good.size else 0.0


def _as_errors(errors: ArrayLike, uncertainty: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    unsure = as_scores(uncertainty, "uncertainty")
    errors = np.asarray(errors)
    if errors.shape != unsure.shape or not np.isin(errors, (0, 1)).all():
        raise ValueError(
            f"Expected 0 or 1 for each of {unsure.size} examples in `errors`. Received: "
            f"{errors.dtype} of shape {errors.shape}. Hint: errors = p.mean.argmax(-1) != y_true."
        )
    return errors.astype("int64"), unsure


def _kept(errors: ArrayLike, uncertainty: ArrayLike) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the numbers (T,) of examples kept and of errors among them, and the total N."""
    wrong, unsure = _as_errors(errors, uncertainty)
    kept, kept_wrong = count_above(wrong, -unsure)
    return kept, kept_wrong, len(wrong)


def _check_share(value: float, name: str, example: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(
            f"Expected a number in [0, 1] for `{name}`. Received: {name}={value!r}. "
            f"Hint: a common choice is {example}."
        )
