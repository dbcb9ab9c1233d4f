"""Storage of a learner's answers, in the journal on disk and in the pool, and their judgment."""

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tfp_bayes._plumbing.checkpoint import State
from tfp_bayes._plumbing.run_files import Storage
from tfp_bayes._plumbing.seeds import RoundSeeds
from tfp_bayes.active.filters import TRUSTED_ACCURACY, Answers, Filter
from tfp_bayes.active.oracles import Oracle
from tfp_bayes.active.pool import IGNORED, Indices, Pool, as_indices, check_unique, differ
from tfp_bayes.active.refit import Trainer
from tfp_bayes.active.round import Round
from tfp_bayes.prediction import Prediction

Calibration = Callable[[np.ndarray], np.ndarray]  # from probabilities to calibrated ones


@dataclass(frozen=True)
class Answer:
    """One line of the journal.

    Attributes:
        action: "tell" (an answer to a proposal), "merge" (an answer from another source, such as a
            file), "skip" or "take_back".
        index: Index of the example.
        label: Its label, or None for "skip" and "take_back".
        round: Number of the round in progress; see `Round`.
        who: Who gave the answer, such as "oracle" or "page".
        source: Identifier of the record from which the answer was read, so that reading it again
            changes nothing.
        when: Time in ISO format.
    """

    action: str
    index: int
    label: int | float | list | None
    round: int
    who: str
    source: str | None = None
    when: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    )


class Merged(NamedTuple):
    """Counts of merged answers.

    Attributes:
        taken: Number of answers for examples that had none.
        known: Number of answers that changed nothing.
        changed: Number of answers that replaced a different one.
    """

    taken: int
    known: int
    changed: int


