"""The active learning loop: train, score the pool, ask for labels, repeat."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.checkpoint import State
from tfp_bayes._plumbing.checks import check_function, check_integers
from tfp_bayes._plumbing.digest import digest, digest_network, digest_rows
from tfp_bayes._plumbing.moved_arguments import Join, accept_moved, as_settings
from tfp_bayes._plumbing.run_files import Storage
from tfp_bayes._plumbing.seeds import RoundSeeds
from tfp_bayes.active import filters, stopping
from tfp_bayes.active import initial as initials
from tfp_bayes.active.built_in import MOVED
from tfp_bayes.active.oracles import ArrayOracle, Oracle, ask, digest_oracle
from tfp_bayes.active.pool import Indices, Pool
from tfp_bayes.active.query import Query
from tfp_bayes.active.refit import Evaluation, Refit
from tfp_bayes.active.round import Progress, Round, Stages
from tfp_bayes.active.rows import Rows, as_rows, check_finite, load_finite
from tfp_bayes.active.storage import Judge, Memory, Merged

_JOINS = {
    "label_filter": Join(filters.get, 'label_filter={"name": ..., "rejected": ...}'),
    "initial": Join(initials.join, "initial=(indices, labels)"),
}


class ActiveLearner:
    """Active learning: in each round, label the examples that the model learns most from.

    With labels `y` or an `oracle`, `run` does everything. If a person labels, `propose` returns the
    examples to label and `tell` takes the answers, all at once or one by one. Round 0 trains on the
    initial set; each later round acquires labels, retrains and evaluates. With `checkpoint`, a run
    that is killed at any point resumes to the same result, bit-equal on a CPU, and each answer is
    on disk when the call that took it returns.

    Args:
        model: A compiled `BayesianModel`, or any object with its `fit`, `predict_uncertainty` and
            `variables`. Any compiled Keras model if `refit` fits a posterior. Its weights are
            re-initialized in place, so nothing is traced again.
        x: Inputs (N, ...) of the whole data set. All indices refer to its rows. An array, or a
            source that need not fit into memory: an `np.memmap`, a finite `tf.data.Dataset`, a
            `keras.utils.PyDataset` or another class of `tfp_bayes.active.rows`.
        y: True labels, or None if they are unknown: (N,) class numbers for a softmax, zeros and
            ones (N,) or (N, K) for sigmoids, real numbers (N,) or (N, D) for likelihood "normal".
        initial: Indices of the initial set, whose labels are in `y`, or a tuple of indices and
            labels.
        query: Which examples to ask about: a `Query` or a dictionary of its arguments.
        refit: How to train in each round: a `Refit` or a dictionary of its arguments.
        evaluation: Data to evaluate on: an `Evaluation` or a dictionary of its arguments.
        oracle: Function that labels examples; see `tfp_bayes.active.oracles`. None uses `y`; if `y`
            is None too, a person labels through `tell`.
        label_filter: Name or `Filter` that decides which answers to keep and what to do with the
            others; see `tfp_bayes.active.filters`. None keeps all. With validation data, its
            probabilities are calibrated first, and a filter that relies on the model rejects
            nothing until the validation accuracy reaches 60 %.
        seed: Integer from which all random numbers follow.
        checkpoint: File that holds the state of the run, or None. If it exists, the run resumes
            from it; configuration, data, network and oracle must be the same. A journal beside it
            (`.answers.jsonl`) holds every answer, so a damaged checkpoint can be restored, and
            `.lock` ensures that only one process writes at a time.
        on_stage: Function that is called with the name of each stage when it ends: "start",
            "propose", "tell", "fit", "evaluate", "ask" (for an oracle whose answers depend on
            earlier ones), and "checkpoint" whenever the state has been written to the file.

    Attributes:
        predictor: The model, or a `Refitted` that wraps it if `refit` fits a posterior.
        pool: Labels and status of every example; see `Pool`.
        rows: Function from indices (n,) to inputs (n, ...), which it loads if necessary.

    Raises:
        ValueError: If an index or label is out of range, a required argument is missing, or the
            checkpoint belongs to another run.
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
    >>> learner = ActiveLearner(model, x, y, initial=range(4), query={"size": 2})
    >>> [row.num_acquired for row in learner.run(total_rounds=2)]
    [0, 2, 4]
    """

    @accept_moved(MOVED, _JOINS)
    def __init__(
        self,
        model: keras.Model,
        x: np.ndarray | Rows | tf.data.Dataset | keras.utils.PyDataset,
        y: np.ndarray | None = None,
        *,
        initial: Indices | tuple[Indices, np.ndarray],
        query: Query | dict | None = None,
        refit: Refit | dict | None = None,
        evaluation: Evaluation | dict | None = None,
        oracle: Oracle | None = None,
        label_filter: str | dict | filters.Filter | None = None,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        on_stage: Callable[[str], None] | None = None,
    ):
        check_integers(0, seed=seed)
        check_function(oracle, "oracle", "from indices to labels")
        check_function(on_stage, "on_stage", "of the name of a stage")
        self.model, self.seed = model, seed
        self.x = as_rows(x)
        self.rows = functools.partial(load_finite, self.x)
        self.query = as_settings(query, Query, "query")
        self.refit = as_settings(refit, Refit, "refit")
        self.filter = filters.get(label_filter)
        self._emit = Stages([] if on_stage is None else [on_stage])
        check_finite(self.x, self.query.ignore)
        indices, labels = initials.with_labels(initial, y)
        # Check what the outputs mean, and that everything else fits, before training.
        twice = self.rows(np.array([0, 0]))
        self.predictor = self.refit.make_predictor(model)
        self.targets = self.query.infer_targets(self.predictor, twice, labels if y is None else y)
        filters.check_suits(self.filter, self.targets, y is not None)
        self.y = None if y is None else self.targets.check(y, len(self.x))
        self.oracle = ArrayOracle(self.y) if oracle is None and self.y is not None else oracle
        evaluation = as_settings(evaluation, Evaluation, "evaluation")
        self.evaluation = evaluation.check(self.targets, self.query.num_samples)
        self.trainer = self.refit.bind(self.predictor, self.evaluation.for_fit(self.targets))
        none = self.targets.unknown(len(self.x))
        self.pool = Pool(len(self.x), none, self.y if self.targets.has_truth else None)
        self.pool.ignore(self.query.ignore)
        self.pool.acquire(indices, round=0)
        if labels is not None:
            self.pool.store(indices, self.targets.check(labels, len(indices)))
        elif self.y is not None:
            self.pool.store(indices, self.y[indices])
        self.candidate_scores = np.array([])  # of the last proposal
        predict = functools.partial(self.query.predict, self.predictor, self.rows)
        given = self.predictor, self.query.num_samples
        calibrate = functools.partial(self.evaluation.calibration, *given)
        self._judge = Judge(self.filter, self.pool, predict, calibrate)
        self._open(checkpoint)

    def _open(self, checkpoint: str | Path | None) -> None:
        """Resume from the files on disk, if there are any."""
        path = None if checkpoint is None else Path(checkpoint)
        self.storage = Storage(path, {} if path is None else self._identify())
        stored = functools.partial(self._emit, "tell")
        self._memory = Memory(self.trainer, self.oracle, self.pool, self.storage, stored)
        is_new, answers = self._memory.load()
        if is_new:
            self._save("start")
        for answer in answers:
            while len(self.history) < answer.round:
                self.train()
            if answer.action in ("tell", "skip") and answer.index not in self.pool.pending:
                self.propose()
            self._memory.apply(answer)

    def run(
        self,
        total_rounds: int,
        stop: stopping.Criterion | str | Sequence[stopping.Criterion | str] | None = None,
        on_round: Callable[[Round], None] | None = None,
        verbose: bool = False,
    ) -> list[Round]:
        """Run until `total_rounds` rounds of acquisition are complete, including earlier ones.

        Args:
            total_rounds: Total number of rounds. After 4 rounds, `run(10)` continues with the
                fifth, also in a new process; a second call does nothing. `step` runs one more.
            stop: Criterion to stop earlier: a function of the history, or a short form such as
                "labels=200"; see `tfp_bayes.active.stopping.get`.
            on_round: Function that is called with each new row of the history.
            verbose: Whether to print one line per round and, on a terminal, the current stage.

        Returns:
            The history: `total_rounds` + 1 rows, fewer if `stop` or an empty pool ended the run.

        Raises:
            ValueError: If there are neither labels `y` nor an oracle, or an argument is out of
                range.
        """
        check_integers(0, total_rounds=total_rounds)
        criterion = stopping.get(stop)
        progress = Progress(total_rounds, len(self.history), verbose)
        self._emit.listeners.insert(0, progress.on_stage)
        try:
            while len(self.history) <= total_rounds:
                if criterion is not None and self.history and criterion(self.history):
                    break
                if self.is_trained and not len(self.pool.unlabelled):
                    break
                row = self.step()
                progress.on_round(row)
                if on_round is not None:
                    on_round(row)
        finally:
            self._emit.listeners.remove(progress.on_stage)
            progress.close()
        return self.history

    def step(self) -> Round:
        """Run one round: propose, ask the oracle, train and evaluate. Return its row."""
        unanswered = self._settle()  # a killed run may have left answers without a decision
        if self.is_trained or len(unanswered):
            if self.oracle is None:
                raise ValueError(
                    "Expected labels `y` or an `oracle`. Received: y=None, oracle=None. "
                    "Hint: without them, use propose() and tell(indices, labels)."
                )
            unanswered = self.propose()
            while len(unanswered):  # a filter may ask for rejected labels again
                unanswered = self._ask(self.oracle, unanswered)
        return self.train()

    def lock(self) -> None:
        """Lock the checkpoint now instead of at the first answer.

        The lock lasts until this learner is garbage-collected. An OSError names another owner.
        """
        self.storage.acquire()

    def label_by_hand(self) -> None:
        """Remove the oracle, so that a person labels through `propose` and `tell`."""
        self.oracle = None

    @property
    def history(self) -> list[Round]:
        """One row for each training."""
        return self._memory.history

    @property
    def labels(self) -> np.ndarray:
        """(N, ...) the label given to each example, -1 or NaN if it has none."""
        return self.pool.labels

    @property
    def is_trained(self) -> bool:
        """Whether the model has been trained on every label known so far."""
        return len(self.history) > self.pool.last_round and not len(self.pool.unsettled)

    def propose(self) -> np.ndarray:
        """Return the indices to label next, highest score first.

        Until all of them are answered, further calls return those that are not. After that, the
        next call trains the model on the answers and then scores the pool again.

        Returns:
            Indices (q,) int64, fewer if the pool is smaller or part of a proposal is answered.

        Raises:
            ValueError: If no example is left in the pool, or a score is not finite.
        """
        if len(unanswered := self._settle()):
            return unanswered
        self.lock()
        if not self.is_trained:
            self.train()
        if not len(self.pool.unlabelled):
            raise ValueError(
                "Expected examples in the pool. Received: 0. Hint: every example that may be "
                "labeled already is; run fewer rounds."
            )
        start = time.perf_counter()
        self._judge.test_quarantine(len(self.history), self._seeds)
        proposal = self.query.propose(self.predictor, self.rows, self.pool, self._seeds)
        self.pool.propose(proposal.indices, proposal.scores, proposal.probabilities)
        self.candidate_scores = proposal.candidate_scores
        self._memory.note(proposal.uncertainty, time.perf_counter() - start)
        self._save("propose")
        return self.pool.pending.copy()

    def tell(self, indices: Indices, labels: ArrayLike, who: str = "tell") -> None:
        """Store labels of proposed examples: all of them, or some now and some later.

        Labels have the form of `y`: class numbers, zeros and ones, or real numbers, as the model
        predicts them. See `storage.Memory.tell`.
        """
        self._memory.tell(indices, self.targets.check(labels, np.size(indices)), who)

    def merge(
        self,
        indices: Indices,
        labels: ArrayLike,
        who: str = "merge",
        sources: Sequence[str] | None = None,
    ) -> Merged:
        """Store labels from another source, such as a file, whether proposed or not.

        It is safe to merge a file again: labels that are already known change nothing. See
        `storage.Memory.merge`.
        """
        labels = self.targets.check(labels, np.size(indices))
        return self._memory.merge(indices, labels, who, sources)

    def skip(self, indices: Indices, who: str = "skip") -> None:
        """Give up proposed examples that nobody can label. See `storage.Memory.skip`."""
        self._memory.skip(indices, who)

    def take_back(self, indices: Indices, who: str = "take_back") -> None:
        """Undo labels or skips of the last proposal. See `storage.Memory.take_back`."""
        self._memory.take_back(indices, who)

    def train(self) -> Round:
        """Train on every label so far and evaluate. Unanswered proposals lapse.

        Returns:
            The new row of the history.
        """
        start = time.perf_counter()
        self.lock()
        self._settle(lapse=True)
        labelled = self.pool.labelled
        labels = self.targets.for_fit(self.labels[labelled])
        steps = self.trainer(self.rows(labelled), labels, self._seeds.train)
        self._emit("fit")
        fitted = time.perf_counter()
        measured = self.evaluation.measure(self.predictor, self._seeds.evaluate)
        self.history.append(
            Round(
                round=len(self.history),
                num_labelled=len(labelled),
                num_acquired=self.pool.num_acquired,
                optimizer_steps=steps,
                fit_seconds=fitted - start,
                evaluate_seconds=time.perf_counter() - fitted,
                **self._memory.of_proposal,
                **self.pool.close_round(),
                **measured,
            )
        )
        self._save("evaluate")
        return self.history[-1]

    def _ask(self, oracle: Oracle, indices: np.ndarray) -> np.ndarray:
        """Ask an oracle, and return the indices that it is to be asked about once more."""
        again = self.pool.num_asks[indices] > 0
        for turn in np.unique(again):
            at = indices[again == turn]
            labels = ask(oracle, at, int(turn))
            if self._memory.oracle_state:
                self._save("ask")  # before `tell`, so the oracle never loses an answer
            self.tell(at, labels, who="oracle")
        return self._settle()

    def _settle(self, lapse: bool = False) -> np.ndarray:
        """Decide on answers once all are given, or now if `lapse`; return unanswered indices."""
        if lapse or not len(self.pool.pending):
            self._judge.settle(len(self.history), self._seeds)
        if lapse:
            self.pool.lapse()
        return self.pool.pending.copy()

    @property
    def _seeds(self) -> RoundSeeds:
        return RoundSeeds.of(self.seed, len(self.history))

    def get_state(self) -> State:
        """Return the state from which this learner can continue."""
        return self._memory.get_state()

    def set_state(self, state: State) -> None:
        """Restore the state of a learner that was constructed with the same arguments."""
        self._memory.set_state(state)

    def _identify(self) -> dict[str, Any]:
        """Return the description that a resumed run must share with the original one."""
        return {
            **self.query.identify(),
            **self.refit.identify(),
            **self.evaluation.identify(),
            **filters.identify(self.filter),
            "num_examples": len(self.x),
            "num_classes": self.targets.num_outputs,
            "initial": self.pool.labelled.tolist(),
            "seed": self.seed,
            "x": digest_rows(self.x),
            "y": digest([self.y, self.labels[self.pool.labelled]]),
            "network": digest_network(self.model),
            "oracle": digest_oracle(self.oracle),
        }

    def _save(self, stage: str) -> None:
        self._emit(stage)
        if self.storage.path is not None:
            self.storage.save(self.get_state())
            self._emit("checkpoint")
