"""Conformal prediction sets and intervals, with a desired coverage, from any predictor."""

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.files import write_atomically
from tfp_bayes._plumbing.probabilities import as_labelled, two_classes
from tfp_bayes.uncertainty.conformal import (
    aps_scores,
    check_coverage,
    choose_raps_penalty,
    class_conditional_quantiles,
    conformal_quantile,
    cqr_scores,
    lac_scores,
    normalized_scores,
    row_uniforms,
)
from tfp_bayes.uncertainty.fingerprint import check_unchanged, fingerprint

_FORMAT = "tfp_bayes.conformal 1"
_RECORD = "record"
_OF_CLASSES = ("lac", "aps", "raps")
_METHODS = (*_OF_CLASSES, "normalized", "cqr")
_TUNING_SHARE = 0.2


class Conformal:
    """Prediction sets of classes, or intervals of real targets, with guaranteed coverage.

    Use it when a decision needs a set that contains the true label, for example, 9 times in 10. The
    guarantee holds for any model, however poor, on new examples that are exchangeable with those
    passed to `fit`: drawn from the same distribution, not used for training and not selected by the
    model. It is an average over examples, not a guarantee for each one; `class_conditional` makes
    it hold within each class.

    Args:
        predictor: Any object with `predict_uncertainty`, such as a `BayesianModel` or `Predictor`,
            with one output: classes, a single sigmoid (two classes), or real targets.
        method: For classes, "lac" gives the smallest sets, "aps" sets that are larger for harder
            examples, and "raps" the same for many classes. For real targets, "normalized" gives
            intervals around the mean in proportion to the standard deviation, and "cqr" intervals
            around the quantiles of the samples.
        class_conditional: Whether to guarantee the coverage of each class. A class with too few
            examples in `fit`, fewer than coverage / (1 - coverage), is in every set.
        penalty: lambda of "raps". None chooses it on a fifth of the data passed to `fit`, which is
            then not used for the quantile.
        allow_empty: Whether a set may be empty, as exact coverage requires for some examples.
            False adds the most probable class to an empty set, with a warning, because the
            coverage is then higher.
        num_samples: Number of posterior samples S; see `predict_uncertainty`.
        seed: Integer seed of the posterior samples, and of the randomization of "aps" and "raps".

    Attributes:
        coverage: The coverage passed to `fit`.
        quantile: Float64 quantile of the scores: () for classes, (K,) with `class_conditional`,
            (D,) for real targets.
        num_calibration: Number n of examples that the quantile was computed from.

    Raises:
        ValueError: If the method is unknown, or an argument does not apply to it.

    Reference:
        Angelopoulos and Bates 2021, arXiv:2107.07511, and the references of `lac_scores`,
        `aps_scores`, `normalized_scores` and `cqr_scores`.

    Example:

    >>> from tfp_bayes.uncertainty import Conformal
    >>> model = tfp_bayes.BayesianMLP((4,), 3, seed=0)
    >>> x, y = np.random.default_rng(0).normal(size=(99, 4)), np.arange(99) % 3
    >>> conformal = Conformal(model, "aps").fit(x, y, coverage=0.9)
    >>> conformal.sets(x[:5]).shape, conformal.num_calibration
    ((5, 3), 99)
    >>> conformal.save(tmp_path / "conformal.npz")
    >>> loaded = Conformal.load(tmp_path / "conformal.npz", model)
    >>> bool((loaded.sets(x) == conformal.sets(x)).all())
    True
    """

    coverage: float
    quantile: np.ndarray
    num_calibration: int

    def __init__(
        self,
        predictor: Any,
        method: str = "lac",
        *,
        class_conditional: bool = False,
        penalty: float | None = None,
        allow_empty: bool = True,
        num_samples: int | None = None,
        seed: int = 0,
    ):
        if method not in _METHODS:
            raise ValueError(
                f"Expected one of {list(_METHODS)} for `method`. Received: method={method!r}. "
                "Hint: 'lac', 'aps' or 'raps' for classes, 'normalized' or 'cqr' for real targets."
            )
        if (class_conditional or not allow_empty) and method not in _OF_CLASSES:
            raise ValueError(
                "Expected a method for classes with `class_conditional` or allow_empty=False. "
                f"Received: method={method!r}. Hint: leave it out; intervals have no classes."
            )
        if penalty is not None and not (method == "raps" and 0 <= penalty < np.inf):
            raise ValueError(
                "Expected a number of at least 0 for `penalty`, with method='raps'. "
                f"Received: penalty={penalty!r}, method={method!r}. Hint: None chooses it."
            )
        self.predictor = predictor
        self.settings: dict[str, Any] = {
            "method": method,
            "class_conditional": bool(class_conditional),
            "penalty": None if penalty is None else float(penalty),
            "allow_empty": bool(allow_empty),
            "num_samples": None if num_samples is None else int(num_samples),
            "seed": int(seed),
        }
        self._fitted: dict[str, Any] | None = None

    def fit(self, x: Any, y: ArrayLike, coverage: float = 0.9) -> "Conformal":
        """Computes the quantile from held-out examples.

        Args:
            x: Inputs (N, ...) that the model was not trained on; see `predict_uncertainty`.
            y: Integer labels (N,), or real targets (N,) or (N, D). Each of D targets is covered
                separately, not jointly.
            coverage: Probability that the set or interval of a new example contains its label or
                target.

        Returns:
            This object.

        Raises:
            ValueError: If labels or targets do not match the predictions, or predictions are not
                finite.

        Warns:
            UserWarning: If there are too few examples, overall or of a class.
        """
        check_coverage(coverage)
        fitted: dict[str, Any] = {"coverage": float(coverage), "penalty": 0.0, "free_ranks": 0}
        fit = self._fit_classes if self.method in _OF_CLASSES else self._fit_targets
        self.quantile, self.num_calibration = fit(x, np.asarray(y), fitted)
        self.coverage, self._fitted = fitted["coverage"], fitted
        fitted["weights"] = fingerprint(self.predictor)
        self._warn_of_few()
        return self

    def sets(self, x: Any) -> np.ndarray:
        """Returns which classes are in the set of each example, (N, K) bool.

        Args:
            x: Inputs (N, ...).

        Raises:
            ValueError: If this object is not fitted or is for real targets, if its model has
                changed since `fit`, or if a prediction is not finite.

        Warns:
            UserWarning: If `allow_empty` is False and some sets were empty.
        """
        self._check_fitted(self.method in _OF_CLASSES, "sets")
        probs = self._probabilities(x)
        assert self._fitted is not None
        members = self._scores(probs, self._fitted) <= self.quantile
        empty = np.flatnonzero(~members.any(axis=1))
        if len(empty) and not self.settings["allow_empty"]:
            members[empty, probs[empty].argmax(axis=1)] = True
            warnings.warn(
                f"{len(empty)} of {len(members)} sets were empty and now hold their most probable "
                f"class. The coverage is therefore above the requested {self.coverage:g}.",
                stacklevel=2,
            )
        return members

    def intervals(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns lower and upper bounds of the targets, (N, D) each.

        Args:
            x: Inputs (N, ...).

        Raises:
            ValueError: If this object is not fitted or is for classes, if its model has changed
                since `fit`, or if a prediction is not finite.
        """
        self._check_fitted(self.method not in _OF_CLASSES, "intervals")
        prediction = self._predict(x)
        if self.method == "normalized":
            loc, scale = prediction.mean.astype("float64"), prediction.std.astype("float64")
            _check_finite(scale)
            return loc - self.quantile * scale, loc + self.quantile * scale
        lower, upper = (each.astype("float64") for each in prediction.interval(self.coverage))
        # A negative quantile narrows intervals, at most to a point.
        middle = (lower + upper) / 2
        return (
            np.minimum(lower - self.quantile, middle),
            np.maximum(upper + self.quantile, middle),
        )

    @property
    def method(self) -> str:
        """The method passed to the constructor."""
        return self.settings["method"]

    @property
    def penalty(self) -> tuple[float, int]:
        """The penalty and free ranks that `fit` chose for "raps"; (0, 0) for other methods."""
        self.check_usable()
        assert self._fitted is not None
        return self._fitted["penalty"], self._fitted["free_ranks"]

    def check_usable(self) -> None:
        """Raises ValueError unless this object was fitted with the predictor as it is now."""
        self._check_fitted(True, "answers")

    # From predictions to the quantile.

    def _fit_classes(self, x: Any, y: np.ndarray, fitted: dict) -> tuple[np.ndarray, int]:
        y, probs = as_labelled(y, self._probabilities(x))
        rest = np.arange(len(y))
        fitted["num_classes"] = probs.shape[1]
        if self.method == "raps" and self.settings["penalty"] is not None:
            fitted["penalty"] = self.settings["penalty"]
        elif self.method == "raps":
            order = np.random.default_rng(self.settings["seed"]).permutation(len(y))
            some, rest = np.split(order, [int(np.ceil(_TUNING_SHARE * len(y)))])
            u = row_uniforms(probs[some], self.settings["seed"])
            chosen = choose_raps_penalty(y[some], probs[some], u, fitted["coverage"])
            fitted["penalty"], fitted["free_ranks"] = chosen
        y, probs = y[rest], probs[rest]
        scores = self._scores(probs, fitted)[np.arange(len(y)), y] if len(y) else np.empty(0)
        if not self.settings["class_conditional"]:
            return conformal_quantile(scores, fitted["coverage"]), len(y)
        num_classes = fitted["num_classes"]
        return class_conditional_quantiles(scores, y, num_classes, fitted["coverage"]), len(y)

    def _fit_targets(self, x: Any, y: np.ndarray, fitted: dict) -> tuple[np.ndarray, int]:
        prediction = self._predict(x)
        if y.ndim == 1 and prediction.mean.shape[1] == 1:
            y = y[:, None]
        if self.method == "normalized":
            scores = normalized_scores(y, prediction.mean, prediction.std)
        else:
            scores = cqr_scores(y, *prediction.interval(fitted["coverage"]))
        return conformal_quantile(scores, fitted["coverage"]), len(scores)

    def _scores(self, probs: np.ndarray, fitted: dict) -> np.ndarray:
        if self.method == "lac":
            return lac_scores(probs)
        u = row_uniforms(probs, self.settings["seed"])
        return aps_scores(probs, u, fitted["penalty"], fitted["free_ranks"])

    def _predict(self, x: Any) -> Any:
        settings = {name: self.settings[name] for name in ("num_samples", "seed")}
        if self.method == "cqr":
            settings["return_samples"] = True
        prediction = self.predictor.predict_uncertainty(x, **settings)
        expected = ("categorical", "bernoulli") if self.method in _OF_CLASSES else ("normal",)
        likelihood = getattr(prediction, "likelihood", None)
        shape = np.shape(getattr(prediction, "mean", ()))
        is_binary = likelihood != "bernoulli" or shape[-1:] == (1,)
        if likelihood not in expected or len(shape) != 2 or not is_binary:
            raise ValueError(
                f"Expected a predictor with one output (N, K) and {' or '.join(expected)} "
                f"likelihood, for method={self.method!r}. Received: likelihood={likelihood!r}, "
                f"mean of shape {shape}. Hint: each example needs one class, one sigmoid or real "
                "targets; pixels are not exchangeable."
            )
        _check_finite(prediction.mean)
        return prediction

    def _probabilities(self, x: Any) -> np.ndarray:
        prediction = self._predict(x)
        mean = prediction.mean
        return two_classes(mean) if prediction.likelihood == "bernoulli" else mean.astype("float64")

    def _check_fitted(self, is_right_method: bool, what: str) -> None:
        if self._fitted is None or not is_right_method:
            raise ValueError(
                f"Expected a fitted method that returns {what}. Received: method={self.method!r}, "
                f"{'fitted' if self._fitted else 'not fitted'}. "
                "Hint: 'lac', 'aps' and 'raps' return sets, 'normalized' and 'cqr' intervals."
            )
        check_unchanged(self.predictor, self._fitted["weights"], "coverage")

    def _warn_of_few(self) -> None:
        infinite = np.flatnonzero(np.isinf(np.atleast_1d(self.quantile)))
        if not len(infinite):
            return
        if self.settings["class_conditional"]:
            what = f"of the classes {infinite.tolist()}, which are in every set"
        else:
            kind = (
                "sets hold every class" if self.method in _OF_CLASSES else "intervals are infinite"
            )
            what = f"in `fit`, so all {kind}"
        least = int(np.ceil(self.coverage / (1 - self.coverage) - 1e-9))
        warnings.warn(
            f"Too few examples {what}: a coverage of {self.coverage:g} needs at least {least}.",
            stacklevel=3,
        )

    # Saving.

    def save(self, path: str | Path) -> None:
        """Writes the quantile and the settings to one .npz file, atomically.

        The model is not included; save it separately.

        Args:
            path: Path of the file.

        Raises:
            ValueError: If this object is not fitted.
        """
        if self._fitted is None:
            raise ValueError(
                "Expected a fitted object to save. Received: one without a quantile. "
                "Hint: call fit(x, y) first."
            )
        record = {
            "format": _FORMAT,
            "settings": self.settings,
            "fitted": self._fitted,
            "num_calibration": self.num_calibration,
        }
        text = np.frombuffer(json.dumps(record).encode(), dtype="uint8")
        content: dict[str, Any] = {_RECORD: text, "quantile": self.quantile}
        write_atomically(Path(path), lambda file: np.savez(file, **content))

    @classmethod
    def load(cls, path: str | Path, predictor: Any) -> "Conformal":
        """Reads a file that `save` wrote, for the same predictor.

        Args:
            path: Path of the file.
            predictor: The predictor that was fitted, for example from `keras.models.load_model`.

        Raises:
            ValueError: If `save` did not write the file. A predictor with other weights raises
                only when it is used.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                record = json.loads(file[_RECORD].tobytes())
                quantile = file["quantile"]
            if record["format"] != _FORMAT:
                raise ValueError(f"format {record['format']!r}")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"Expected a file from Conformal.save for `path`. Received: path={str(path)!r}, "
                f"{error}. Hint: pass the .npz file, not the .keras file of the model."
            ) from error
        loaded = cls(predictor, **record["settings"])
        loaded.quantile, loaded.num_calibration = quantile, record["num_calibration"]
        loaded._fitted = record["fitted"]
        loaded.coverage = record["fitted"]["coverage"]
        return loaded


def _check_finite(numbers: np.ndarray) -> None:
    rows = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(rows):
        raise ValueError(
            f"Expected finite predictions. Received: NaN or infinity in rows {rows[:5].tolist()}, "
            f"{len(rows)} of {len(numbers)}. Hint: drop rows whose inputs are not finite."
        )