class Memory:
    """State of a learner: its history, and every answer, in the journal and in the pool.

    Args:
        trainer: Trainer whose weights and posterior are part of the state.
        oracle: Oracle whose state is included if it has one, or None.
        pool: Pool of all examples at the start. Examples that are ignored there are never labeled.
        storage: Files of the run.
        on_stored: Function that is called when answers have been stored.

    Attributes:
        history: One `Round` for each training.
        of_proposal: Attributes of `Round` that describe the last proposal.
    """

    def __init__(
        self,
        trainer: Trainer,
        oracle: Oracle | None,
        pool: Pool,
        storage: Storage,
        on_stored: Callable[[], None],
    ):
        self.trainer = trainer
        self.oracle: Any = oracle
        self.on_stored = on_stored
        self.pool = pool
        self.storage = storage
        self.never = np.flatnonzero(pool.acquired_at == IGNORED)  # must not be labeled
        self.history: list[Round] = []
        self.of_proposal: dict[str, Any] = {}
        self.note(float("nan"), 0.0)
        self._sources: set[tuple[int, str]] = set()  # (index, source) of answers read so far

    def load(self) -> tuple[bool, list[Answer]]:
        """Restore the state on disk; see `Storage.load`.

        Returns:
            Whether there is none, and the answers given after that state was saved.
        """
        state, before, since = self.storage.load()
        if state is not None:
            self.set_state(state)
        answers = [Answer(**each) for each in since]
        self._remember_sources([*(Answer(**each) for each in before), *answers])
        return state is None and not answers, answers

    def tell(self, indices: Indices, labels: np.ndarray, who: str) -> None:
        """Store labels of proposed examples: all of them, or some now and some later.

        Args:
            indices: Indices (n,) from the last proposal, each at most once.
            labels: (n, ...) labels in the form in which the pool holds them.
            who: Who gave the labels, for the journal.

        Raises:
            ValueError: If an index was not proposed or is answered already. Nothing is stored then.
            OSError: If the answers cannot be written to the journal. Nothing is stored then.
        """
        indices = as_indices(indices)
        self._check_pending(indices)
        self._record("tell", indices, labels.tolist(), who)

    def skip(self, indices: Indices, who: str) -> None:
        """Remove proposed examples that nobody can label from the pool.

        Args:
            indices: Indices (n,) from the last proposal.
            who: Who skips the examples, for the journal.

        Raises:
            ValueError: If an example is not pending. Nothing is skipped then.
            OSError: If the skips cannot be written to the journal. Nothing is skipped then.
        """
        indices = as_indices(indices)
        self._check_pending(indices)
        self._record("skip", indices, [None] * len(indices), who)

    def take_back(self, indices: Indices, who: str) -> None:
        """Undo labels or skips of the last proposal, before the model is trained on them.

        Args:
            indices: Indices (n,) of examples that were answered or skipped since the proposal.
            who: Who undoes them, for the journal.

        Raises:
            ValueError: If an example was neither answered nor skipped, or the model was trained on
                its answer. Nothing changes then.
            OSError: If this cannot be written to the journal. Nothing changes then.
        """
        indices = as_indices(indices)
        pool, proposed = self.pool, self.pool.proposed
        decided = (pool.acquired_at[proposed] >= 0) | (pool.rejected_at[proposed] >= 0)
        open_still = proposed[~decided & ~np.isin(proposed, pool.pending)]
        unknown = indices[~np.isin(indices, open_still)]
        if unknown.size:
            raise ValueError(
                f"Expected answers to the last proposal, {open_still.tolist()}. "
                f"Received: {unknown[:5].tolist()}. "
                "Hint: an answer is final once the model is trained on it."
            )
        self._record("take_back", indices, [None] * len(indices), who)

    def merge(
        self,
        indices: Indices,
        labels: np.ndarray,
        who: str,
        sources: Sequence[str] | None,
    ) -> Merged:
        """Store labels from another source, such as a file, whether proposed or not.

        Labels that are already known change nothing, so it is safe to merge a file again. Of two
        answers for one example, the later one in the journal replaces the earlier one, even if the
        model was trained on that; the next training then uses the new label.

        Args:
            indices: Indices (n,), each at most once, without those that were ignored at the start.
            labels: (n, ...) labels in the form in which the pool holds them.
            who: Who gave the labels, for the journal.
            sources: (n,) strings that identify the record of each label. A label whose record was
                merged before counts as known, even if a later answer has replaced it. None compares
                only the labels.

        Returns:
            How many labels were new, known already, or replaced a different label.

        Raises:
            ValueError: If an index is out of range or repeated, or belongs to an example that was
                ignored at the start. Nothing is stored then.
            OSError: If the answers cannot be written to the journal. Nothing is stored then.
        """
        indices = as_indices(indices)
        outside = (indices < 0) | (indices >= len(self.pool))
        unknown = indices[outside | np.isin(indices, self.never)]
        if unknown.size or len(np.unique(indices)) != len(indices):
            raise ValueError(
                f"Expected each index once, of examples in [0, {len(self.pool)}) that were not "
                f"ignored from the start. Received: {unknown[:5].tolist() or 'repeated ones'}. "
                "Hint: these answers may belong to another run."
            )
        marks: list[str | None] = [None] * len(indices)
        if sources is not None:
            marks = [str(each) for each in sources]
        answered = self.pool.is_known[indices]
        known = answered & ~differ(self.pool.labels[indices], labels)
        read = [(int(i), mark) in self._sources for i, mark in zip(indices, marks)]
        known |= np.array(read, bool)
        changed = ~known & answered
        marks = [mark for mark, is_known in zip(marks, known) if not is_known]
        self._record("merge", indices[~known], labels[~known].tolist(), who, marks)
        return Merged(int((~known & ~changed).sum()), int(known.sum()), int(changed.sum()))

    def note(self, pool_uncertainty: float, score_seconds: float) -> None:
        """Store the attributes of `Round` that describe a proposal."""
        self.of_proposal = {"pool_uncertainty": pool_uncertainty, "score_seconds": score_seconds}

    @property
    def oracle_state(self) -> dict[str, np.ndarray]:
        """State of the oracle, empty if its answers do not depend on earlier ones."""
        return getattr(self.oracle, "get_state", dict)()

    def get_state(self) -> State:
        """Return the state from which a learner can continue."""
        arrays, record = self.pool.get_state()
        arrays |= {f"oracle_{name}": value for name, value in self.oracle_state.items()}
        arrays |= self.trainer.get_state()
        record["history"] = [dataclasses.asdict(row) for row in self.history]
        return State(arrays, {**record, **self.of_proposal})

    def set_state(self, state: State) -> None:
        """Restore a state from `get_state`."""
        arrays, record = state
        self.pool.set_state(state)
        self.trainer.set_state(arrays)
        if names := self.oracle_state:
            self.oracle.set_state({name: arrays[f"oracle_{name}"] for name in names})
        self.history = [Round(**row) for row in record["history"]]
        self.note(record["pool_uncertainty"], record["score_seconds"])

    def apply(self, answer: Answer) -> None:
        """Apply one answer of the journal to the pool."""
        if answer.action == "take_back":
            self.pool.take_back(answer.index)
        elif answer.action == "skip":
            self.pool.skip(answer.index)
        else:
            self.pool.take(answer.index, answer.label)

    def _record(
        self,
        action: str,
        indices: np.ndarray,
        labels: list,
        who: str,
        sources: Sequence[str | None] | None = None,
    ) -> None:
        answers = [
            Answer(action, index, label, len(self.history), who, source)
            for index, label, source in zip(
                indices.tolist(), labels, sources or [None] * len(labels), strict=True
            )
        ]
        if not answers:
            return
        self.storage.append([dataclasses.asdict(answer) for answer in answers])
        self._remember_sources(answers)
        for answer in answers:
            self.apply(answer)
        self.on_stored()

    def _remember_sources(self, answers: Sequence[Answer]) -> None:
        self._sources |= {(each.index, each.source) for each in answers if each.source}

    def _check_pending(self, indices: np.ndarray) -> None:
        """Raise ValueError unless all examples are proposed, unanswered and listed once."""
        pool = self.pool
        check_unique(indices)
        given = np.flatnonzero(pool.is_known | (pool.rejected_at >= 0))
        answered = indices[np.isin(indices, np.setdiff1d(given, pool.pending))]
        if answered.size:
            raise ValueError(
                f"Expected indices without a label. Received: {answered[:5].tolist()}, answered "
                "already. Hint: take_back() undoes an answer until the model is trained on it."
            )
        unknown = indices[~np.isin(indices, pool.pending)]
        if unknown.size:
            raise ValueError(
                f"Expected indices from the last proposal, {pool.pending.tolist()}. "
                f"Received: {unknown[:5].tolist()}. Hint: call propose() and label its indices."
            )


