"""Scores of how well uncertainty tells a model's errors from what it gets right.

All of these take errors (N,), 1 where the guess is wrong, and any uncertainty (N,), higher where
the model is less sure: `1 - p.mean.max(-1)`, `p.predictive_entropy`, `p.mutual_information`. They
rank the examples and so keep all scores; none streams. Examples of equal uncertainty are kept or
rejected together, since no threshold separates them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes.metrics.thresholds import as_scores, auroc_of_counts, count_above

_ROUNDING = 1e-12  # so that 3 of 10 reach a coverage of 1 - 0.7


class RetentionCurve(NamedTuple):
    """Accuracy against the share of examples kept, see `retention_curve`.

    Attributes:
        retained: (T,) share of examples kept, ascending to 1, at the T distinct uncertainties.
        accuracy: (T,) share of those kept that are right.
        accuracy_with_oracle: (T,) share that is right if those rejected are answered correctly.
    """

    retained: np.ndarray
    accuracy: np.ndarray
    accuracy_with_oracle: np.ndarray


def retention_curve(errors: ArrayLike, uncertainty: ArrayLike) -> RetentionCurve:
    """Returns the accuracy of the surest examples for every share of them.

    Use it to draw what rejecting the unsure would gain: alone, or where a person answers what is
    rejected. One minus the accuracy is the selective risk of a risk-coverage curve.

    Args:
        errors: (N,) 0 or 1, or bool.
        uncertainty: (N,), higher where less sure.

    Raises:
        ValueError: If the arrays do not match, or uncertainties are NaN.

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
    """Area under the risk-coverage curve, the smaller the better.

    Use it to compare with published figures; it weights the surest examples far more than the
    rest, so prefer `augrc` to rank methods. It is the mean over examples of the error rate among
    those at least as sure as the example. Others take trapezoids between the points of the curve
    (fd-shifts, often times 1,000; divided by 1 - 1/N in torch-uncertainty): without ties that is
    smaller by (first + last risk) / (2 N).

    Args:
        errors: (N,) 0 or 1, or bool.
        uncertainty: (N,), higher where less sure.

    Returns:
        Float in [0, 1]; the error rate if all are equally sure.

    Raises:
        ValueError: If the arrays do not match, or uncertainties are NaN.

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
    """Area under the risk-coverage curve above that of a perfect ranking (E-AURC).

    Use it to compare rankings of models of different accuracy; part of that difference remains,
    see `augrc`.

    Args:
        errors: (N,) 0 or 1, or bool.
        uncertainty: (N,), higher where less sure.

    Returns:
        Float in [0, 1], 0 if every error is less sure than every correct guess. The perfect area
        is that of N examples, not its limit r + (1 - r) ln(1 - r) for an error rate r.

    Raises:
        ValueError: If the arrays do not match, or uncertainties are NaN.

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
    """Area under the generalized risk-coverage curve, the smaller the better.

    Use it to rank methods by what is left undetected: it is the chance that an example is kept and
    wrong, averaged over all coverages. With accuracy a and the `error_auroc` A it equals
    (1 - A) a (1 - a) + (1 - a)^2 / 2, so that accuracy and ranking both count.

    Args:
        errors: (N,) 0 or 1, or bool.
        uncertainty: (N,), higher where less sure.

    Returns:
        Float in [0, 1/2]; at best half the squared error rate.

    Raises:
        ValueError: If the arrays do not match, or uncertainties are NaN.

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
    """Chance that a wrong guess is less sure than a right one, ties counted half.

    Use it for the ranking alone, whatever the accuracy; 1/2 is chance.

    Args:
        errors: (N,) 0 or 1, or bool.
        uncertainty: (N,), higher where less sure.

    Returns:
        Float in [0, 1], the area under the ROC curve with errors positive.

    Raises:
        ValueError: If the arrays do not match, uncertainties are NaN, or all guesses are right or
            all wrong.

    Reference:
        Hendrycks and Gimpel 2017, section 2, arXiv:1610.02136.

    Example:

    >>> error_auroc([0, 1, 0], [0.1, 0.4, 0.4])
    0.75
    """
    wrong, unsure = _as_errors(errors, uncertainty)
    if wrong.min() == wrong.max():
        raise ValueError(
            "Expected right and wrong guesses in `errors`. "
            f"Received: {wrong.sum()} errors in {wrong.size} examples. "
            "Hint: augrc is defined without errors too."
        )
    return auroc_of_counts(*count_above(wrong, unsure))


def accuracy_at_coverage(errors: ArrayLike, uncertainty: ArrayLike, coverage: float) -> float:
    """Accuracy on the surest share of the examples.

    Use it where a share of the cases can be left to people.

    Args:
        errors: (N,) 0 or 1, or bool.
        uncertainty: (N,), higher where less sure.
        coverage: Share to keep, in (0, 1]. Where ties or N do not allow it, the next larger one.

    Returns:
        Float in [0, 1].

    Raises:
        ValueError: If the arrays do not match, uncertainties are NaN, or the coverage is none.

    Example:

    >>> accuracy_at_coverage([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], coverage=0.5)
    1.0
    """
    _check_share(coverage, "coverage", 0.9)
    if coverage <= 0:
        raise ValueError(
            f"Expected a positive number for `coverage`. Received: coverage={coverage!r}. "
            "Hint: nothing is right or wrong where nothing is kept."
        )
    curve = retention_curve(errors, uncertainty)
    return float(curve.accuracy[np.argmax(curve.retained >= coverage - _ROUNDING)])


def coverage_at_risk(errors: ArrayLike, uncertainty: ArrayLike, risk: float) -> float:
    """Largest share of examples that can be kept with an error rate of at most `risk`.

    Use it where the error rate of what the model answers is prescribed. Chosen on the examples
    that it is reported for, it is an optimistic figure.

    Args:
        errors: (N,) 0 or 1, or bool.
        uncertainty: (N,), higher where less sure.
        risk: Error rate in [0, 1].

    Returns:
        Float in [0, 1]; 0 if no threshold is good enough.

    Raises:
        ValueError: If the arrays do not match, uncertainties are NaN, or the risk is none.

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
            f"Expected 0 or 1 for each of {unsure.size} examples for `errors`. Received: "
            f"{errors.dtype} of shape {errors.shape}. Hint: errors = p.mean.argmax(-1) != y_true."
        )
    return errors.astype("int64"), unsure


def _kept(errors: ArrayLike, uncertainty: ArrayLike) -> tuple[np.ndarray, np.ndarray, int]:
    """Counts examples (T,) kept at each distinct uncertainty, errors (T,) among them, and all."""
    wrong, unsure = _as_errors(errors, uncertainty)
    kept, kept_wrong = count_above(wrong, -unsure)
    return kept, kept_wrong, len(wrong)


def _check_share(value: float, name: str, example: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(
            f"Expected a number in [0, 1] for `{name}`. Received: {name}={value!r}. "
            f"Hint: such as {example}."
        )
