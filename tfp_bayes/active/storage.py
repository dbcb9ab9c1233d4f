"""The memory of a learner: answers in the journal on disk and in the pool."""

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
from tfp_bayes.active.pool import IGNORED, Indices, Pool, as_indices, differ
from tfp_bayes.active.refit import Trainer
from tfp_bayes.active.round import Round
from tfp_bayes.prediction import Prediction

Calibration = Callable[[np.ndarray], np.ndarray]  # of probabilities


@dataclass(frozen=True)
class Answer:
    """One line of the journal.

    Attributes:
        action: "tell" (an answer to a proposal), "merge" (one from a file, whatever was proposed),
            "skip" or "take_back".
        index: Which example.
        label: Its label, None where there is none.
        round: Round in progress, see `Round`.
        who: Who gave it, such as "oracle" or "page".
        source: What it was read from, so that reading that again changes nothing.
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
    """Outcome of a merge of answers.

    Attributes:
        taken: Answers to examples that had none.
        known: Answers that changed nothing.
        changed: Answers that replaced another one.
    """

    taken: int
    known: int
    changed: int


class Memory:
    """What a learner remembers: its rounds, and every answer, in the journal and in the pool.

    Args:
        trainer: Whose weights, and posterior, are part of the state.
        oracle: Whose memory is too, if it has one.
        pool: Pool of all examples, as it is at the start; what is ignored there is never labelled.
        storage: Where answers stay.
        on_stored: Called when answers have been stored.

    Attributes:
        history: A `Round` for each training.
        of_proposal: What `Round` tells of the last proposal.
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
        self.never = np.flatnonzero(pool.acquired_at == IGNORED)  # not to be labelled
        self.history: list[Round] = []
        self.of_proposal: dict[str, Any] = {}
        self.note(float("nan"), 0.0)
        self._sources: set[tuple[int, str]] = set()  # what was read from files

    def load(self) -> tuple[bool, list[Answer]]:
        """Takes the state that is on the disk, see `Storage.load`.

        Returns:
            Whether nothing is there, and the answers that were given since.
        """
        state, before, since = self.storage.load()
        if state is not None:
            self.set_state(state)
        answers = [Answer(**each) for each in since]
        self._remember_sources([*(Answer(**each) for each in before), *answers])
        return state is None and not answers, answers

    def tell(self, indices: Indices, labels: np.ndarray, who: str) -> None:
        """Stores labels of proposed examples: all of them, or some now and some later.

        Args:
            indices: Indices (n,) out of the last proposal, each once.
            labels: (n, ...) theirs, as the pool holds them.
            who: Who gave them, for the journal.

        Raises:
            ValueError: If an index was not proposed or is answered already. Nothing is taken then.
            OSError: If the answers cannot be written to the journal. Nothing is taken then.
        """
        indices = as_indices(indices)
        self._check_pending(indices)
        self._record("tell", indices, labels.tolist(), who)

    def skip(self, indices: Indices, who: str) -> None:
        """Gives up proposed examples that nobody can label; they leave the pool.

        Args:
            indices: Examples (n,) out of the last proposal.
            who: Who gives them up, for the journal.

        Raises:
            ValueError: If one is not pending. Nothing is skipped then.
            OSError: If that cannot be written to the journal. Nothing is skipped then.
        """
        indices = as_indices(indices)
        self._check_pending(indices)
        self._record("skip", indices, [None] * len(indices), who)

    def take_back(self, indices: Indices, who: str) -> None:
        """Takes back labels or skips of the last proposal, before the model has learned from them.

        Args:
            indices: Examples (n,) that were answered or skipped since the proposal.
            who: Who takes them back, for the journal.

        Raises:
            ValueError: If one was not, or the model is trained on it. Nothing changes then.
            OSError: If that cannot be written to the journal. Nothing changes then.
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
                "Hint: once the model has learned from an answer it stands."
            )
        self._record("take_back", indices, [None] * len(indices), who)

    def merge(
        self,
        indices: Indices,
        labels: np.ndarray,
        who: str,
        sources: Sequence[str] | None,
    ) -> Merged:
        """Stores labels from elsewhere, such as a file, whatever was proposed.

        What is known already changes nothing, so a file can be merged again. Of two answers to
        one example the later one in the journal wins, also if the model has learned from the
        first: the next training uses the new one.

        Args:
            indices: Indices (n,), each once; not those that were ignored at the start.
            labels: (n, ...) theirs, as the pool holds them.
            who: Who gave them, for the journal.
            sources: Where each was read, (n,) strings: an answer whose source was merged before
                is known, even if a later answer has replaced it. None compares labels alone.

        Returns:
            How many were taken, were known already and replaced another answer.

        Raises:
            ValueError: If an index is out of range, or an example is not to be labelled. Nothing
                is taken then.
            OSError: If the answers cannot be written to the journal. Nothing is taken then.
        """
        indices = as_indices(indices)
        outside = (indices < 0) | (indices >= len(self.pool))
        unknown = indices[outside | np.isin(indices, self.never)]
        if unknown.size or len(np.unique(indices)) != len(indices):
            raise ValueError(
                f"Expected each index once, of examples in [0, {len(self.pool)}) that were not "
                f"ignored from the start. Received: {unknown[:5].tolist() or 'repeated ones'}. "
                "Hint: these answers may be of another run."
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
        """Remembers what `Round` tells of a proposal."""
        self.of_proposal = {"pool_uncertainty": pool_uncertainty, "score_seconds": score_seconds}

    @property
    def oracle_state(self) -> dict[str, np.ndarray]:
        """What the oracle knows, empty if its answers do not depend on earlier ones."""
        return getattr(self.oracle, "get_state", dict)()

    def get_state(self) -> State:
        """Returns all that decides how a learner goes on."""
        arrays, record = self.pool.get_state()
        arrays |= {f"oracle_{name}": value for name, value in self.oracle_state.items()}
        arrays |= self.trainer.get_state()
        record["history"] = [dataclasses.asdict(row) for row in self.history]
        return State(arrays, {**record, **self.of_proposal})

    def set_state(self, state: State) -> None:
        """Takes what `get_state` gave."""
        arrays, record = state
        self.pool.set_state(state)
        self.trainer.set_state(arrays)
        if names := self.oracle_state:
            self.oracle.set_state({name: arrays[f"oracle_{name}"] for name in names})
        self.history = [Round(**row) for row in record["history"]]
        self.note(record["pool_uncertainty"], record["score_seconds"])

    def apply(self, answer: Answer) -> None:
        """Stores one answer of the journal in the pool."""
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
        """Raises ValueError unless examples are proposed and not answered, each once."""
        pool = self.pool
        if len(np.unique(indices)) != len(indices):
            raise ValueError(
                "Expected each index once. Received: "
                f"{len(indices)} indices, {len(np.unique(indices))} different. "
                "Hint: drop the repeated ones."
            )
        given = np.flatnonzero(pool.is_known | (pool.rejected_at >= 0))
        answered = indices[np.isin(indices, np.setdiff1d(given, pool.pending))]
        if answered.size:
            raise ValueError(
                f"Expected indices without a label. Received: {answered[:5].tolist()}, answered "
                "already. Hint: an answer cannot be changed."
            )
        unknown = indices[~np.isin(indices, pool.pending)]
        if unknown.size:
            raise ValueError(
                f"Expected indices out of the last proposal {pool.pending.tolist()}. "
                f"Received: {unknown[:5].tolist()}. Hint: call propose() and label those."
            )


class Judge:
    """Lets a filter decide on the answers in a pool.

    Args:
        label_filter: What decides; None believes everything.
        pool: Where the answers are.
        predict: Function of indices (q,) and a seed that predicts their classes.
        calibrate: From a seed and an accuracy to what calibrates such probabilities; to None, if
            the model is below that accuracy.
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
        """Decides on all answers that are not decided on."""
        indices = self.pool.unsettled
        if not len(indices):
            return
        keep = self._judge(indices, seeds, lambda: self._proposed(indices, seeds.score))
        believed = np.ones(len(indices), bool) if keep is None else keep
        again = self.filter is not None and self.filter.rejected == "relabel"
        self.pool.settle(indices, believed, round, again)

    def test_quarantine(self, round: int, seeds: RoundSeeds) -> None:
        """Takes up rejected answers that the filter believes by now."""
        indices = self.pool.rejected
        if self.filter is None or self.filter.rejected != "quarantine" or not len(indices):
            return
        keep = self._judge(indices, seeds, lambda: self.predict(indices, seeds.filter).mean)
        if keep is not None:
            self.pool.restore(indices[keep], round)

    def _judge(
        self, indices: np.ndarray, seeds: RoundSeeds, predict: Callable[[], np.ndarray]
    ) -> np.ndarray | None:
        """Returns (q,) bool, which answers the filter keeps; None if nothing is filtered yet."""
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
        """Returns the probabilities (q, K) that the model gave to examples before their answers."""
        others = np.setdiff1d(indices, self.pool.proposed)  # merged from elsewhere
        if others.size:
            mean = self.predict(others, seed).mean
            self.pool.add_to_proposal(others, np.asarray(mean, "float64"))
        return self.pool.probabilities_of(indices)
