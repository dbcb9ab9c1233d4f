"""Selective classification: which labels of a model can be trusted, and which need a person."""

import json
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta

from tfp_bayes._plumbing.files import write_json
from tfp_bayes._plumbing.probabilities import as_labelled, as_probabilities, two_classes
from tfp_bayes._plumbing.score_names import UNCERTAINTY_SCORES
from tfp_bayes.uncertainty.fingerprint import check_unchanged, fingerprint

_FORMAT = "tfp_bayes.selective 1"
_SELECTED = ("threshold", "coverage", "risk")


class Selected(NamedTuple):
    """The result of `SelectiveClassifier.predict`.

    Attributes:
        labels: (N,) most probable class of each example, int64.
        trusted: (N,) bool, False where a person should check the label.
        uncertainty: (N,) uncertainty that is compared with the threshold.
    """

    labels: np.ndarray
    trusted: np.ndarray
    uncertainty: np.ndarray


def risk_bound(errors: ArrayLike, trials: ArrayLike, confidence: float = 0.95) -> np.ndarray:
    """Returns an upper confidence bound on an error rate.

    Use it to state how large an error rate may be, given the errors on held-out examples.

    Args:
        errors: Number of errors.
        trials: Number of examples; 0 gives the bound 1.
        confidence: Probability, in (0, 1), that the bound is at or above the true error rate.

    Returns:
        Float64, of the shape of the arguments.

    Raises:
        ValueError: If `errors` is not a whole number from 0 to `trials`, or `confidence` is not in
            (0, 1).

    Reference:
        Clopper and Pearson 1934, "The Use of Confidence or Fiducial Limits Illustrated in the Case
        of the Binomial", one-sided.

    Example:

    >>> float(risk_bound(0, 299).round(4))  # the rule of three: 3 / n
    0.01
    """
    errors, trials = np.asarray(errors), np.asarray(trials)
    whole = (errors == np.floor(errors)) & (trials == np.floor(trials))
    if not np.all(whole & (errors >= 0) & (errors <= trials)):  # NaN fails too
        raise ValueError(
            "Expected whole numbers from 0 to `trials` for `errors`. "
            f"Received: errors={errors}, trials={trials}. Hint: pass counts, not rates."
        )
    if not 0 < confidence < 1:
        raise ValueError(
            "Expected a probability in (0, 1) for `confidence`. "
            f"Received: confidence={confidence!r}. Hint: 0.95 is usual."
        )
    rest = np.maximum(trials - errors, 1)
    return np.where(errors < trials, beta.ppf(confidence, errors + 1, rest), 1.0)


