"""The function `evaluate`, which predicts, scores and resamples."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfp_bayes._plumbing.checks import check_function, check_integers
from tfp_bayes.datasets import Dataset
from tfp_bayes.datasets.dataset import have_same_classes
from tfp_bayes.evaluation.bootstrap import resample
from tfp_bayes.evaluation.examples import (
    OnRows,
    as_labels,
    check_same_kind,
    labelled,
    predict,
    unlabelled,
)
from tfp_bayes.evaluation.pictures import Pictured, images_of
from tfp_bayes.evaluation.report import Evaluation
from tfp_bayes.evaluation.scored import Scored, add_detection, score_classes, score_targets
from tfp_bayes.evaluation.sources import Source, as_sources
from tfp_bayes.evaluation.table import CLASSIFICATION, COST, REGRESSION
from tfp_bayes.prediction import Prediction


def evaluate(
    models: Any,
    data: Any,
    ood: Any = None,
    calibration: Any = None,
    num_samples: int | None = None,
    seed: int = 0,
    *,
    class_names: Sequence[str] | None = None,
    on_rows: OnRows | None = None,
) -> Evaluation:
    """Evaluates one or several models on the same examples by every metric, with intervals.

    Use it to choose between methods, or to see how reliable a number is. Several models see the
    same rows in the same order and share their bootstrap resamples. The interval of a difference is
    therefore one of a paired comparison, and narrower than the intervals of both models suggest.

    The 95 % intervals are for other examples from the same distribution. They are quantiles over
    1,000 bootstrap resamples, reflected for calibration errors because resampling inflates those,
    and exact binomial intervals for shares of examples. They do not cover the variation between
    training seeds or between posterior samples.

    Args:
        models: A `BayesianModel`; a `Predictor` (for a weight posterior, or to state a
            likelihood); a plain Keras classifier, which has one sample; or the path of a .keras
            file, or "model.keras+posterior.npz" for a model with a saved posterior. Pass a list of
            these or a dictionary by name to compare several.
        data: Held-out examples: (x, y), a `datasets.Dataset`, whose test set is used, or a
            `tf.data.Dataset` or `keras.utils.PyDataset` of such pairs. Labels are class numbers
            (N,) or (N, 1), or one-hot (N, K); real targets are (N,) or (N, D).
        ood: Out-of-distribution inputs, preprocessed like those of `data`. None leaves out the
            metrics of out-of-distribution detection.
        calibration: Examples in any form that `data` takes, to fit the best temperature on; of a
            `Dataset`, the validation set is used. None fits it on one half of `data` for the other
            half, and notes this in the report.
        num_samples: Number of posterior samples S. None uses the default of each model. A
            deterministic model has one sample, and a finite posterior has its stored draws.
        seed: Seed of the posterior samples, the resamples and the halves.
        class_names: K class names for the pictures. None uses those of a `Dataset`.
        on_rows: Function called with the name of the argument being predicted, the number of rows
            done, and their total or None.

    Returns:
        An `Evaluation` with `table()`, `to_csv`, `to_html`, `estimate` and `difference`.

    Raises:
        ValueError: If there are no examples, labels do not match the predictions, rows are not
            finite (the message lists them), sample weights are given, or models predict different
            things.

    Reference:
        Ashukha et al. 2020, "Pitfalls of In-Domain Uncertainty Estimation and Ensembling in Deep
        Learning", arXiv:2002.06470, on comparing at the best temperature; Efron and Tibshirani
        1993, "An Introduction to the Bootstrap", chapter 13.

    Example:

    >>> x, y = np.zeros([20, 4]), np.arange(20) % 2
    >>> report = tfp_bayes.evaluate(tfp_bayes.BayesianMLP((4,), 2, seed=0), (x, y))
    >>> report.estimate("accuracy").value
    0.5
    >>> report.to_html(tmp_path / "report.html")  # opens without a network
    """
    check_integers(0, seed=seed)
    if num_samples is not None:
        check_integers(1, num_samples=num_samples)
    check_function(on_rows, "on_rows", "of what, rows done and their total")
    sources = as_sources(models, num_samples)
    x, y = labelled(data, "test", "data")
    others = None if ood is None else unlabelled(ood)
    if others is not None:
        check_same_kind(x, others, "ood")
    held = None if calibration is None else labelled(calibration, "validation", "calibration")
    if held is not None:
        check_same_kind(x, held[0], "calibration")
        _check_same_classes(data, calibration)

    given, predictions = predict(sources, x, y, seed, "data", on_rows)
    labels = _common_labels(given, predictions, sources, "data")
    cost = {s.name: (float(s.num_samples), 1000 * s.seconds / s.rows) for s in sources}
    calibrations = _calibrations(held, sources, predictions, seed, on_rows)
    ood_predictions: list[Prediction] = []
    if others is not None:
        _, ood_predictions = predict(sources, others, None, seed, "ood", on_rows, False)
    scored = _score(labels, predictions, ood_predictions, calibrations, sources, seed)
    for name, each in scored.items():
        each.values |= dict(zip(COST, cost[name]))
    names = [source.name for source in sources]
    pictured = Pictured(
        labels,
        dict(zip(names, predictions)),
        dict(zip(names, ood_predictions)),
        images_of(x, predictions[0]),
        _class_names(class_names, data, predictions[0]),
        {source.name: source.num_samples for source in sources},
    )
    return _report(scored, pictured, held is not None, seed)


def _check_same_classes(data: Any, calibration: Any) -> None:
    """Raises ValueError if classes of two `Dataset`s have other names, or another order."""
    if not isinstance(data, Dataset) or not isinstance(calibration, Dataset):
        return
    one, other = calibration.class_names, data.class_names
    if not have_same_classes(one, other):
        raise ValueError(
            f"Expected the classes {list(other)} of `data` for `calibration`, in that order. "
            f"Received: {list(one)}. Hint: name and number the classes of both data sets alike."
        )


def _report(
    scored: dict[str, Scored], pictured: Pictured, is_calibrated: bool, seed: int
) -> Evaluation:
    """Resamples the examples and assembles the result."""
    first, *_ = scored.values()
    num_rows = len(pictured.labels)
    num_others = max(map(len, pictured.ood_predictions.values()), default=0)
    resamplers = {name: each.resamplers for name, each in scored.items()}
    is_regression = "rmse" in first.values
    known = {**(REGRESSION if is_regression else CLASSIFICATION), **COST}
    return Evaluation(
        models=tuple(scored),
        metrics={key: known[key] for key in known if key in first.values},
        values={name: each.values for name, each in scored.items()},
        draws=resample(resamplers, num_rows, num_others, seed=seed),
        exact=frozenset(first.exact),
        num_rows=num_rows,
        notes=tuple(_notes(num_rows, num_others, is_calibrated, is_regression, len(scored))),
        pictured=pictured,
    )


def _class_names(given: Sequence[str] | None, data: Any, p: Prediction) -> tuple[str, ...] | None:
    """Returns the K class names that were given or that a `Dataset` has, or None."""
    if given is None and isinstance(data, Dataset):
        given = data.class_names
    if given is None or p.likelihood == "normal" or len(given) == 0:
        return None
    if isinstance(given, str) or len(given) != _width(p) or len(set(given)) < len(given):
        raise ValueError(
            f"Expected {_width(p)} different names for `class_names`. Received: {given!r}. "
            "Hint: give one per class, in the order of the model's outputs."
        )
    return tuple(given)


def _common_labels(
    given: np.ndarray | None, predictions: list[Prediction], sources: list[Source], what: str
) -> np.ndarray:
    """Returns the labels, after checking that all models predict the same thing."""
    assert given is not None
    kinds = {
        s.name: ("numbers" if p.likelihood == "normal" else "classes", _width(p))
        for s, p in zip(sources, predictions)
    }
    if len(set(kinds.values())) > 1:
        raise ValueError(
            f"Expected models that predict the same thing. Received: {kinds}. "
            "Hint: evaluate them separately."
        )
    for p in predictions:
        labels = as_labels(given, p, what)
    return labels


def _width(p: Prediction) -> int:
    return 2 if p.likelihood == "bernoulli" else p.mean.shape[1]


def _calibrations(
    held: tuple[Any, Any] | None,
    sources: list[Source],
    predictions: list[Prediction],
    seed: int,
    on_rows: OnRows | None,
) -> list[tuple[np.ndarray, Prediction] | None]:
    """Returns each model's labels and prediction of the calibration examples, or None if none."""
    if held is None:
        return [None] * len(sources)
    if predictions[0].likelihood == "normal":
        raise ValueError(
            "Expected no `calibration` for real targets, because they have no temperature. "
            "Received: calibration examples. Hint: leave it out."
        )
    given, found = predict(sources, *held, seed, "calibration", on_rows)
    labels = _common_labels(given, found, sources, "calibration")
    return [(labels, p) for p in found]


