"""The pool: the status and the label of every example of a data set."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfp_bayes._plumbing.checkpoint import State
from tfp_bayes._plumbing.checks import check_integers

UNLABELLED = -1
IGNORED = -2

Indices = Sequence[int] | np.ndarray  # (n,) integers, rows of the data set


class Tally(NamedTuple):
    """Counts of the answers of the round in progress.

    Attributes:
        asked: Number of answers on which a decision was made.
        rejected: Number of those that the filter rejected.
        wrong: Number of those that differ from the true labels; 0 if these are unknown.
        wrong_rejected: Number of those that are wrong and were rejected.
    """

    asked: int = 0
    rejected: int = 0
    wrong: int = 0
    wrong_rejected: int = 0


class Pool:
    """The status and the label of every example, by its index in the data set.

    The pool is the only owner of labels and status. Change them only through its methods.

    Attributes:
        acquired_at: (N,) int64 status of each example: -1 in the pool, 0 in the initial set, r > 0
            labeled in round r, -2 ignored (held out, skipped or rejected).
        labels: (N, ...) answers, -1 or NaN for examples that have none. The model is trained on the
            answers of the labeled examples.
        scores: (N,) acquisition scores of the examples that were proposed, NaN for others.
        probability: (N,) predicted probability of each answer from before training on it, NaN if
            no filter has judged it.
        rejected_at: (N,) round in which an answer was last rejected, -1 if none was.
        num_asks: (N,) number of answers given to each example.
        proposed: (q,) indices of the last proposal, answered or not.
        proposed_probabilities: (q, ..., K) predictive means of these examples.
        pending: Indices of the last proposal that are not answered yet.
        tally: `Tally` of the round in progress.

    Args:
        acquired_at: Number of examples, which all start in the pool, or an array as above.
        labels: (N, ...) the values that stand for a missing label, -1 or NaN, in the shape and
            dtype of labels. None is for class numbers.
        truth: (N, ...) true labels, used to count wrong answers, or None.

    Raises:
        ValueError: If there are no examples, or an entry of `acquired_at` is below -2.

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
                f"{acquired_at.dtype} of shape {acquired_at.shape}. Hint: use Pool(len(x))."
            )
        self.acquired_at = acquired_at.astype("int64")
        size = len(self.acquired_at)
        if size == 0 or self.acquired_at.min() < IGNORED:
            raise ValueError(
                "Expected at least one example, and entries of at least -2, for `acquired_at`. "
                f"Received: {size} entries. Hint: use Pool(len(x))."
            )
        self.truth = truth
        self.labels = np.full(size, -1) if labels is None else labels.copy()
        self._none = self.labels[:1].copy()  # stands for a missing label
        self.scores = np.full(size, np.nan)
        self.probability = np.full(size, np.nan)
        self.rejected_at = np.full(size, -1)
        self.num_asks = np.zeros(size, "int64")
        self.proposed = self.pending = np.array([], dtype="int64")
        self.proposed_probabilities = np.zeros([0, 0])
        self.tally = Tally()

    def __len__(self) -> int:
        return len(self.acquired_at)

    # Examples by status.

    @property
    def unlabelled(self) -> np.ndarray:
        """Indices of the examples that can be acquired, ascending."""
        return np.flatnonzero(self.acquired_at == UNLABELLED)

    @property
    def labelled(self) -> np.ndarray:
        """Indices of the labeled examples, ascending."""
        return np.flatnonzero(self.acquired_at >= 0)

    @property
    def num_acquired(self) -> int:
        """Number of labeled examples without the initial set."""
        return int(np.count_nonzero(self.acquired_at > 0))

    @property
    def is_known(self) -> np.ndarray:
        """(N,) bool, which examples have an answer."""
        return are_known(self.labels)

    @property
    def unsettled(self) -> np.ndarray:
        """Indices of examples whose answer is neither accepted nor rejected yet, ascending."""
        return np.flatnonzero((self.acquired_at == UNLABELLED) & self.is_known)

    @property
    def rejected(self) -> np.ndarray:
        """Indices of examples that left the pool because their answer was rejected."""
        return np.flatnonzero((self.acquired_at == IGNORED) & (self.rejected_at >= 0))

    @property
    def last_round(self) -> int:
        """The last round in which an answer was accepted or rejected."""
        return int(max(self.acquired_at.max(), self.rejected_at.max()))

    # Changes of status.

    def acquire(self, indices: Indices, round: int) -> None:
        """Move examples from the pool to the labeled set of a round (0 is the initial set).

        Raises:
            ValueError: If an index is unknown, repeated or not in the pool. Nothing changes then.
        """
        check_integers(0, round=round)
        self.acquired_at[self._in_pool(indices)] = round

    def ignore(self, indices: Indices) -> None:
        """Remove examples from the pool without a label, such as a validation set.

        Raises:
            ValueError: If an index is unknown, repeated or not in the pool. Nothing changes then.
        """
        self.acquired_at[self._in_pool(indices)] = IGNORED

    def readmit(self, indices: Indices) -> None:
        """Return ignored examples to the pool.

        Raises:
            ValueError: If an example is not ignored. Nothing changes then.
        """
        indices = self._known(indices)
        others = indices[self.acquired_at[indices] != IGNORED]
        if others.size:
            raise ValueError(
                f"Expected ignored examples. Received: {others[:5].tolist()}, which are not. "
                "Hint: only examples that ignore() removed can be readmitted."
            )
        self.acquired_at[indices] = UNLABELLED

    # Questions and answers.

    def store(self, indices: Indices, labels: np.ndarray) -> None:
        """Store labels (n, ...) of the initial set, which no filter judges."""
        self.labels[indices] = labels

    def propose(self, indices: np.ndarray, scores: np.ndarray, probabilities: np.ndarray) -> None:
        """Make examples (q,) the proposal, and store their scores (q,) and probabilities."""
        self.pending = self.proposed = indices
        self.scores[indices] = scores
        self.proposed_probabilities = probabilities

    def add_to_proposal(self, indices: np.ndarray, probabilities: np.ndarray) -> None:
        """Add examples that were answered without being proposed, with their probabilities."""
        earlier = self.proposed_probabilities if len(self.proposed) else probabilities[:0]
        self.proposed = np.concatenate([self.proposed, indices])
        self.proposed_probabilities = np.concatenate([earlier, probabilities])

    def probabilities_of(self, indices: np.ndarray) -> np.ndarray:
        """Return the predictive means (n, ..., K) of examples (n,) of the proposal."""
        rows = [int(np.flatnonzero(self.proposed == i)[0]) for i in indices]
        return self.proposed_probabilities[rows]

    def lapse(self) -> None:
        """Withdraw the proposed examples that are not answered."""
        self.pending = self.pending[:0]

    def take(self, index: int, label: object) -> None:
        """Store an answer. `settle` decides on it, unless the example is labeled already."""
        self.pending = self.pending[self.pending != index]
        if self.acquired_at[index] < 0:
            if self.acquired_at[index] == IGNORED:
                self.readmit([index])
            else:
                self._forget(index)
            self.num_asks[index] += 1
        self.labels[index] = label

    def skip(self, index: int) -> None:
        """Remove a proposed example from the pool, because nobody can label it."""
        self.ignore([index])
        self.pending = self.pending[self.pending != index]

    def take_back(self, index: int) -> None:
        """Undo the answer to an example of the proposal, or its skip, so that it is open again."""
        self.acquired_at[index] = UNLABELLED
        self._forget(index)
        self.pending = self.proposed[np.isin(self.proposed, [*self.pending, index])]

    def note_probability(self, indices: np.ndarray, probability: np.ndarray) -> None:
        """Store the predicted probability (q,) of answers, from before training on them."""
        self.probability[indices] = probability

    def settle(self, indices: np.ndarray, believed: np.ndarray, round: int, again: bool) -> None:
        """Move answered examples into the labeled set or out of the pool.

        Args:
            indices: (q,) answered examples.
            believed: (q,) bool, which answers the filter accepts. A second answer is always
                accepted.
            round: Number of the round in progress.
            again: Whether to ask again about the other examples. If False, they leave the pool.
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
        """Accept answers that were rejected earlier, in the given round."""
        self.readmit(indices)
        self.acquire(indices, round)

    def close_round(self) -> dict[str, Any]:
        """Return the counts of the round as attributes of `Round`, and reset the tally."""
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
        """Return the state of the pool, without the true labels."""
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
        """Restore a state from `get_state`; other entries are ignored."""
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
        """Remove an answer on which no decision was made."""
        if are_known(self.labels[[index]])[0]:
            self.labels[index] = self._none[0]
            self.num_asks[index] -= 1

    def _known(self, indices: Indices) -> np.ndarray:
        """Return indices as an array, after checking that each is valid and occurs once."""
        indices = as_indices(indices)
        check_in_data(indices, len(self))
        check_unique(indices)
        return indices

    def _in_pool(self, indices: Indices) -> np.ndarray:
        indices = self._known(indices)
        taken = indices[self.acquired_at[indices] != UNLABELLED]
        if taken.size:
            raise ValueError(
                f"Expected indices in the pool. Received: {taken[:5].tolist()}, which are "
                "labeled or ignored already. Hint: choose from pool.unlabelled."
            )
        return indices


def as_indices(indices: Indices, name: str = "indices") -> np.ndarray:
    """Return indices as an int64 array (n,), or raise ValueError if they are not integers."""
    found = np.asarray(indices).reshape(-1)
    if found.size and found.dtype.kind not in "iu":
        raise ValueError(
            f"Expected integers for `{name}`. Received: {name} of dtype {found.dtype}. "
            "Hint: pass indices of the data set; for a mask, np.flatnonzero(mask)."
        )
    return found.astype("int64")


def check_in_data(indices: np.ndarray, num_examples: int, name: str = "indices") -> None:
    """Raise ValueError if an index is not one of the data set's N examples."""
    outside = indices[(indices < 0) | (indices >= num_examples)]
    if outside.size:
        raise ValueError(
            f"Expected indices in [0, {num_examples}) for `{name}`. "
            f"Received: {outside[:5].tolist()}. "
            "Hint: indices are rows of the data set, not positions in the pool."
        )


def check_unique(indices: np.ndarray) -> None:
    """Raise ValueError if an index is repeated."""
    num_different = len(np.unique(indices))
    if num_different != len(indices):
        raise ValueError(
            "Expected each index once. Received: "
            f"{len(indices)} indices, {num_different} different. Hint: drop the repeated ones."
        )


def are_known(labels: np.ndarray) -> np.ndarray:
    """Return (n,) bool, which labels (n, ...) are known: not NaN, or not -1 if integers."""
    known = ~np.isnan(labels) if labels.dtype.kind == "f" else labels != -1
    return known.all(tuple(range(1, known.ndim)))


def differ(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return (n,) bool, which labels differ."""
    return (labels != others).any(tuple(range(1, labels.ndim)))
