"""The state of every example of a data set: in the pool or labelled, since when, and its label."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfp_bayes._plumbing.checkpoint import State
from tfp_bayes._plumbing.checks import check_integers

UNLABELLED = -1
IGNORED = -2

Indices = Sequence[int] | np.ndarray  # (n,) integers, those of the data set


class Tally(NamedTuple):
    """Outcome of the answers in the round in progress.

    Attributes:
        asked: Answers that were decided on.
        rejected: Those that the filter did not believe.
        wrong: Those that differ from the truth, as far as it is known.
        wrong_rejected: Those that are both.
    """

    asked: int = 0
    rejected: int = 0
    wrong: int = 0
    wrong_rejected: int = 0


class Pool:
    """The state of every example of a data set, by its index in that data set.

    It alone holds labels and status, and is changed by its methods only.

    Attributes:
        acquired_at: (N,) int64: -1 in the pool, 0 in the initial set, r the round in which it
            was labelled, -2 ignored (held out, skipped, rejected).
        labels: (N, ...) answers, -1 or NaN where there is none; those of the labelled examples are
            trained on.
        scores: (N,) acquisition scores of examples that were proposed, NaN of others.
        probability: (N,) of each answer before it was trained on, NaN where no filter judged it.
        rejected_at: (N,) round in which an answer was last rejected, -1 if none was.
        num_asks: (N,) answers given.
        proposed: (q,) the last proposal, answered or not.
        proposed_probabilities: (q, ..., K) what the model thought of it.
        pending: Those of it that are not answered yet.
        tally: Tally of the round in progress.

    Args:
        acquired_at: Number of examples, all in the pool, or an array as above to start from.
        labels: (N, ...) labels that stand for none, -1 or NaN, in the form that labels have; None
            for class numbers.
        truth: (N, ...) true labels, to count wrong answers, or None.

    Raises:
        ValueError: If there is no example or an entry is below -2.

    Example:

    >>> pool = Pool(5)
    >>> pool.acquire([3, 1], round=0)
    >>> pool.labelled, pool.unlabelled
    (array([1, 3]), array([0, 2, 4]))
    """

    def __init__(
        self,
        acquired_at: int | Indices,
        labels: np.ndarray | None = None,
        truth: np.ndarray | None = None,
    ):
        if np.ndim(acquired_at) == 0:
            check_integers(1, acquired_at=acquired_at)
            acquired_at = np.full(acquired_at, UNLABELLED)
        acquired_at = np.asarray(acquired_at)
        if acquired_at.ndim != 1 or acquired_at.dtype.kind not in "iu":
            raise ValueError(
                "Expected a number of examples or integers (N,) for `acquired_at`. Received: "
                f"{acquired_at.dtype} of shape {acquired_at.shape}. Hint: Pool(len(x))."
            )
        self.acquired_at = acquired_at.astype("int64")
        size = len(self.acquired_at)
        if size == 0 or self.acquired_at.min() < IGNORED:
            raise ValueError(
                "Expected at least one example, entries of -2 or more for `acquired_at`. "
                f"Received: {size} entries. Hint: Pool(len(x))."
            )
        self.truth = truth
        self.labels = np.full(size, -1) if labels is None else labels.copy()
        self._none = self.labels[:1].copy()  # the label that stands for none
        self.scores = np.full(size, np.nan)
        self.probability = np.full(size, np.nan)
        self.rejected_at = np.full(size, -1)
        self.num_asks = np.zeros(size, "int64")
        self.proposed = self.pending = np.array([], dtype="int64")
        self.proposed_probabilities = np.zeros([0, 0])
        self.tally = Tally()

    def __len__(self) -> int:
        return len(self.acquired_at)

    # What is in which state.

    @property
    def unlabelled(self) -> np.ndarray:
        """Indices that may still be acquired, ascending."""
        return np.flatnonzero(self.acquired_at == UNLABELLED)

    @property
    def labelled(self) -> np.ndarray:
        """Indices that have a label, ascending."""
        return np.flatnonzero(self.acquired_at >= 0)

    @property
    def num_acquired(self) -> int:
        """Number of labelled examples beyond the initial set."""
        return int(np.count_nonzero(self.acquired_at > 0))

    @property
    def is_known(self) -> np.ndarray:
        """(N,) bool, which examples have an answer."""
        return are_known(self.labels)

    @property
    def unsettled(self) -> np.ndarray:
        """Indices of answers that nothing was decided on, ascending."""
        return np.flatnonzero((self.acquired_at == UNLABELLED) & self.is_known)

    @property
    def rejected(self) -> np.ndarray:
        """Indices of examples that left the pool because their answer was not believed."""
        return np.flatnonzero((self.acquired_at == IGNORED) & (self.rejected_at >= 0))

    @property
    def last_round(self) -> int:
        """The last round in which an answer was decided on."""
        return int(max(self.acquired_at.max(), self.rejected_at.max()))

    # Moves.

    def acquire(self, indices: Indices, round: int) -> None:
        """Moves examples from the pool to the labelled set of a round (0: the initial set).

        Raises:
            ValueError: If an index is unknown, repeated or not in the pool; nothing changes.
        """
        check_integers(0, round=round)
        self.acquired_at[self._in_pool(indices)] = round

    def ignore(self, indices: Indices) -> None:
        """Takes examples out of the pool without a label, e.g. a validation set.

        Raises:
            ValueError: If an index is unknown, repeated or not in the pool; nothing changes.
        """
        self.acquired_at[self._in_pool(indices)] = IGNORED

    def readmit(self, indices: Indices) -> None:
        """Puts ignored examples back into the pool.

        Raises:
            ValueError: If an index is not ignored; nothing changes.
        """
        indices = self._known(indices)
        others = indices[self.acquired_at[indices] != IGNORED]
        if others.size:
            raise ValueError(
                f"Expected ignored examples. Received: {others[:5].tolist()}, which are not. "
                "Hint: only what ignore() took out can be put back."
            )
        self.acquired_at[indices] = UNLABELLED

    # Questions and answers.

    def store(self, indices: Indices, labels: np.ndarray) -> None:
        """Stores labels (n, ...) that nothing is to be decided on, those of the initial set."""
        self.labels[indices] = labels

    def propose(self, indices: np.ndarray, scores: np.ndarray, probabilities: np.ndarray) -> None:
        """Asks for labels of examples (q,), whose scores (q,) and probabilities are remembered."""
        self.pending = self.proposed = indices
        self.scores[indices] = scores
        self.proposed_probabilities = probabilities

    def add_to_proposal(self, indices: np.ndarray, probabilities: np.ndarray) -> None:
        """Remembers the same probabilities of examples that were answered without being asked."""
        earlier = self.proposed_probabilities if len(self.proposed) else probabilities[:0]
        self.proposed = np.concatenate([self.proposed, indices])
        self.proposed_probabilities = np.concatenate([earlier, probabilities])

    def probabilities_of(self, indices: np.ndarray) -> np.ndarray:
        """Returns what the model thought of examples (n,) of the proposal, (n, ..., K)."""
        rows = [int(np.flatnonzero(self.proposed == i)[0]) for i in indices]
        return self.proposed_probabilities[rows]

    def lapse(self) -> None:
        """Asks no longer for what has not been answered."""
        self.pending = self.pending[:0]

    def take(self, index: int, label: object) -> None:
        """Stores an answer; `settle` decides on it, unless the model has learned from another."""
        self.pending = self.pending[self.pending != index]
        if self.acquired_at[index] < 0:
            if self.acquired_at[index] == IGNORED:
                self.readmit([index])
            else:
                self._forget(index)
            self.num_asks[index] += 1
        self.labels[index] = label

    def skip(self, index: int) -> None:
        """Gives an example up."""
        self.ignore([index])
        self.pending = self.pending[self.pending != index]

    def take_back(self, index: int) -> None:
        """Asks again, as if an example of the proposal had neither been answered nor skipped."""
        self.acquired_at[index] = UNLABELLED
        self._forget(index)
        self.pending = self.proposed[np.isin(self.proposed, [*self.pending, index])]

    def note_probability(self, indices: np.ndarray, probability: np.ndarray) -> None:
        """Remembers how likely answers (q,) were before they were trained on."""
        self.probability[indices] = probability

    def settle(self, indices: np.ndarray, believed: np.ndarray, round: int, again: bool) -> None:
        """Moves answered examples into the labelled set or out of the pool.

        Args:
            indices: (q,) answered examples.
            believed: (q,) bool; a second answer is final, whatever it is.
            round: The round in progress.
            again: Whether the others are asked once more; they leave the pool otherwise.
        """
        keep = believed | (self.num_asks[indices] > 1)
        rejected = indices[~keep]
        wrong = np.zeros(len(indices), bool)
        if self.truth is not None:
            wrong = differ(self.labels[indices], self.truth[indices])
        counts = len(indices), len(rejected), wrong.sum(), (wrong & ~keep).sum()
        self.tally = Tally(*(a + int(b) for a, b in zip(self.tally, counts)))
        self.rejected_at[rejected] = round
        self.acquire(indices[keep], round)
        if again:
            self.labels[rejected] = self._none
            self.pending = np.concatenate([self.pending, rejected])
        else:
            self.ignore(rejected)

    def restore(self, indices: np.ndarray, round: int) -> None:
        """Takes up rejected answers that are believed by now."""
        self.readmit(indices)
        self.acquire(indices, round)

    def close_round(self) -> dict[str, Any]:
        """Returns what the round's answers came to, as attributes of `Round`, and starts anew."""
        tally, self.tally = self.tally, Tally()
        found: dict[str, Any] = {"num_asked": tally.asked, "num_rejected": tally.rejected}
        if self.truth is not None:
            labelled = self.labelled
            wrong = differ(self.labels[labelled], self.truth[labelled])
            found["num_wrong"] = float(tally.wrong)
            found["num_wrong_rejected"] = float(tally.wrong_rejected)
            found["purity"] = float(1 - np.mean(wrong))
        return found

    def get_state(self) -> State:
        """Returns all of it but the truth."""
        arrays = {
            "acquired_at": self.acquired_at,
            "labels": self.labels,
            "scores": self.scores,
            "probability": self.probability,
            "rejected_at": self.rejected_at,
            "num_asks": self.num_asks,
            "proposed": self.proposed,
            "proposed_probabilities": self.proposed_probabilities,
            "pending": self.pending,
        }
        copies = {name: array.copy() for name, array in arrays.items()}
        return State(copies, {"tally": self.tally._asdict()})

    def set_state(self, state: State) -> None:
        """Takes what `get_state` gave, which may stand among other things."""
        arrays = {name: array.copy() for name, array in state.arrays.items()}
        self.acquired_at = arrays["acquired_at"]
        self.labels = arrays["labels"]
        self.scores = arrays["scores"]
        self.probability = arrays["probability"]
        self.rejected_at = arrays["rejected_at"]
        self.num_asks = arrays["num_asks"]
        self.proposed = arrays["proposed"]
        self.proposed_probabilities = arrays["proposed_probabilities"]
        self.pending = arrays["pending"]
        self.tally = Tally(**state.record["tally"])

    def _forget(self, index: int) -> None:
        """Takes an answer back that nothing was decided on."""
        if are_known(self.labels[[index]])[0]:
            self.labels[index] = self._none[0]
            self.num_asks[index] -= 1

    def _known(self, indices: Indices) -> np.ndarray:
        """Returns indices of examples, each once."""
        indices = as_indices(indices)
        unknown = indices[(indices < 0) | (indices >= len(self))]
        if unknown.size:
            raise ValueError(
                f"Expected indices in [0, {len(self)}). Received: {unknown[:5].tolist()}. "
                "Hint: indices are those of the data set, not positions in the pool."
            )
        return self._each_once(indices)

    def _each_once(self, indices: np.ndarray) -> np.ndarray:
        if len(np.unique(indices)) != len(indices):
            raise ValueError(
                "Expected each index once. "
                f"Received: {len(indices)} indices, {len(np.unique(indices))} different. "
                "Hint: drop the repeated ones."
            )
        return indices

    def _in_pool(self, indices: Indices) -> np.ndarray:
        indices = self._known(indices)
        taken = indices[self.acquired_at[indices] != UNLABELLED]
        if taken.size:
            raise ValueError(
                f"Expected indices in the pool. Received: {taken[:5].tolist()}, which are "
                "labelled or ignored already. Hint: choose from pool.unlabelled."
            )
        return indices


def as_indices(indices: Indices, name: str = "indices") -> np.ndarray:
    """Returns indices (n,) int64, or raises ValueError where they are no integers."""
    found = np.asarray(indices).reshape(-1)
    if found.size and found.dtype.kind not in "iu":
        raise ValueError(
            f"Expected integers for `{name}`. Received: {name} of dtype {found.dtype}. "
            "Hint: indices of the data set; of a mask, np.flatnonzero(mask)."
        )
    return found.astype("int64")


def are_known(labels: np.ndarray) -> np.ndarray:
    """Returns (n,) bool, which of the labels (n, ...) are neither NaN nor, as integers, -1."""
    known = ~np.isnan(labels) if labels.dtype.kind == "f" else labels != -1
    return known.all(tuple(range(1, known.ndim)))


def differ(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns (n,) bool, which labels are not the same."""
    return (labels != others).any(tuple(range(1, labels.ndim)))
