"""Metrics of one model, and the functions that compute them for resampled examples."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri

from tfp_bayes import metrics
from tfp_bayes._plumbing.bins import assign_bins
from tfp_bayes._plumbing.probabilities import log_losses, two_classes
from tfp_bayes.evaluation.bootstrap import Resampler, averages, detection, selective
from tfp_bayes.evaluation.table import COVERAGES, SCORES
from tfp_bayes.metrics.crps import normal_scores
from tfp_bayes.metrics.regression import QUANTILES, normal_log_losses
from tfp_bayes.prediction import Prediction
from tfp_bayes.uncertainty import apply_temperature, fit_temperature

_FLOOR_DRAWS = 1000
_FEWEST = 2  # rows, so that each half has one


@dataclass
class Scored:
    """The metrics of one model.

    Attributes:
        values: Metrics by name; NaN if undefined, such as the AUROC of errors without errors.
        resamplers: Functions that compute the metrics with intervals for resampled examples.
        exact: Names of the metrics that are shares of independent examples.
    """

    values: dict[str, float] = field(default_factory=dict)
    resamplers: list[Resampler] = field(default_factory=list)
    exact: set[str] = field(default_factory=set)


def class_probabilities(p: Prediction) -> np.ndarray:
    """Returns probabilities (N, K); one sigmoid becomes two classes."""
    return two_classes(p.mean) if p.likelihood == "bernoulli" else p.mean.astype("float64")


def uncertainty_scores(p: Prediction, num_samples: int) -> dict[str, np.ndarray]:
    """Returns those uncertainties (N,) of `SCORES` that a prediction has.

    A single sample has no mutual information, and real targets have no largest probability.
    """
    scores = {"entropy": p.predictive_entropy, "mutual_information": p.mutual_information}
    if num_samples == 1:
        del scores["mutual_information"]
    if p.likelihood != "normal":
        scores["max_probability"] = 1 - class_probabilities(p).max(-1)
    return {name: values.astype("float64") for name, values in scores.items()}


def score_classes(
    labels: np.ndarray,
    p: Prediction,
    num_samples: int,
    calibration: tuple[np.ndarray, Prediction] | None,
    halves: np.ndarray,
    seed: int,
) -> Scored:
    """Scores a prediction of classes.

    Args:
        labels: (N,) class numbers.
        p: Prediction of the N examples.
        num_samples: Number of posterior samples S.
        calibration: Labels and prediction of other examples, to fit the temperature on.
        halves: (N,) bool. Without `calibration`, the temperature of each half is fitted on the
            other half.
        seed: Seed of the simulated labels behind the floor of the calibration error.
    """
    probs = class_probabilities(p)
    wrong = (probs.argmax(-1) != labels).astype("float64")
    calibrated, temperature = _at_best_temperature(labels, probs, calibration, halves)
    one_hot = np.eye(probs.shape[1])[labels]
    columns: dict[str, tuple[np.ndarray, Callable]] = {
        "accuracy": (1 - wrong[:, None], _only),
        "nll": (log_losses(labels, probs)[:, None], _only),
        "brier": (((probs - one_hot) ** 2).sum(-1, keepdims=True), _only),
        "ece_10": (_gaps(probs, wrong, 10), _absolute_sum),
        "ece_15": (_gaps(probs, wrong, 15), _absolute_sum),
    }
    scored = Scored(exact={"accuracy"})
    scored.values |= {
        "accuracy": metrics.accuracy(labels, probs),
        "nll": metrics.nll(labels, probs),
        "brier": metrics.brier(labels, probs),
        "nll_calibrated": float("nan"),
        "temperature": temperature,
    }
    for bins in (10, 15):
        scored.values[f"ece_{bins}"] = metrics.expected_calibration_error(labels, probs, bins)
        floor = metrics.calibration_floor(probs, bins, seed=seed)
        scored.values[f"ece_{bins}_floor"] = floor.quantile_95
    if calibrated is not None:
        columns["nll_calibrated"] = log_losses(labels, calibrated)[:, None], _only
        scored.values["nll_calibrated"] = metrics.nll(labels, calibrated)
    scored.resamplers.append(_averages(columns))
    _add_selective(scored, wrong, uncertainty_scores(p, num_samples))
    return scored


def _add_selective(scored: Scored, wrong: np.ndarray, scores: dict[str, np.ndarray]) -> None:
    some = 0 < wrong.sum() < len(wrong)
    for name in SCORES:
        key = f"error_auroc_{name}"
        scored.values[key] = float("nan")
        if name in scores and some:
            scored.values[key] = metrics.error_auroc(wrong, scores[name])
    for name in scores:
        names = {"auroc": f"error_auroc_{name}"} if some else {}
        if name == "max_probability":
            names |= {"aurc": "aurc", "augrc": "augrc"}
            scored.values["aurc"] = metrics.aurc(wrong, scores[name])
            scored.values["augrc"] = metrics.augrc(wrong, scores[name])
        if names:
            scored.resamplers.append(selective(wrong, scores[name], names))


def add_detection(scored: Scored, p: Prediction, q: Prediction, num_samples: int) -> None:
    """Adds how well each uncertainty separates the examples of q from those of p."""
    familiar, others = (uncertainty_scores(each, num_samples) for each in (p, q))
    for name in SCORES:
        names = f"ood_auroc_{name}", f"ood_fpr95_{name}"
        scored.values |= dict.fromkeys(names, float("nan"))
        if name in familiar:
            pair = familiar[name], others[name]
            scored.values |= dict(zip(names, (metrics.auroc(*pair), metrics.fpr_at_tpr(*pair))))
            scored.resamplers.append(detection(*pair, *names))


def score_targets(targets: np.ndarray, p: Prediction, seed: int) -> Scored:
    """Scores a prediction of real targets as a normal with its mean and total variance.

    Args:
        targets: (N, D) targets.
        p: Prediction of the N examples.
        seed: Seed of the simulation behind the floor of the PIT error.
    """
    loc, scale = p.mean.astype("float64"), p.std.astype("float64")
    normal = targets, loc, scale
    pit = metrics.normal_pit(*normal)
    columns: dict[str, tuple[np.ndarray, Callable]] = {
        "nll": (normal_log_losses(*normal).sum(-1, keepdims=True), _only),
        "rmse": (((targets - loc) ** 2).mean(-1, keepdims=True), lambda m: np.sqrt(m[:, 0])),
        "crps": (normal_scores(*normal).mean(-1, keepdims=True), _only),
    }
    scored = Scored()
    scored.values |= {
        "nll": metrics.normal_nll(*normal),
        "rmse": metrics.rmse(targets, loc),
        "crps": metrics.crps_normal(*normal),
    }
    for key, level in COVERAGES.items():
        half = ndtri((1 + level) / 2) * scale
        inside = (loc - half <= targets) & (targets <= loc + half)
        columns[key] = inside.mean(-1, keepdims=True), _only
        scored.values[key] = metrics.interval_coverage(targets, loc - half, loc + half)
        if targets.shape[1] == 1:  # several targets of an example are not independent
            scored.exact.add(key)
    below = (pit[..., None] <= QUANTILES).mean(1)
    columns["pit_error"] = below, lambda m: np.abs(m - QUANTILES).mean(-1)
    scored.values["pit_error"] = metrics.pit_calibration_error(pit)
    scored.values["pit_error_floor"] = _pit_floor(len(targets), seed)
    scored.resamplers.append(_averages(columns))
    return scored


def _pit_floor(num_rows: int, seed: int) -> float:
    """Returns the 95 % quantile of the PIT error of calibrated predictions of N examples.

    Calibrated targets are uniform over the cells between the 99 quantiles. Several targets of an
    example count as one, as if they were fully dependent.
    """
    cells = np.full(100, 0.01)
    drawn = np.random.default_rng(seed).multinomial(num_rows, cells, size=_FLOOR_DRAWS)
    below = np.cumsum(drawn, axis=1)[:, :-1] / num_rows
    return float(np.quantile(np.abs(below - QUANTILES).mean(-1), 0.95))


def _at_best_temperature(
    labels: np.ndarray,
    probs: np.ndarray,
    calibration: tuple[np.ndarray, Prediction] | None,
    halves: np.ndarray,
) -> tuple[np.ndarray | None, float]:
    """Returns calibrated probabilities (None for a single row) and the (mean) temperature."""
    if calibration is not None:
        temperature = fit_temperature(calibration[0], class_probabilities(calibration[1]))
        return apply_temperature(probs, temperature), temperature
    if len(labels) < _FEWEST:
        return None, float("nan")
    calibrated, found = np.empty_like(probs), []
    for rows in (halves, ~halves):
        found.append(fit_temperature(labels[~rows], probs[~rows]))
        calibrated[rows] = apply_temperature(probs[rows], found[-1])
    return calibrated, float(np.exp(np.mean(np.log(found))))


def _averages(columns: dict[str, tuple[np.ndarray, Callable]]) -> Resampler:
    starts = np.cumsum([0, *(values.shape[1] for values, _ in columns.values())]).tolist()
    places = map(slice, starts[:-1], starts[1:])
    reduced = {name: (place, reduce) for (name, (_, reduce)), place in zip(columns.items(), places)}
    return averages(np.hstack([values for values, _ in columns.values()]), reduced)


def _only(means: np.ndarray) -> np.ndarray:
    return means[:, 0]


def _absolute_sum(means: np.ndarray) -> np.ndarray:
    return np.abs(means).sum(-1)


def _gaps(probs: np.ndarray, wrong: np.ndarray, num_bins: int) -> np.ndarray:
    """Returns (N, num_bins): correctness minus confidence in the column of a row's bin, else 0.

    The calibration error is the sum of the absolute column means.
    """
    confidence = probs.max(-1)
    gaps = np.zeros((len(probs), num_bins))
    gaps[np.arange(len(probs)), assign_bins(confidence, num_bins, "equal_width")] = (
        1 - wrong - confidence
    )
    return gaps
