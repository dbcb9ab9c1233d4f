"""The interface of selectors, and the data that they may use."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from tfp_bayes._plumbing.configured import Configured

if TYPE_CHECKING:
    from tfp_bayes.prediction import Prediction

FEATURES = ("pixels", "penultimate")


class Candidates:
    """The examples that a batch is chosen from; inputs are loaded when they are asked for.

    Attributes:
        model: What predicts them.
        x: Returns their inputs (N, ...).
        scores: (N,) of the acquisition function, higher is sooner.
        prediction: Their `Prediction`, with samples if the selector says `needs_samples`.
        labelled: Returns the inputs (L, ...) that have a label already.
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
        """Returns what the candidates are compared by, (N, F).

        Args:
            kind: "pixels", the inputs themselves, or "penultimate", what the last layer of the
                model sees at the mean weights.
        """
        return self._features(self.x(), kind)

    def labelled_features(self, kind: str) -> np.ndarray:
        """Returns the same of the labelled examples, (L, F)."""
        return self._features(self.labelled(), kind)

    def _features(self, x: np.ndarray, kind: str) -> np.ndarray:
        if kind == "pixels":
            return np.asarray(x, "float32").reshape(len(x), -1)
        if not hasattr(self.model, "embed"):
            raise ValueError(
                "Expected a model with a method embed(x) for features='penultimate'. "
                f"Received: model={self.model!r}. Hint: BayesianModel has it; features='pixels' "
                "needs none."
            )
        return self.model.embed(x)


class Selector(Configured):
    """Chooses the examples of one batch, out of candidates that have a score each.

    Attributes:
        needs_samples: Whether it reads `prediction.samples`, of one function each for all
            candidates.
        likelihoods: Likelihoods of the predictions that it understands.
        reads_scores: Whether the acquisition function has a say in what it chooses.
    """

    needs_samples = False
    reads_scores = True
    likelihoods: tuple[str, ...] = ("categorical", "bernoulli", "normal")

    def __call__(self, candidates: Candidates, query_size: int, seed: int) -> np.ndarray:
        """Returns `query_size` positions among the candidates, int64, the first choice first."""
        raise NotImplementedError

    def get_config(self) -> dict:
        """Returns the constructor's arguments, plain JSON."""
        return {}


def check_query_size(query_size: int, num_candidates: int) -> None:
    """Raises ValueError unless that many can be chosen."""
    if not 1 <= query_size <= num_candidates:
        raise ValueError(
            f"Expected `query_size` between 1 and the {num_candidates} candidates. "
            f"Received: query_size={query_size}. Hint: ask for fewer, or offer more candidates."
        )


def check_scores(scores: np.ndarray) -> np.ndarray:
    """Returns scores (N,) as float64, or raises ValueError."""
    scores = np.asarray(scores, dtype="float64")
    if scores.ndim != 1 or not np.isfinite(scores).all():
        wrong = np.flatnonzero(~np.isfinite(scores))
        raise ValueError(
            "Expected finite scores (N,) for `scores`. "
            f"Received: shape {scores.shape}, {wrong.size} NaN or infinite at {wrong[:5].tolist()}."
            " Hint: NaN comes from inputs that are not finite or from training that diverged."
        )
    return scores


def check_features(features: np.ndarray, size: int | None = None) -> np.ndarray:
    """Returns features (N, F) as float32, or raises ValueError."""
    features = np.asarray(features, "float32")
    if features.ndim != 2 or (size is not None and len(features) != size):
        raise ValueError(
            f"Expected features ({'N' if size is None else size}, F). "
            f"Received: shape {features.shape}. Hint: one row for each candidate."
        )
    return features


def check_kind(features: str) -> str:
    """Returns a name of features, or raises ValueError."""
    if features not in FEATURES:
        raise ValueError(
            f"Expected one of {FEATURES} for `features`. Received: features={features!r}. "
            "Hint: 'penultimate' compares what the network sees."
        )
    return features
