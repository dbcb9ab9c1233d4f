"""Queries: the scores of candidates and the batch to label next."""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

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

NUM_TARGETS = 100  # examples passed to an acquisition function as `targets`
Load = Callable[[np.ndarray], np.ndarray]  # from indices (n,) to inputs (n, ...)


class Proposal(NamedTuple):
    """A batch to label.

    Attributes:
        indices: (q,) indices in the order in which the selector chose them.
        scores: (q,) acquisition scores of these examples.
        probabilities: (q, ..., K) predictive means of these examples.
        candidate_scores: (M,) acquisition scores of all candidates.
        uncertainty: Mean mutual information of the candidates, in nats.
    """

    indices: np.ndarray
    scores: np.ndarray
    probabilities: np.ndarray
    candidate_scores: np.ndarray
    uncertainty: float


class Best(NamedTuple):
    """Examples with the highest scores of a pool.

    Attributes:
        indices: (k,) Indices of the examples, the highest score first.
        scores: (k,) Their scores.
        uncertainty: Mean mutual information of the whole pool, in nats.
    """

    indices: np.ndarray
    scores: np.ndarray
    uncertainty: float


class Scorer(Protocol):
    """Scores a whole pool in other processes, such as `tfp_bayes.scale.PoolScorer`."""

    def check(self, acquisition: str) -> None:
        """Raise ValueError if the scorer does not know an acquisition function."""

    def best(
        self,
        model: Any,
        acquisition: str,
        unlabelled: np.ndarray,
        size: int,
        num_samples: int,
        seed: int,
    ) -> Best:
        """Return the examples with the highest scores.

        Args:
            model: The learner's predictor.
            acquisition: Name of the acquisition function.
            unlabelled: (n,) Indices to choose from.
            size: Number of examples to return; all of them if there are fewer.
            num_samples: S, posterior samples.
            seed: Seed of the samples, the same for every example.
        """


class Query:
    """Settings that decide which examples to label next.

    Args:
        acquisition: Name or function that scores each candidate; see
            `tfp_bayes.active.acquisition`.
        selector: Name or `Selector` that chooses a batch by these scores; see
            `tfp_bayes.active.selectors`.
        size: Number q of examples in each batch.
        candidates: Size of the random subset of the pool to score. None scores the whole pool.
        num_samples: Number of posterior samples S for the scores. None uses the model's default.
        ignore: Indices (n,) of examples never to ask about, such as a validation set taken from
            `x`.
        scorer: Scorer of a pool that is too large for this process, such as
            `tfp_bayes.scale.PoolScorer`. It scores the whole pool. The candidates are then the
            `candidates` examples with the highest scores (None: as many as a batch has) instead of
            a random subset, and the selector chooses among them.

    Raises:
        ValueError: If a name is unknown or a number is out of range.

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
        scorer: Scorer | None = None,
    ):
        numbers = {"size": size, "candidates": candidates, "num_samples": num_samples}
        check_integers(1, **{name: value for name, value in numbers.items() if value is not None})
        if candidates is not None and candidates < size:
            raise ValueError(
                "Expected `candidates` to be at least `size`. "
                f"Received: size={size}, candidates={candidates}. "
                "Hint: candidates=None scores the whole pool."
            )
        self.acquisition = acquisitions.get(acquisition)
        self.selector = selectors.get(selector)
        self.size = size
        self.candidates = candidates
        self.num_samples = num_samples
        self.ignore = as_indices(ignore, "ignore")
        self.scorer = scorer
        if scorer is not None:
            _check_scorer(scorer, self.name, num_samples)

    def infer_targets(self, model: Any, inputs: np.ndarray, labels: ArrayLike | None) -> Targets:
        """Return the kind of labels that a model predicts, after checking that it suits this query.

        Args:
            model: Model with `predict_uncertainty`.
            inputs: (2, ...) two equal inputs.
            labels: (n, ...) labels of any examples.

        Raises:
            ValueError: If the acquisition function or the selector has no meaning for the model's
                predictions.
        """
        with warnings.catch_warnings():
            # A closed-form head without any labels warns that it predicts from its prior.
            warnings.simplefilter("ignore", UserWarning)
            probe = self._predict(model, inputs, 0, return_samples=self._needs_samples)
        acquisitions.check_likelihood(self.acquisition, probe.likelihood)
        if probe.likelihood not in self.selector.likelihoods:
            raise ValueError(
                f"Expected predictions of likelihood {self.selector.likelihoods} for "
                f"selector={self.selector!r}. Received: likelihood={probe.likelihood!r}. "
                "Hint: 'top_k', 'power', 'diverse' and 'k_center' work with any likelihood."
            )
        if self._needs_samples:
            _check_functions(probe, model)
        return get_likelihood(probe.likelihood).targets(probe.mean, np.asarray(labels))

    def propose(self, model: Any, load: Load, pool: Pool, seeds: RoundSeeds) -> Proposal:
        """Score candidates of the pool and select the batch to label next.

        Args:
            model: Model with `predict_uncertainty`.
            load: Function from indices (n,) to inputs (n, ...).
            pool: Pool with at least one unlabeled example.
            seeds: Seeds of the round.

        Raises:
            ValueError: If a score is not finite, or there is not exactly one for each candidate.
        """
        best = self._best(model, pool.unlabelled, seeds)
        if best is None:
            candidates = self._candidates(pool.unlabelled, seeds.candidates)
        else:
            candidates = np.sort(best.indices)
        prediction = self.predict(
            model, load, candidates, seeds.score, return_samples=self._needs_samples
        )
        scores = self._score(model, load, pool.unlabelled, prediction, seeds)
        scores = _check_scores(scores, candidates, self.name)
        if best is not None:
            _check_same(scores, best)
        chosen = self.selector(
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
            candidates[chosen],
            scores[chosen],
            np.asarray(prediction.mean)[chosen].astype("float64"),
            scores,
            float(np.mean(prediction.mutual_information)) if best is None else best.uncertainty,
        )

    def predict(
        self, model: Any, load: Load, indices: np.ndarray, seed: int, **kwargs: Any
    ) -> Prediction:
        """Predict examples by index, with a bounded number of inputs in memory at a time."""
        parts = [
            self._predict(model, load(indices[i : i + AT_ONCE]), seed, **kwargs)
            for i in range(0, max(len(indices), 1), AT_ONCE)
        ]
        return parts[0] if len(parts) == 1 else concatenate(parts)

    def identify(self) -> dict[str, Any]:
        """Return the settings that a resumed run must share, as plain JSON."""
        return {
            "acquisition": self.name,
            "selector": repr(self.selector),
            "query_size": self.size,
            "candidates": self.candidates,
            "num_samples": self.num_samples,
            "ignored": digest(np.sort(self.ignore)),
            **({} if self.scorer is None else {"scorer": type(self.scorer).__name__}),
        }

    @property
    def name(self) -> str:
        """Name of the acquisition function."""
        return getattr(self.acquisition, "__name__", type(self.acquisition).__name__)

    @property
    def method(self) -> str:
        """Display name of the method: the acquisition, the selector or both, whichever decide.

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

    def _best(self, model: Any, unlabelled: np.ndarray, seeds: RoundSeeds) -> Best | None:
        """Ask the scorer, if there is one, for as many examples as there are candidates."""
        if self.scorer is None:
            return None
        size = self.size if self.candidates is None else self.candidates
        assert self.num_samples is not None  # see `_check_scorer`
        best = self.scorer.best(model, self.name, unlabelled, size, self.num_samples, seeds.score)
        if not len(best.indices):
            raise ValueError(
                f"Expected finite scores from acquisition {self.name}. Received: none for any of "
                f"{len(unlabelled)} unlabeled examples. Hint: if it is so for all, training "
                "diverged."
            )
        return best

    def _candidates(self, pool: np.ndarray, seed: int) -> np.ndarray:
        if self.candidates is None or self.candidates >= len(pool):
            return pool
        return np.sort(np.random.default_rng(seed).choice(pool, self.candidates, replace=False))

    def _score(
        self, model: Any, load: Load, pool: np.ndarray, prediction: Prediction, seeds: RoundSeeds
    ) -> np.ndarray:
        """Score candidates, passing some of the pool as `targets` if the function accepts them."""
        if not self._wants_targets:
            return self.acquisition(prediction)
        rng = np.random.default_rng(seeds.targets)
        chosen = np.sort(rng.choice(pool, min(NUM_TARGETS, len(pool)), replace=False))
        # With the seed of the candidates, sample s is the same function for both.
        targets = self.predict(model, load, chosen, seeds.score, return_samples=True)
        return self.acquisition(prediction, targets=targets)