class SelectiveClassifier:
    """A classifier that tells which of its labels can be trusted.

    Use it when an error costs more than asking a person: labels with an uncertainty below a
    threshold are trusted, and the others go to a person. The threshold is chosen on validation
    examples that the model was not trained on. It holds for new examples from the same
    distribution, not for other data.

    Args:
        predictor: Any object with `predict_uncertainty` that has one softmax or one sigmoid.
        score: Measure of uncertainty: "confidence" (1 - max p), "predictive_entropy" or
            "mutual_information".
        num_samples: Number of posterior samples S; see `predict_uncertainty`.
        seed: Integer seed of the posterior samples.

    Attributes:
        threshold: Labels with an uncertainty below it are trusted; -inf trusts none, inf all.
        coverage: Share of the validation examples whose labels are trusted.
        risk: Error rate among these; NaN if there are none.

    Raises:
        ValueError: If `score` is unknown.

    Reference:
        Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks",
        arXiv:1705.08500; the order of tests is that of Angelopoulos et al. 2021, "Learn then
        Test", section 3.2, arXiv:2110.01052.

    Example:

    >>> from tfp_bayes.uncertainty import SelectiveClassifier
    >>> model = tfp_bayes.BayesianMLP((4,), 3, seed=0)
    >>> x, y = np.random.default_rng(0).normal(size=(200, 4)), np.arange(200) % 3
    >>> selective = SelectiveClassifier(model).fit(x, y, coverage=0.8)
    >>> selective.coverage, selective.predict(x).trusted.mean()
    (0.8, np.float64(0.8))
    """

    threshold: float
    coverage: float
    risk: float

    def __init__(
        self,
        predictor: Any,
        score: str = "confidence",
        *,
        num_samples: int | None = None,
        seed: int = 0,
    ):
        if score not in UNCERTAINTY_SCORES:
            raise ValueError(
                f"Expected one of {UNCERTAINTY_SCORES} for `score`. Received: score={score!r}. "
                "Hint: 'confidence' ranks errors best for most models."
            )
        self.predictor = predictor
        self.settings: dict[str, Any] = {
            "score": score,
            "num_samples": None if num_samples is None else int(num_samples),
            "seed": int(seed),
        }

    def fit(
        self,
        x: Any,
        y: ArrayLike,
        *,
        risk: float | None = None,
        coverage: float | None = None,
        confidence: float = 0.95,
    ) -> "SelectiveClassifier":
        """Chooses the threshold for a desired risk or a desired coverage.

        With `risk`, the error rate among trusted new examples is at most `risk`, with probability
        `confidence` over the draw of the validation examples, provided that errors become more
        frequent with uncertainty. Thresholds are tested with the Clopper-Pearson bound, strictest
        first, until one fails; in this fixed order, taking the last one that passed needs no
        correction for multiple tests. The first threshold tested has log(1 - confidence) /
        log(1 - risk) examples below it, the smallest number that can pass.

        Args:
            x: Validation inputs (N, ...) that the model was not trained on.
            y: (N,) integer labels.
            risk: Desired error rate among trusted labels, in (0, 1).
            coverage: Desired share of trusted labels, in (0, 1]. Give this or `risk`.
            confidence: Probability with which the guarantee on `risk` holds, in (0, 1).

        Returns:
            This object.

        Raises:
            ValueError: If not exactly one of `risk` and `coverage` is given, a value is out of
                range, or labels do not match the predictions.

        Warns:
            UserWarning: If no threshold reaches the target, so no label is trusted.
        """
        _check_target(risk, coverage, confidence)
        probs, uncertainty = self._predict(x)
        y, probs = as_labelled(np.asarray(y), probs)
        self._weights = fingerprint(self.predictor)
        order = np.argsort(uncertainty, kind="stable")
        ordered = uncertainty[order]
        # Each threshold is the uncertainty of an example and is tested on the examples below it.
        # Those are a sample of what it will trust; the example itself is not.
        last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        thresholds = np.append(ordered, np.inf)[last + 1]
        trials = last + 1
        errors = np.cumsum((probs.argmax(axis=1) != y)[order])[last]
        if risk is not None:
            passed = _passed(errors, trials, risk, confidence)
        elif coverage is not None:  # at most that share, up to rounding
            passed = int(np.sum(trials <= coverage * len(y) + 1e-9))
        if passed == 0:
            self.threshold, self.coverage, self.risk = -np.inf, 0.0, float("nan")
            warnings.warn(
                f"No label is trusted: no threshold has risk={risk}, coverage={coverage} on "
                f"{len(y)} examples at confidence={confidence}. Relax the target or give more "
                "examples.",
                stacklevel=2,
            )
            return self
        self.threshold = float(thresholds[passed - 1])
        self.coverage = float(trials[passed - 1] / len(y))
        self.risk = float(errors[passed - 1] / trials[passed - 1])
        return self

    def predict(self, x: Any) -> Selected:
        """Returns labels and which of them are trusted; NaN predictions never are.

        Args:
            x: Inputs (N, ...).

        Raises:
            ValueError: If this object is not fitted, or its model has changed since `fit`.
        """
        self.check_usable()
        probs, uncertainty = self._predict(x, allow_nan=True)
        return Selected(probs.argmax(axis=1), uncertainty < self.threshold, uncertainty)

    def save(self, path: str | Path) -> None:
        """Writes the threshold and the settings to a JSON file, atomically.

        The model is not included; save it separately.

        Args:
            path: Path of the file.

        Raises:
            ValueError: If this object is not fitted.
        """
        self._check_fitted()
        # As text, because JSON cannot represent infinity.
        selected = {name: repr(getattr(self, name)) for name in _SELECTED}
        record = {"format": _FORMAT, "settings": self.settings, "weights": self._weights}
        write_json(Path(path), {**record, **selected})

    @classmethod
    def load(cls, path: str | Path, predictor: Any) -> "SelectiveClassifier":
        """Reads a file that `save` wrote, for the same predictor.

        Args:
            path: Path of the file.
            predictor: The predictor that was fitted, for example from `keras.models.load_model`.

        Raises:
            ValueError: If `save` did not write the file. A predictor with other weights raises
                only when it is used.
        """
        try:
            record = json.loads(Path(path).read_text())
            if record["format"] != _FORMAT:
                raise ValueError(f"format {record['format']!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                "Expected a file from SelectiveClassifier.save for `path`. "
                f"Received: path={str(path)!r}, {error}. Hint: pass the JSON file, not the model."
            ) from error
        loaded = cls(predictor, **record["settings"])
        for name in _SELECTED:
            setattr(loaded, name, float(record[name]))
        loaded._weights = record["weights"]
        return loaded

    def check_usable(self) -> None:
        """Raises ValueError unless this object was fitted with the predictor as it is now."""
        self._check_fitted()
        check_unchanged(self.predictor, self._weights, "risk")

    def _check_fitted(self) -> None:
        if not hasattr(self, "threshold"):
            raise ValueError(
                "Expected a threshold. Received: an object that is not fitted. "
                "Hint: call fit(x, y, risk=0.01) on validation examples first."
            )

    def _predict(self, x: Any, allow_nan: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Returns probabilities (N, K) and uncertainties (N,), infinite for NaN predictions."""
        settings = {name: self.settings[name] for name in ("num_samples", "seed")}
        prediction = self.predictor.predict_uncertainty(x, **settings)
        mean = np.asarray(getattr(prediction, "mean", np.empty(0)), dtype="float64")
        likelihood = getattr(prediction, "likelihood", None)
        is_binary = likelihood == "bernoulli" and mean.shape[1:] == (1,)
        if mean.ndim != 2 or not (is_binary or likelihood == "categorical"):
            raise ValueError(
                "Expected a predictor with one softmax (N, K) or one sigmoid (N, 1). Received: "
                f"likelihood={likelihood!r}, mean of shape {mean.shape}. "
                "Hint: for real targets use the intervals of uncertainty.Conformal."
            )
        probs = two_classes(mean) if is_binary else mean
        known = np.isfinite(probs).all(axis=1)
        if not allow_nan:
            as_probabilities(probs)
        if self.settings["score"] == "confidence":
            uncertainty = 1 - probs.max(axis=1)
        else:
            uncertainty = np.asarray(getattr(prediction, self.settings["score"]), dtype="float64")
        return np.where(known[:, None], probs, 0.0), np.where(known, uncertainty, np.inf)


def _passed(errors: np.ndarray, trials: np.ndarray, risk: float, confidence: float) -> int:
    """Returns how many thresholds, strictest first, come before the first that fails its test.

    Thresholds with too few examples to pass are not tested. The result is 0 if none passes.
    """
    fewest = int(np.ceil(np.log(1 - confidence) / np.log(1 - risk) - 1e-9))
    first = int(np.searchsorted(trials, fewest))
    fails = risk_bound(errors[first:], trials[first:], confidence) > risk
    number = int(np.argmax(fails)) if fails.any() else len(fails)
    return first + number if number else 0


def _check_target(risk: float | None, coverage: float | None, confidence: float) -> None:
    if (risk is None) == (coverage is None):
        raise ValueError(
            "Expected exactly one of `risk` and `coverage`. "
            f"Received: risk={risk!r}, coverage={coverage!r}. Hint: risk=0.01."
        )
    in_range = 0 < risk < 1 if risk is not None else 0 < coverage <= 1  # type: ignore[operator]
    if not in_range or not 0 < confidence < 1:
        raise ValueError(
            "Expected probabilities for `risk`, `coverage` and `confidence`. Received: "
            f"risk={risk!r}, coverage={coverage!r}, confidence={confidence!r}. "
            "Hint: risk=0.01 is one error in a hundred."
        )
