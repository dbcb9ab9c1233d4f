"""What a learner is given, checked before anything is trained."""

from collections.abc import Callable

import numpy as np

from tfp_bayes.active.acquisition import Acquisition, check_likelihood
from tfp_bayes.active.filters import Filter
from tfp_bayes.active.selectors import Selector
from tfp_bayes.prediction import Prediction
from tfp_bayes.prediction.targets import Targets


def initial_set(initial: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Returns the indices (n,) of an initial set, n at least 1, whose labels are known."""
    indices = np.asarray(initial)
    if indices.ndim != 1 or not indices.size or labels is None:
        raise ValueError(
            "Expected `initial` indices (n,) with labels, from `y` or `initial_labels`. "
            f"Received: initial of shape {indices.shape}, "
            f"{'no labels' if labels is None else 'labels'}. Hint: initial.balanced(y, 20) "
            "chooses indices; where no label is known, label a few examples of each class first."
        )
    return indices


def function(given: object, name: str, what: str) -> None:
    """Checks that an argument can be called, if there is one."""
    if given is not None and not callable(given):
        raise ValueError(
            f"Expected a function {what} for `{name}`. Received: {name}={given!r}. "
            f"Hint: leave out `{name}` if there is none."
        )


def pair(
    data: tuple[np.ndarray, np.ndarray] | None, name: str, targets: Targets
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns inputs and as many labels, if there are some."""
    if data is None:
        return None
    is_pair = isinstance(data, (tuple, list)) and len(data) == 2
    if not is_pair or np.ndim(data[0]) < 1 or len(data[0]) != len(np.atleast_1d(data[1])):
        if isinstance(data, (tuple, list)):
            shapes = f"of {len(data)}, shapes {[getattr(each, 'shape', None) for each in data[:3]]}"
        else:
            shapes = f"of shape {np.shape(data)}"
        raise ValueError(
            f"Expected a pair (x, y) of as many inputs as labels for `{name}`. Received: "
            f"{type(data).__name__} {shapes}. Hint: {name}=(x_test, y_test)."
        )
    x, y = data
    if isinstance(x, np.ndarray):
        finite_rows(x, np.arange(len(x)), name)
    return x, targets.check(y, len(x))


def suits(prediction: Prediction, acquisition: Acquisition, selector: Selector) -> None:
    """Checks that acquisition and selector have a meaning for what a model predicts."""
    check_likelihood(acquisition, prediction.likelihood)
    if prediction.likelihood not in selector.likelihoods:
        raise ValueError(
            f"Expected predictions of likelihood {selector.likelihoods} for "
            f"selector={selector!r}. Received: likelihood={prediction.likelihood!r}. "
            "Hint: 'top_k', 'power', 'diverse' and 'k_center' work with any."
        )


def filter_suits(label_filter: Filter | None, targets: Targets, has_truth: bool) -> None:
    """Checks that a filter has what it decides by."""
    if label_filter is None:
        return
    if not targets.names_a_class:
        raise ValueError(
            "Expected a model that predicts probabilities of the classes of an example with "
            f"`label_filter`. Received: label_filter={label_filter!r}, a model that predicts "
            f"{targets.described}. Hint: end the model in a softmax; "
            "BayesianBasisRegression.to_classifier() does."
        )
    if label_filter.needs_truth and not has_truth:
        raise ValueError(
            f"Expected true labels `y` with label_filter={label_filter!r}. Received: y=None. "
            "Hint: it is a control for experiments; use 'dynamic_threshold'."
        )


def scores(
    given: np.ndarray, candidates: np.ndarray, acquisition: Callable[..., np.ndarray]
) -> np.ndarray:
    """Returns a finite score for each candidate."""
    given = np.asarray(given)
    name = getattr(acquisition, "__name__", repr(acquisition))
    if given.shape != candidates.shape:
        raise ValueError(
            f"Expected one score for each of {len(candidates)} candidates from acquisition {name}. "
            f"Received: shape {given.shape}. Hint: reduce dense predictions to one score for each "
            "example."
        )
    wrong = candidates[~np.isfinite(given)]
    if wrong.size:
        raise ValueError(
            f"Expected finite scores from acquisition {name}. Received: NaN or infinity for the "
            f"examples {wrong[:5].tolist()}, {wrong.size} of {len(candidates)}. Hint: leave them "
            "out with `ignore`; if it is so for all, training diverged."
        )
    return given


def finite_rows(rows: np.ndarray, indices: np.ndarray, name: str = "x") -> np.ndarray:
    """Returns inputs (n, ...) of the examples (n,), whose numbers must be finite."""
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        wrong = indices[~np.isfinite(rows.reshape(len(rows), -1)).all(1)]
        raise ValueError(
            f"Expected finite inputs for `{name}`. Received: NaN or infinity in the examples "
            f"{wrong[:5].tolist()}, {wrong.size} of the {len(rows)} that were read. "
            "Hint: correct them, or leave them out (of `x` with `ignore`)."
        )
    return rows