def _check_scorer(scorer: Scorer, acquisition: str, num_samples: int | None) -> None:
    """Raise ValueError unless a scorer can do what a query asks of it."""
    if not hasattr(scorer, "best"):
        raise ValueError(
            "Expected a Scorer for `scorer`. Received: scorer of type "
            f"{type(scorer).__name__}. Hint: tfp_bayes.scale.PoolScorer(rows, folder)."
        )
    if num_samples is None:
        raise ValueError(
            "Expected `num_samples` with a scorer, whose workers do not know the learner's model. "
            "Received: num_samples=None. Hint: Query(scorer=..., num_samples=100)."
        )
    scorer.check(acquisition)


def _check_same(scores: np.ndarray, best: Best) -> None:
    """Raise ValueError unless the learner finds the scores that the scorer found."""
    found = best.scores[np.argsort(best.indices)]
    if not np.allclose(scores, found, rtol=1e-2, atol=1e-6):
        raise ValueError(
            "Expected a scorer whose scores are those of the learner. Received: scores that differ "
            f"by {np.abs(scores - found).max():.3g}. Hint: the rows of the scorer must be the "
            "learner's `x`, and the acquisition one of tfp_bayes.active."
        )


def _check_functions(twice: Prediction, model: Any) -> None:
    """Check that each posterior sample is a single function, as BatchBALD and EPIG require.

    Args:
        twice: Prediction, with samples, of a batch that contains one input twice.
        model: The model that made this prediction.
    """
    samples = twice.samples
    if samples is None or not np.array_equal(samples[:, 0], samples[:, 1]):
        raise ValueError(
            "Expected a `model` whose samples are functions, equal for equal inputs, because this "
            f"query scores examples jointly. Received: model={model!r}, which draws noise for each "
            "row. Hint: BayesianModel and Predictor draw one function for all rows."
        )


def _check_scores(given: np.ndarray, candidates: np.ndarray, acquisition: str) -> np.ndarray:
    """Return the scores as an array, after checking that each candidate has a finite one."""
    given = np.asarray(given)
    if given.shape != candidates.shape:
        raise ValueError(
            f"Expected one score for each of {len(candidates)} candidates from acquisition "
            f"{acquisition}. Received: shape {given.shape}. Hint: for dense predictions, reduce "
            "the scores to one for each example."
        )
    wrong = candidates[~np.isfinite(given)]
    if wrong.size:
        raise ValueError(
            f"Expected finite scores from acquisition {acquisition}. Received: NaN or infinity "
            f"for the examples {wrong[:5].tolist()}, {wrong.size} of {len(candidates)}. Hint: "
            "exclude them with Query(ignore=...); if all scores are affected, training diverged."
        )
    return given
