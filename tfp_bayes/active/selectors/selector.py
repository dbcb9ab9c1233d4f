"""The interface of selectors, and the data that they can use."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tfp_bayes._plumbing.configured import Configured

if TYPE_CHECKING:
    from tfp_bayes.prediction import Prediction

FEATURES = ("pixels", "penultimate")


class Candidates:
    """The examples among which a selector chooses. Inputs are loaded only on request.

    Attributes:
        model: Model that predicts the candidates.
        x: Function without arguments that returns the inputs (N, ...) of the candidates.
        scores: (N,) acquisition scores, where higher means sooner.
        prediction: `Prediction` of the candidates, with samples if the selector sets
            `needs_samples`.
        labelled: Function without arguments that returns the inputs (L, ...) of the labeled
            examples.
    """

    def __init__(
        self,
        model,
        x: Callable[[], np.ndarray],
        scores: np.ndarray,
        prediction: "Prediction",
        labelled: Callable[[], np.ndarray],
    ):
        self.model = model
        self.x = x
        self.scores = scores
        self.prediction = prediction
        self.labelled = labelled

    def features(self, kind: str) -> np.ndarray:
        """Return features (N, F) by which to compare the candidates.

        Args:
            kind: "pixels" for the inputs themselves, or "penultimate" for the inputs of the model's
                last layer at the mean weights.
        """
        return self._features(self.x(), kind)

    def labelled_features(self, kind: str) -> np.ndarray:
        """Return the same features of the labeled examples, (L, F)."""
        return self._features(self.labelled(), kind)

    def _features(self, x: np.ndarray, kind: str) -> np.ndarray:
        if kind == "pixels":
            return np.asarray(x, "float32").reshape(len(x), -1)
        if not hasattr(self.model, "embed"):
            raise ValueError(
                "Expected a model with a method embed(x) for features='penultimate'. "
                f"Received: model={self.model!r}. Hint: BayesianModel has embed(x); "
                "features='pixels' works with any model."
            )
        return self.model.embed(x)


class Selector(Configured):
    """Base class of selectors, which choose one batch of examples from scored candidates.

    Attributes:
        needs_samples: Whether the selector reads `prediction.samples`, where each sample is one
            function evaluated at all candidates.
        likelihoods: Likelihoods of the predictions that the selector supports.
        reads_scores: Whether the choice depends on the acquisition scores.
    """

    needs_samples = False
    reads_scores = True
    likelihoods: tuple[str, ...] = ("categorical", "bernoulli", "normal")

    def __call__(self, candidates: Candidates, query_size: int, seed: int) -> np.ndarray:
        """Return `query_size` positions among the candidates, int64, in the order chosen."""
        raise NotImplementedError

    def get_config(self) -> dict:
        """Return the constructor's arguments, plain JSON."""
        return {}


def check_query_size(query_size: int, num_candidates: int) -> None:
    """Raise ValueError unless `query_size` examples can be chosen."""
    if not 1 <= query_size <= num_candidates:
        raise ValueError(
            f"Expected `query_size` between 1 and the {num_candidates} candidates. "
            f"Received: query_size={query_size}. Hint: choose fewer, or score more candidates."
        )


def check_scores(scores: np.ndarray) -> np.ndarray:
    """Return scores (N,) as float64, or raise ValueError."""
    scores = np.asarray(scores, dtype="float64")
    if scores.ndim != 1 or not np.isfinite(scores).all():
        wrong = np.flatnonzero(~np.isfinite(scores))
        raise ValueError(
            "Expected finite scores (N,) for `scores`. "
            f"Received: shape {scores.shape}, {wrong.size} NaN or infinite at {wrong[:5].tolist()}."
            " Hint: NaN results from inputs that are not finite or from training that diverged."
        )
    return scores


def check_features(features: np.ndarray, size: int | None = None) -> np.ndarray:
    """Return features (N, F) as float32, or raise ValueError."""
    features = np.asarray(features, "float32")
    if features.ndim != 2 or (size is not None and len(features) != size):
        raise ValueError(
            f"Expected features ({'N' if size is None else size}, F). "
            f"Received: shape {features.shape}. Hint: pass one row for each candidate."
        )
    return features


def check_kind(features: str) -> str:
    """Return a name of features, or raise ValueError if it is unknown."""
    if features not in FEATURES:
        raise ValueError(
            f"Expected one of {FEATURES} for `features`. Received: features={features!r}. "
            "Hint: 'penultimate' compares inputs of the network's last layer."
        )
    return features