def _score(
    labels: np.ndarray,
    predictions: list[Prediction],
    ood_predictions: list[Prediction],
    calibrations: list[tuple[np.ndarray, Prediction] | None],
    sources: list[Source],
    seed: int,
) -> dict[str, Scored]:
    halves = np.random.default_rng(seed).permutation(len(labels)) < len(labels) // 2
    scored = {}
    for i, (source, p) in enumerate(zip(sources, predictions)):
        if p.likelihood == "normal":
            found = score_targets(labels, p, seed)
        else:
            found = score_classes(labels, p, source.num_samples, calibrations[i], halves, seed)
        if ood_predictions:
            add_detection(found, p, ood_predictions[i], source.num_samples)
        scored[source.name] = found
    return scored


def _notes(
    num_rows: int, num_others: int, is_calibrated: bool, is_regression: bool, num_models: int
) -> Iterator[str]:
    yield (
        f"{num_rows:,} examples. Brackets hold 95 % intervals for other examples from the same "
        "distribution, from 1,000 bootstrap resamples, or exact for shares of examples. They do "
        "not include the variation between training seeds."
    )
    if num_rows < 100:
        yield "Fewer than 100 examples: bootstrap intervals are too narrow."
    if is_regression:
        yield (
            "A prediction is scored as a normal distribution with its mean and total variance, "
            "which underrates mixtures of several modes. A PIT error below its floor, the 95 % "
            "quantile for calibrated models, is no evidence of miscalibration."
        )
    else:
        where = (
            "on `calibration`"
            if is_calibrated
            else (
                "on one half of the examples for the other, because no `calibration` was given; "
                "the table shows the geometric mean of both temperatures"
            )
        )
        yield f"The best temperature was fitted {where}."
        yield (
            "An ECE below its floor, the 95 % quantile for calibrated models, is no evidence of "
            "miscalibration, and two such values do not rank models."
        )
    if num_others:
        yield f"OOD: {num_others:,} examples, which are positive; the score is the uncertainty."
    if num_models > 1:
        yield "Differences are relative to the first model, on the same resamples (paired)."
