"""The loop of active learning: train, score, ask, label."""

import dataclasses
import functools
import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.checks import check_integers
from tfp_bayes._plumbing.digest import digest, digest_network, digest_rows
from tfp_bayes.active import acquisition as acquisitions
from tfp_bayes.active import checked, filters, selectors, stopping
from tfp_bayes.active.joint_samples import check_joint_samples
from tfp_bayes.active.labelling import Labelling, differ
from tfp_bayes.active.oracles import ArrayOracle, Oracle, ask, digest_oracle
from tfp_bayes.active.pool import IGNORED, UNLABELLED, Pool
from tfp_bayes.active.progress import Progress
from tfp_bayes.active.refit import Refit
from tfp_bayes.active.round import Round
from tfp_bayes.active.rows import AT_ONCE, Rows, as_rows
from tfp_bayes.active.stopping import Criterion
from tfp_bayes.active.storage import Answer, State, Storage
from tfp_bayes.metrics import accuracy
from tfp_bayes.prediction import Prediction
from tfp_bayes.prediction.likelihoods import get_likelihood
from tfp_bayes.prediction.prediction import Scores, concatenate
from tfp_bayes.uncertainty import apply_temperature, fit_temperature

NUM_TARGETS = 100  # examples that an acquisition function with `targets` is asked about
# Labels are not filtered by a model that is not better than this.
TRUSTED_ACCURACY = 0.6
# What a seed is used for; each use of a round has a stream of its own.
_TRAIN, _CANDIDATES, _SCORE, _SELECT, _EVALUATE, _TARGETS, _FILTER = range(7)


class Merged(NamedTuple):
    """What became of answers that were merged.

    Attributes:
        taken: Answers to examples that had none.
        known: Answers that changed nothing.
        changed: Answers that replaced another one.
    """

    taken: int
    known: int
    changed: int


