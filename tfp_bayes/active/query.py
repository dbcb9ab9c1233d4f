"""The learner's question: scores of candidates, and the batch to label next."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.digest import digest
from tfp_bayes._plumbing.seeds import RoundSeeds
from tfp_bayes.active import acquisition as acquisitions
from tfp_bayes.active import selectors
from tfp_bayes.active.pool import Indices, Pool, as_indices
from tfp_bayes.active.rows import AT_ONCE
from tfp_bayes.prediction import Prediction, concatenate
from tfp_bayes.prediction.likelihoods import get_likelihood
from tfp_bayes.prediction.targets import Targets

NUM_TARGETS = 100  # examples that an acquisition function with `targets` is asked about
Load = Callable[[np.ndarray], np.ndarray]  # from indices (n,) to inputs (n, ...)


class Proposal(NamedTuple):
    """A batch to label.

    Attributes:
        indices: (q,) the highest score, or the selector's first choice, first.
        scores: (q,) theirs.
        probabilities: (q, ..., K) what the model thinks of them.
        candidate_scores: (M,) of all candidates.
        uncertainty: Mean mutual information of the candidates, nats.
    """

    indices: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray
    candidate_scores: np.ndarray
    uncertainty: float


class Query:
    """Which examples to ask about: what a label is worth, and how a batch is made of that.

    Args:
        acquisition: What a label is worth: name or function, see `tfp_bayes.active.acquisition`.
        selector: How a batch is made of these scores: name or `Selector`, see
            `tfp_bayes.active.selectors`.
        size: q, examples a round.
        candidates: Score a random subset of the pool of this size; None scores the whole pool.
        num_samples: S posterior samples for scores; None takes the model's own.
        ignore: Indices (n,) never to ask about, such as a validation set taken from `x`.

    Raises:
        ValueError: If a name is unknown or a number out of range.

    Example:

    >>> from tfp_bayes.active import Query
    >>> query = Query("epig", {"name": "power", "beta": 2.0}, size=5, candidates=1000)
    >>> query.selector
    Power(beta=2.0)
    """

    def __init__(
        self,
        acquisition: str | dict | acquisitions.Acquisition = "bald",
        selector: str | dict | selectors.Selector = "top_k",
        size: int = 10,
        candidates: int | None = None,
        num_samples: int | None = None,
        ignore: Indices = (),
    ):
        numbers = {"size": size, "candidates": candidates, "num_samples": num_samples}
        check_integers(1, **{name: value for name, value in numbers.items() if value is not None})
        if candidates is not None and candidates < size:
            raise ValueError(
                "Expected `candidates` not below `size`. "
                f"Received: size={size}, candidates={candidates}. "
                "Hint: candidates=None scores the whole pool."
            )
        self.acquisition = acquisitions.get(acquisition)
        self.selector = selectors.get(selector)
        self.size = size
        self.candidates = candidates
        self.num_samples = num_samples
        self.ignore = as_indices(ignore, "ignore")

    def infer_targets(self, model: Any, inputs: np.ndarray, labels: ArrayLike | None) -> Targets:
        """Returns what the label of one example is, and checks that the model suits this query.

        Args:
            model: What predicts.
            inputs: (2, ...) two equal ones.
            labels: (n, ...) of any examples.

        Raises:
            ValueError: If acquisition or selector has no meaning for what the model predicts.
        """
        probe = self._predict(model, inputs, 0, return_samples=self._needs_samples)
        acquisitions.check_likelihood(self.acquisition, probe.likelihood)
        if probe.likelihood not in self.selector.likelihoods:
            raise ValueError(
                f"Expected predictions of likelihood {self.selector.likelihoods} for "
                f"selector={self.selector!r}. Received: likelihood={probe.likelihood!r}. "
                "Hint: 'top_k', 'power', 'diverse' and 'k_center' work with any."
            )
        if self._needs_samples:
            _check_functions(probe, model)
        return get_likelihood(probe.likelihood).targets(probe.mean, np.asarray(labels))

    def propose(self, model: Any, load: Load, pool: Pool, seeds: RoundSeeds) -> Proposal:
        """Scores candidates of the pool and selects the batch to label next.

        Args:
            model: What predicts.
            load: Returns inputs by index.
            pool: With at least one example that may be acquired.
            seeds: Seeds of the round.

        Raises:
            ValueError: If a score is not finite, or there is not one for each candidate.
        """
        candidates = self._candidates(pool.unlabelled, seeds.candidates)
        prediction = self.predict(
            model, load, candidates, seeds.score, return_samples=self._needs_samples
        )
        scores = self._score(model, load, pool.unlabelled, prediction, seeds)
        scores = _check_scores(scores, candidates, self.name)
        best = self.selector(
            selectors.Candidates(
                model,
                functools.partial(load, candidates),
                scores,
                prediction,
                functools.partial(load, pool.labelled),
            ),
            min(self.size, len(candidates)),
            seeds.select,
        )
        return Proposal(
            candidates[best],
            scores[best],
            np.asarray(prediction.mean)[best].astype("float64"),
            scores,
            float(np.mean(prediction.mutual_information)),
        )

    def predict(
        self, model: Any, load: Load, indices: np.ndarray, seed: int, **kwargs: Any
    ) -> Prediction:
        """Predicts examples, a bounded number of them in memory at a time."""
        parts = [
            self._predict(model, load(indices[i : i + AT_ONCE]), seed, **kwargs)
            for i in range(0, max(len(indices), 1), AT_ONCE)
        ]
        return parts[0] if len(parts) == 1 else concatenate(parts)

    def identify(self) -> dict[str, Any]:
        """Returns what tells a run with this query from another, plain JSON."""
        return {
            "acquisition": self.name,
            "selector": repr(self.selector),
            "query_size": self.size,
            "candidates": self.candidates,
            "num_samples": self.num_samples,
            "ignored": digest(np.sort(self.ignore)),
        }

    @property
    def name(self) -> str:
        """Name of the acquisition function."""
        return getattr(self.acquisition, "__name__", type(self.acquisition).__name__)

    @property
    def method(self) -> str:
        """What chooses, for people: the acquisition, the selector or both, whichever decide.

        >>> from tfp_bayes.active import Query
        >>> Query().method, Query("epig", "power").method, Query(selector="batch_bald").method
        ('bald', 'epig, Power', 'BatchBALD')
        """
        selector = type(self.selector).__name__
        if not self.selector.reads_scores:
            return selector
        return self.name if selector == "TopK" else f"{self.name}, {selector}"

    @property
    def _wants_targets(self) -> bool:
        return "targets" in inspect.signature(self.acquisition).parameters

    @property
    def _needs_samples(self) -> bool:
        return self.selector.needs_samples or self._wants_targets

    def _predict(self, model: Any, x: np.ndarray, seed: int, **kwargs: Any) -> Prediction:
        return model.predict_uncertainty(x, num_samples=self.num_samples, seed=seed, **kwargs)

    def _candidates(self, pool: np.ndarray, seed: int) -> np.ndarray:
        if self.candidates is None or self.candidates >= len(pool):
            return pool
        return np.sort(np.random.default_rng(seed).choice(pool, self.candidates, replace=False))

    def _score(
        self, model: Any, load: Load, pool: np.ndarray, prediction: Prediction, seeds: RoundSeeds
    ) -> np.ndarray:
        """Scores candidates; an acquisition with `targets` sees some of the pool too."""
        if not self._wants_targets:
            return self.acquisition(prediction)
        rng = np.random.default_rng(seeds.targets)
        chosen = np.sort(rng.choice(pool, min(NUM_TARGETS, len(pool)), replace=False))
        # The same seed, so the same functions as the candidates'.
        targets = self.predict(model, load, chosen, seeds.score, return_samples=True)
        return self.acquisition(prediction, targets=targets)


def _check_functions(twice: Prediction, model: Any) -> None:
    """Checks that each posterior sample is a single function, as BatchBALD and EPIG require.

    Args:
        twice: Prediction of one input that is given twice, with samples.
        model: What predicted.
    """
    samples = twice.samples
    if samples is None or not np.array_equal(samples[:, 0], samples[:, 1]):
        raise ValueError(
            "Expected a `model` whose samples are functions, equal for equal inputs, to score "
            f"examples together. Received: model={model!r}, which draws noise for each row. "
            "Hint: BayesianModel and Predictor draw one function for all rows."
        )


def _check_scores(given: np.ndarray, candidates: np.ndarray, acquisition: str) -> np.ndarray:
    """Returns a finite score for each candidate."""
    given = np.asarray(given)
    if given.shape != candidates.shape:
        raise ValueError(
            f"Expected one score for each of {len(candidates)} candidates from acquisition "
            f"{acquisition}. Received: shape {given.shape}. Hint: reduce dense predictions to one "
            "score for each example."
        )
    wrong = candidates[~np.isfinite(given)]
    if wrong.size:
        raise ValueError(
            f"Expected finite scores from acquisition {acquisition}. Received: NaN or infinity "
            f"for the examples {wrong[:5].tolist()}, {wrong.size} of {len(candidates)}. Hint: "
            "leave them out with Query(ignore=...); if it is so for all, training diverged."
        )
    return given