class Judge:
    """Judge that applies a filter to the answers in a pool.

    Args:
        label_filter: Filter that decides which answers to keep. None keeps every answer.
        pool: Pool that holds the answers.
        predict: Function from indices (q,) and a seed to the `Prediction` of these examples.
        calibrate: Function from a seed and an accuracy to a function that calibrates such
            probabilities, or to None if the model does not reach that accuracy.
    """

    def __init__(
        self,
        label_filter: Filter | None,
        pool: Pool,
        predict: Callable[[np.ndarray, int], Prediction],
        calibrate: Callable[[int, float], Calibration | None],
    ):
        self.filter = label_filter
        self.pool = pool
        self.predict = predict
        self.calibrate = calibrate

    def settle(self, round: int, seeds: RoundSeeds) -> None:
        """Decide on all answers that are neither accepted nor rejected yet."""
        indices = self.pool.unsettled
        if not len(indices):
            return
        keep = self._judge(indices, seeds, lambda: self._proposed(indices, seeds.score))
        believed = np.ones(len(indices), bool) if keep is None else keep
        again = self.filter is not None and self.filter.rejected == "relabel"
        self.pool.settle(indices, believed, round, again)

    def test_quarantine(self, round: int, seeds: RoundSeeds) -> None:
        """Test rejected answers again, and accept those that the filter now keeps."""
        indices = self.pool.rejected
        if self.filter is None or self.filter.rejected != "quarantine" or not len(indices):
            return
        keep = self._judge(indices, seeds, lambda: self.predict(indices, seeds.filter).mean)
        if keep is not None:
            self.pool.restore(indices[keep], round)

    def _judge(
        self, indices: np.ndarray, seeds: RoundSeeds, predict: Callable[[], np.ndarray]
    ) -> np.ndarray | None:
        """Return (q,) bool, which answers the filter keeps, or None if it does not filter yet."""
        if self.filter is None:
            return None
        least = TRUSTED_ACCURACY if self.filter.trusts_model else 0.0
        calibration = self.calibrate(seeds.filter, least)
        if calibration is None:
            return None
        pool, labels = self.pool, self.pool.labels[indices]
        others = np.setdiff1d(np.flatnonzero(~np.isnan(pool.probability)), indices)
        answers = Answers(
            calibration(predict()),
            labels,
            pool.probability[others],
            None if pool.truth is None else labels != pool.truth[indices],
            seeds.filter,
        )
        pool.note_probability(indices, answers.probability)
        return self.filter.keep(answers)

    def _proposed(self, indices: np.ndarray, seed: int) -> np.ndarray:
        """Return the probabilities (q, K) that the model predicted before these answers."""
        others = np.setdiff1d(indices, self.pool.proposed)  # merged without being proposed
        if others.size:
            mean = self.predict(others, seed).mean
            self.pool.add_to_proposal(others, np.asarray(mean, "float64"))
        return self.pool.probabilities_of(indices)