class ActiveLearner:
    """Buys the labels that a model learns most from, round by round.

    With known labels (`y`), `run` does everything. With a person who labels, `propose` says which
    examples to label and `tell` takes the answers, all at once or one by one. Round 0 trains on
    the initial set; each further round acquires, trains anew and evaluates. Give `checkpoint` and
    a run that was killed at any point continues to the same result, bit for bit on a CPU; each
    answer is on the disk when the call that took it returns.

    Args:
        model: A compiled `BayesianModel`, or anything with its `fit`, `predict_uncertainty` and
            `variables`. Its weights are re-initialised in place and nothing is traced again.
        x: Inputs (N, ...) of the whole data set; indices everywhere are rows of it. An array, or
            what does not fit into memory: an `np.memmap`, a finite `tf.data.Dataset`, a
            `keras.utils.PyDataset` or another of `tfp_bayes.active.rows`.
        y: True labels, or None if they are not known: (N,) class numbers for a softmax, zeros and
            ones (N,) or (N, K) for sigmoids, real numbers (N,) or (N, D) for likelihood "normal".
        oracle: Who labels, see `tfp_bayes.active.oracles`; None takes `y`, and without that a
            person labels through `tell`.
        label_filter: Which answers are believed: name or `Filter`, see
            `tfp_bayes.active.filters`; None believes all. With `validation_data` its
            probabilities are calibrated first, and nothing is rejected before the model is right
            in 60 % there.
        rejected: What becomes of the others: "skip", "quarantine" or "relabel", see `Labelling`.
        initial: Indices of the initial set.
        initial_labels: Their labels; None takes them from `y`.
        ignore: Indices never to acquire, such as a validation set taken from `x`.
        validation_data: (x, y) for `validation_nll` and early stopping, or None.
        test_data: (x, y) for `test_accuracy`, `test_rmse` and `test_nll`, or None.
        acquisition: What a label is worth: name or function, see `tfp_bayes.active.acquisition`.
        selector: How a batch is made of these scores: name or `Selector`, see
            `tfp_bayes.active.selectors`.
        query_size: q, examples acquired a round.
        candidates: Score a random subset of the pool of this size; None scores the whole pool.
        num_samples: S posterior samples for scores; None takes the model's own.
        evaluation_samples: S for validation and test sets, which are larger than the candidates
            and for which fewer do; None takes `num_samples`.
        reinit: Where each training starts: "fresh", "warm" or "shrink_perturb", see `Refit`.
        steps: Optimizer steps a round, the least if `max_steps` is given.
        max_steps: Train on, at most this far, until the validation loss stops improving.
        batch_size: Examples an optimizer step, never more than there are.
        seed: Integer that decides everything random.
        checkpoint: File to keep the state in, or None. An existing one is continued, if it is
            of the same configuration, data, network and oracle. Beside it a journal
            (`.answers.jsonl`) holds every answer, from which a damaged checkpoint is restored,
            and `.lock` lets one process at a time write.
        on_stage: Called with the name of each stage when it is over: "start", "propose", "tell",
            "fit", "evaluate", "ask" of an oracle that learns from answers, and "checkpoint"
            whenever the state has reached the file.

    Raises:
        ValueError: If an index or label is out of range, a required argument is missing, or the
            checkpoint is of another run.
        OSError: If another process writes to the checkpoint.

    Reference:
        Gal, Islam and Ghahramani 2017, arXiv:1703.02910.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(100, 2)).astype("float32")
    >>> y = (x[:, 0] > 0).astype("int64")
    >>> inputs = keras.Input((2,))
    >>> hidden = MCDropout(0.3)(keras.layers.Dense(16, activation="relu")(inputs))
    >>> model = BayesianModel(inputs, keras.layers.Dense(2, activation="softmax")(hidden))
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> learner = ActiveLearner(model, x, y, initial=[0, 1, 2, 3], query_size=2, steps=5)
    >>> history = learner.run(num_rounds=2)
    >>> [row.num_acquired for row in history]
    [0, 2, 4]
    """

    def __init__(
        self,
        model: keras.Model,
        x: np.ndarray | Rows | tf.data.Dataset | keras.utils.PyDataset,
        y: np.ndarray | None = None,
        *,
        initial: np.ndarray,
        initial_labels: np.ndarray | None = None,
        ignore: np.ndarray = (),
        validation_data: tuple[np.ndarray, np.ndarray] | None = None,
        test_data: tuple[np.ndarray, np.ndarray] | None = None,
        acquisition: str | acquisitions.Acquisition = "bald",
        selector: str | dict | selectors.Selector = "top_k",
        oracle: Oracle | None = None,
        label_filter: str | dict | filters.Filter | None = None,
        rejected: str = "skip",
        query_size: int = 10,
        candidates: int | None = None,
        num_samples: int | None = None,
        evaluation_samples: int | None = None,
        reinit: str = "fresh",
        steps: int = 200,
        max_steps: int | None = None,
        batch_size: int = 64,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        on_stage: Callable[[str], None] | None = None,
    ):
        sizes = {"num_samples": num_samples, "evaluation_samples": evaluation_samples}
        sizes |= {"query_size": query_size, "candidates": candidates}
        check_integers(1, **{name: value for name, value in sizes.items() if value is not None})
        check_integers(0, seed=seed)
        self.model = model
        self.x = as_rows(x)
        self.acquisition = acquisitions.get(acquisition)
        self.selector = selectors.get(selector)
        self.num_samples = num_samples
        self._check_inputs(ignore)
        initial = checked.initial_set(initial, initial_labels if y is None else y)
        # Before anything is trained: what the outputs mean, and whether the rest fits to that.
        probe = self._predict(self.rows([0, 0]), 0, return_samples=self._needs_samples)
        known = np.asarray(initial_labels if y is None else y)
        self.targets = get_likelihood(probe.likelihood).targets(probe.mean, known)
        checked.suits(probe, self.acquisition, self.selector)
        if self._needs_samples:
            check_joint_samples(probe, model)
        self.num_classes = self.targets.num_outputs
        self.y = None if y is None else self.targets.check(y, len(self.x))
        self.oracle = ArrayOracle(self.y) if oracle is None and y is not None else oracle
        checked.function(self.oracle, "oracle", "from indices to labels")
        checked.function(on_stage, "on_stage", "of the name of a stage")
        if candidates is not None and candidates < query_size:
            raise ValueError(
                "Expected `candidates` not below `query_size`. "
                f"Received: query_size={query_size}, candidates={candidates}. "
                "Hint: candidates=None scores the whole pool."
            )
        self.query_size = query_size
        self.candidates = candidates
        self.evaluation_samples = num_samples if evaluation_samples is None else evaluation_samples
        self.seed = seed
        self.validation_data = checked.pair(validation_data, "validation_data", self.targets)
        self.test_data = checked.pair(test_data, "test_data", self.targets)
        self.refit = Refit(model, reinit, steps, max_steps, batch_size)
        self.refit.check_validation(validation_data)
        self.on_stage = on_stage or (lambda stage: None)

        self.pool = Pool(len(self.x))
        label_filter = filters.get(label_filter)
        checked.filter_suits(label_filter, self.targets, self.y is not None)
        self.labelling = Labelling(len(self.x), label_filter, rejected, self.y, self.targets)
        self.candidate_scores = np.array([])  # of the last proposal
        self.scores = np.full(len(self.x), np.nan)  # (N,) of each example when it was acquired
        self.pending = np.array([], dtype="int64")  # proposed and not answered yet
        self.proposed = np.array([], dtype="int64")  # the whole batch, answered or not
        self.proposed_probabilities = np.zeros([0, *probe.mean.shape[1:]])  # what the model thought
        self.history: list[Round] = []
        self.score_seconds, self.pool_uncertainty = 0.0, float("nan")
        self.pool.ignore(ignore)
        self.ignored = np.asarray(ignore, "int64")
        self.pool.acquire(initial, round=0)
        if initial_labels is None:
            initial_labels = self.y[initial]
        self.labelling.labels[initial] = self.targets.check(initial_labels, len(initial))
        path = None if checkpoint is None else Path(checkpoint)
        self.storage = Storage(path, {} if path is None else self._identity())
        state, answers = self.storage.load()
        if state is not None:
            self.set_state(state)
        elif not answers:
            self._save("start")
        self._replay(answers)

    def run(
        self,
        num_rounds: int,
        stop: Criterion | str | Sequence[Criterion | str] | None = None,
        on_round: Callable[[Round], None] | None = None,
        verbose: bool = False,
    ) -> list[Round]:
        """Runs until `num_rounds` rounds of acquisition are complete, earlier ones counted.

        Args:
            num_rounds: Rounds in all, as `epochs` with `initial_epoch` in Keras: a run that was
                interrupted after 4 of 10 rounds continues with the fifth.
            stop: When to stop before that: a function of the history, or its short form such as
                "labels=200", see `tfp_bayes.active.stopping.get`.
            on_round: Called with each new row of the history.
            verbose: Whether to print a line for each round and, on a terminal, what goes on.

        Returns:
            The history, `num_rounds` + 1 rows unless stopped or the pool is empty: round 0 is the
            initial set.

        Raises:
            ValueError: If there is nobody to ask, or an argument is out of range.
        """
        check_integers(0, num_rounds=num_rounds)
        criterion = stopping.get(stop)
        progress = Progress(num_rounds) if verbose else None
        on_stage = self.on_stage
        if progress is not None:
            self.on_stage = lambda stage: (progress.on_stage(stage), on_stage(stage))
        try:
            while len(self.history) <= num_rounds:
                if criterion is not None and self.history and criterion(self.history):
                    break
                if self.is_trained and not len(self.pool.unlabelled):
                    break
                row = self.step()
                for show in (None if progress is None else progress.on_round, on_round):
                    if show is not None:
                        show(row)
        finally:
            self.on_stage = on_stage
        return self.history

    def step(self) -> Round:
        """Runs one round: propose, ask the oracle, train, evaluate. Returns its row."""
        if not len(self.pending):
            self._settle()  # answers that a killed run had not decided on
        if self.is_trained or len(self.pending):
            if self.oracle is None:
                raise ValueError(
                    "Expected labels `y` or an `oracle` to run by itself. Received: y=None, "
                    "oracle=None. Hint: use propose() and tell(indices, labels)."
                )
            indices = self.propose()
            while len(indices):  # rejected labels may be asked again
                again = self.labelling.num_asks[indices] > 0
                for turn in np.unique(again):
                    at = indices[again == turn]
                    labels = ask(self.oracle, at, int(turn))
                    if self._oracle_state():
                        self._save("ask")  # before its answers: it may forget none of them
                    self.tell(at, labels, who="oracle")
                self._settle()
                indices = self.pending
        return self.train()

    def lock(self) -> None:
        """Takes the right to write to the checkpoint, which the first answer takes otherwise.

        It lasts until this learner is collected or the process ends, however that ends.

        Raises:
            OSError: If another process has it; says which.
        """
        self.storage.acquire()

    @property
    def labels(self) -> np.ndarray:
        """(N,) the label that was given to each example, -1 where none was."""
        return self.labelling.labels

    @property
    def is_trained(self) -> bool:
        """Whether the model has been trained on every label known so far."""
        last = max(self.pool.acquired_at.max(), self.labelling.rejected_at.max())
        return len(self.history) > int(last) and not len(self.labelling.unsettled(self.pool))

    def propose(self) -> np.ndarray:
        """Returns the indices to label next, the highest score first.

        The same until they are answered; then the model is trained on the answers before it
        scores the pool again.

        Returns:
            Indices (q,) int64, fewer if the pool is smaller, or those of the last proposal that
            have no label yet.

        Raises:
            ValueError: If no example is left in the pool, or a score is not finite.
        """
        if not len(self.pending):
            self._settle()
        if len(self.pending):
            return self.pending.copy()
        self.lock()
        if not self.is_trained:
            self.train()
        if not len(self.pool.unlabelled):
            raise ValueError(
                "Expected examples in the pool. Received: 0. Hint: everything that may be asked "
                "has been; ask for fewer rounds."
            )
        start = time.perf_counter()
        self._test_quarantine()
        candidates = self._candidates()
        prediction = self._predict_rows(
            candidates, self._seed(_SCORE), return_samples=self._needs_samples
        )
        scores = checked.scores(self._score(prediction), candidates, self.acquisition)
        best = self.selector(
            selectors.Candidates(
                self.model,
                functools.partial(self.rows, candidates),
                scores,
                prediction,
                functools.partial(self.rows, self.pool.labelled),
            ),
            min(self.query_size, len(candidates)),
            self._seed(_SELECT),
        )
        self.candidate_scores = scores
        self.pending = self.proposed = candidates[best]
        self.scores[self.pending] = scores[best]
        self.proposed_probabilities = np.asarray(prediction.mean)[best].astype("float64")
        self.pool_uncertainty = float(np.mean(prediction.mutual_information))
        self.score_seconds = time.perf_counter() - start
        self._save("propose")
        return self.pending.copy()

    def tell(self, indices: np.ndarray, labels: np.ndarray, who: str = "tell") -> None:
        """Takes labels for proposed examples: all of them, or some now and some later.

        Args:
            indices: Indices (n,) out of the last proposal, each once.
            labels: Their labels: (n,) integers in [0, K), or zeros and ones or real numbers, as the
                model predicts.
            who: Who gave them, for the journal.

        Raises:
            ValueError: If an index was not proposed or is answered already, or a label is out of
                range. Nothing is taken then.
            OSError: If the answers cannot be written to the journal. Nothing is taken then.
        """
        indices = np.atleast_1d(indices)
        labels = self.targets.check(labels, len(indices))
        if len(np.unique(indices)) != len(indices):
            raise ValueError(
                "Expected each index once. Received: "
                f"{len(indices)} indices, {len(np.unique(indices))} different. "
                "Hint: drop the repeated ones."
            )
        answered = indices[np.isin(indices, np.setdiff1d(self._answered, self.pending))]
        if answered.size:
            raise ValueError(
                f"Expected indices without a label. Received: {answered[:5].tolist()}, answered "
                "already. Hint: an answer cannot be changed."
            )
        self._check_pending(indices)
        self._take("tell", indices, labels, who)

    def merge(
        self,
        indices: np.ndarray,
        labels: np.ndarray,
        who: str = "merge",
        sources: Sequence[str] | None = None,
    ) -> Merged:
        """Takes labels from elsewhere, such as a file, whatever was proposed.

        What is known already changes nothing, so a file can be merged again. Of two answers to
        one example the later one in the journal wins, also if the model has learned from the
        first: the next training uses the new one.

        Args:
            indices: Indices (n,), each once; not those that were ignored at the start.
            labels: Their labels, as `tell` takes them.
            who: Who gave them, for the journal.
            sources: Where each was read, (n,) strings: an answer whose source was merged before
                is known, even if a later answer has replaced it. None compares labels alone.

        Returns:
            How many were taken, were known already and replaced another answer.

        Raises:
            ValueError: If an index or label is out of range, or an example is not to be labelled.
                Nothing is taken then.
            OSError: If the answers cannot be written to the journal. Nothing is taken then.
        """
        indices = np.atleast_1d(np.asarray(indices, "int64"))
        labels = self.targets.check(labels, len(indices))
        outside = (indices < 0) | (indices >= len(self.x))
        unknown = indices[outside | np.isin(indices, self.ignored)]
        if unknown.size or len(np.unique(indices)) != len(indices):
            raise ValueError(
                f"Expected each index once, of examples in [0, {len(self.x)}) that were not "
                f"ignored from the start. Received: {unknown[:5].tolist() or 'repeated ones'}. "
                "Hint: these answers may be of another run."
            )
        marks = [None] * len(indices) if sources is None else [str(each) for each in sources]
        answered = self.labelling.is_known[indices]
        known = answered & ~differ(self.labels[indices], labels)
        known |= [(int(i), mark) in self.storage.sources for i, mark in zip(indices, marks)]
        changed = ~known & answered
        marks = [mark for mark, is_known in zip(marks, known) if not is_known]
        self._take("merge", indices[~known], labels[~known], who, marks)
        return Merged(int((~known & ~changed).sum()), int(known.sum()), int(changed.sum()))

    def skip(self, indices: np.ndarray, who: str = "skip") -> None:
        """Gives up proposed examples that nobody can label; they leave the pool.

        Args:
            indices: Examples (n,) out of the last proposal.
            who: Who gives them up, for the journal.

        Raises:
            ValueError: If one is not pending. Nothing is skipped then.
        """
        indices = np.atleast_1d(indices)
        self._check_pending(indices)
        self._take("skip", indices, None, who)

    def take_back(self, indices: np.ndarray, who: str = "take_back") -> None:
        """Takes back labels or skips of the last proposal, before the model has learned from them.

        Args:
            indices: Examples (n,) that were answered or skipped since `propose`.
            who: Who takes them back, for the journal.

        Raises:
            ValueError: If one was not, or the model is trained on it. Nothing changes then.
        """
        indices = np.atleast_1d(indices)
        open_still = self.proposed[
            (self.pool.acquired_at[self.proposed] < 0)
            & (self.labelling.rejected_at[self.proposed] < 0)
            & ~np.isin(self.proposed, self.pending)
        ]
        unknown = indices[~np.isin(indices, open_still)]
        if unknown.size:
            raise ValueError(
                f"Expected answers to the last proposal, {open_still.tolist()}. "
                f"Received: {unknown[:5].tolist()}. "
                "Hint: once the model has learned from an answer it stands."
            )
        self._take("take_back", indices, None, who)

    def _take(
        self,
        action: str,
        indices: np.ndarray,
        labels: np.ndarray | None,
        who: str,
        sources: Sequence[str | None] | None = None,
    ) -> None:
        """Writes answers to the journal, then to the pool."""
        if not len(indices):
            return
        none = [None] * len(indices)
        given = none if labels is None else labels.tolist()
        answers = [
            Answer(action, i, label, len(self.history), who, source)
            for i, label, source in zip(indices.tolist(), given, sources or none)
        ]
        self.storage.append(answers)
        for answer in answers:
            self._apply(answer)
        self.on_stage("tell")

    def _apply(self, answer: Answer) -> None:
        """Changes what is known by one answer."""
        index = np.array([answer.index])
        state = self.pool.acquired_at[answer.index]
        if answer.action == "take_back":
            self.pool.acquired_at[index] = UNLABELLED
            self.labelling.forget(index)
            self.pending = self.proposed[np.isin(self.proposed, [*self.pending, answer.index])]
            return
        if answer.action == "skip":
            self.pool.ignore(index)
        elif state >= 0:  # the model has learned from another label
            self.labelling.labels[index] = answer.label
        else:
            if state == IGNORED:
                self.pool.readmit(index)
            elif answer.action == "merge":
                self.labelling.forget(index)
            self.labelling.take(index, np.array([answer.label]))
        self.pending = self.pending[self.pending != answer.index]

    def _replay(self, answers: Sequence[Answer]) -> None:
        """Goes once more through what happened from the present state on."""
        for answer in answers:
            while len(self.history) < answer.round:
                self.train()
            wanted = answer.action in ("tell", "skip")
            if wanted and answer.index not in self.pending:
                self.propose()
            self._apply(answer)

    def _check_pending(self, indices: np.ndarray) -> None:
        unknown = indices[~np.isin(indices, self.pending)]
        if unknown.size:
            raise ValueError(
                f"Expected indices out of the last proposal {self.pending.tolist()}. "
                f"Received: {unknown[:5].tolist()}. Hint: call propose() and label those."
            )

    @property
    def _answered(self) -> np.ndarray:
        return np.flatnonzero(self.labelling.is_known | (self.labelling.rejected_at >= 0))

    def _settle(self) -> None:
        """Decides on the answers since the last decision; some may be asked again."""
        indices = self.labelling.unsettled(self.pool)
        if not len(indices):
            return
        probabilities = None
        temperature = self._temperature()
        if temperature is not None:
            mean = self._proposed_mean(indices)
            probabilities = apply_temperature(mean, temperature)
        again = self.labelling.settle(
            self.pool, indices, probabilities, len(self.history), self._seed(_FILTER)
        )
        self.pending = np.concatenate([self.pending, again])

    def _proposed_mean(self, indices: np.ndarray) -> np.ndarray:
        """Returns the probabilities (q, K) that the model gave to examples before their answers."""
        others = np.setdiff1d(indices, self.proposed)  # merged from elsewhere
        if others.size:
            mean = np.asarray(self._predict_rows(others, self._seed(_SCORE)).mean, "float64")
            self.proposed = np.concatenate([self.proposed, others])
            self.proposed_probabilities = np.concatenate([self.proposed_probabilities, mean])
        rows = [int(np.flatnonzero(self.proposed == i)[0]) for i in indices]
        return self.proposed_probabilities[rows]

    def _temperature(self) -> float | None:
        """Returns how to calibrate the model for the filter; None if nothing is filtered."""
        label_filter = self.labelling.filter
        if label_filter is None:
            return None
        if self.validation_data is None:
            return 1.0
        x, y = self.validation_data
        mean = self._predict(x, self._seed(_FILTER)).mean
        if label_filter.trusts_model and accuracy(y, mean) < TRUSTED_ACCURACY:
            return None
        return fit_temperature(y, mean)

    def _test_quarantine(self) -> None:
        indices = self.labelling.quarantined(self.pool)
        temperature = self._temperature() if len(indices) else None
        if temperature is not None:
            mean = self._predict_rows(indices, self._seed(_FILTER)).mean
            probabilities = apply_temperature(mean, temperature)
            self.labelling.test_again(
                self.pool, indices, probabilities, len(self.history), self._seed(_FILTER)
            )

    def train(self) -> Round:
        """Trains on every label told so far and evaluates; unanswered proposals lapse.

        Returns:
            The new row of the history.
        """
        start = time.perf_counter()
        self.lock()
        self._settle()
        self.pending = self.pending[:0]
        labelled = self.pool.labelled
        steps = self.refit(
            self.rows(labelled),
            self.targets.for_fit(self.labels[labelled]),
            self._for_fit(self.validation_data),
            self._seed(_TRAIN),
        )
        self.on_stage("fit")
        fitted = time.perf_counter()
        test, validation = self._evaluate(self.test_data), self._evaluate(self.validation_data)
        self.history.append(
            Round(
                round=len(self.history),
                num_labelled=len(labelled),
                num_acquired=self.pool.num_acquired,
                test_accuracy=test.accuracy,
                test_rmse=test.rmse,
                test_nll=test.nll,
                validation_accuracy=validation.accuracy,
                validation_nll=validation.nll,
                pool_uncertainty=self.pool_uncertainty,
                **self.labelling.close_round(self.pool),
                optimizer_steps=steps,
                fit_seconds=fitted - start,
                score_seconds=self.score_seconds,
                evaluate_seconds=time.perf_counter() - fitted,
            )
        )
        self._save("evaluate")
        return self.history[-1]

    def _candidates(self) -> np.ndarray:
        pool = self.pool.unlabelled
        if self.candidates is None or self.candidates >= len(pool):
            return pool
        rng = np.random.default_rng(self._seed(_CANDIDATES))
        return np.sort(rng.choice(pool, self.candidates, replace=False))

    def _predict(self, x: np.ndarray, seed: int, **kwargs) -> Prediction:
        return self.model.predict_uncertainty(x, num_samples=self.num_samples, seed=seed, **kwargs)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Returns the inputs (n, ...) of some examples, loaded if they are not in memory.

        Raises:
            ValueError: If a number in them is not finite; the examples are named.
        """
        indices = np.asarray(indices, "int64")
        return checked.finite_rows(np.asarray(self.x[indices]), indices)

    def _predict_rows(self, indices: np.ndarray, seed: int, **kwargs) -> Prediction:
        """Predicts examples, a bounded number of them in memory at a time."""
        parts = [
            self._predict(self.rows(indices[i : i + AT_ONCE]), seed, **kwargs)
            for i in range(0, max(len(indices), 1), AT_ONCE)
        ]
        return parts[0] if len(parts) == 1 else concatenate(parts)

    @property
    def _wants_targets(self) -> bool:
        return "targets" in inspect.signature(self.acquisition).parameters

    @property
    def _needs_samples(self) -> bool:
        return self.selector.needs_samples or self._wants_targets

    def _score(self, prediction) -> np.ndarray:
        """Scores the candidates; an acquisition with `targets` sees some of the pool too."""
        if not self._wants_targets:
            return self.acquisition(prediction)
        rng = np.random.default_rng(self._seed(_TARGETS))
        pool = self.pool.unlabelled
        chosen = np.sort(rng.choice(pool, min(NUM_TARGETS, len(pool)), replace=False))
        # The same seed, so the same functions as the candidates'.
        targets = self._predict_rows(chosen, self._seed(_SCORE), return_samples=True)
        return self.acquisition(prediction, targets=targets)

    def _evaluate(self, data: tuple[np.ndarray, np.ndarray] | None) -> Scores:
        if data is None:
            return Scores()
        x, y = data
        prediction = self.model.predict_uncertainty(
            x, num_samples=self.evaluation_samples, seed=self._seed(_EVALUATE)
        )
        return prediction.score(y)

    def _seed(self, purpose: int) -> int:
        """Derives the seed of one use in the round in progress."""
        state = np.random.SeedSequence([self.seed, len(self.history), purpose])
        return int(state.generate_state(1)[0] >> 1)  # 31 bits: fits every library's seed

    def _check_inputs(self, ignore: np.ndarray) -> None:
        """Looks at inputs that are in memory now; others are looked at when they are read."""
        if not isinstance(self.x, np.ndarray) or isinstance(self.x, np.memmap):
            return
        if self.x.dtype.kind == "f":
            indices = np.setdiff1d(np.arange(len(self.x)), ignore)
            for start in range(0, len(indices), AT_ONCE):
                self.rows(indices[start : start + AT_ONCE])

    def _for_fit(self, data: tuple[np.ndarray, np.ndarray] | None):
        return None if data is None else (data[0], self.targets.for_fit(data[1]))

    def get_state(self) -> State:
        """Returns all that decides how this learner goes on."""
        arrays = {
            "acquired_at": self.pool.acquired_at,
            "scores": self.scores,
            "pending": self.pending,
            "proposed": self.proposed,
            "proposed_probabilities": self.proposed_probabilities,
            **self.labelling.get_state(),
        }
        arrays |= {f"oracle_{name}": value for name, value in self._oracle_state().items()}
        arrays |= {f"weight_{i}": v.numpy() for i, v in enumerate(self.model.variables)}
        record = {
            "history": [dataclasses.asdict(row) for row in self.history],
            "tally": self.labelling.tally,
            "score_seconds": self.score_seconds,
            "pool_uncertainty": self.pool_uncertainty,
        }
        return State(arrays, record)

    def set_state(self, state: State) -> None:
        """Brings this learner to a state of one that was made with the same arguments."""
        arrays, record = state
        self.pool = Pool(arrays["acquired_at"])
        self.scores = arrays["scores"]
        self.pending = arrays["pending"]
        self.proposed = arrays["proposed"]
        self.proposed_probabilities = arrays["proposed_probabilities"]
        self.labelling.set_state(arrays, record["tally"])
        self.history = [Round(**row) for row in record["history"]]
        self.score_seconds = record["score_seconds"]
        self.pool_uncertainty = record["pool_uncertainty"]
        for i, variable in enumerate(self.model.variables):
            variable.assign(arrays[f"weight_{i}"])
        names = self._oracle_state()
        if names:
            self.oracle.set_state({name: arrays[f"oracle_{name}"] for name in names})

    def _oracle_state(self) -> dict[str, np.ndarray]:
        return self.oracle.get_state() if hasattr(self.oracle, "get_state") else {}

    def _identity(self) -> dict:
        """Returns what a resumed run must have in common with the one it continues."""
        initial = np.flatnonzero(self.pool.acquired_at == 0)
        return {
            "num_examples": len(self.x),
            "num_classes": self.num_classes,
            "initial": initial.tolist(),
            "ignored": digest(np.sort(self.ignored)),
            "acquisition": self.acquisition.__name__,
            "selector": repr(self.selector),
            "label_filter": repr(self.labelling.filter),
            "rejected": self.labelling.rejected,
            "query_size": self.query_size,
            "candidates": self.candidates,
            "num_samples": self.num_samples,
            "evaluation_samples": self.evaluation_samples,
            "reinit": self.refit.reinit,
            "steps": self.refit.steps,
            "max_steps": self.refit.max_steps,
            "batch_size": self.refit.batch_size,
            "seed": self.seed,
            "x": digest_rows(self.x),
            "y": digest([self.y, self.labels[initial]]),
            "validation_data": digest(self.validation_data),
            "test_data": digest(self.test_data),
            "network": digest_network(self.model),
            "oracle": digest_oracle(self.oracle),
        }

    def _save(self, stage: str) -> None:
        self.on_stage(stage)
        if self.storage.path is not None:
            self.storage.save(self.get_state())
            self.on_stage("checkpoint")
