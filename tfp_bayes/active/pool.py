"""Which examples have a label, and since when: one integer array."""

from collections.abc import Sequence

import numpy as np

from tfp_bayes._plumbing.checks import check_integers

UNLABELLED = -1
IGNORED = -2

Indices = Sequence[int] | np.ndarray  # (n,) integers, those of the data set


class Pool:
    """The state of every example of a data set, by its index in that data set.

    Attributes:
        acquired_at: (N,) int64: -1 in the pool, 0 in the initial set, r the round in which it
            was labelled, -2 ignored (held out, rejected).

    Args:
        acquired_at: Number of examples, all in the pool, or an array as above to start from.

    Raises:
        ValueError: If there is no example or an entry is below -2.

    Example:

    >>> pool = Pool(5)
    >>> pool.acquire([3, 1], round=0)
    >>> pool.labelled, pool.unlabelled
    (array([1, 3]), array([0, 2, 4]))
    """

    def __init__(self, acquired_at: int | Indices):
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
        if len(self.acquired_at) == 0 or self.acquired_at.min() < IGNORED:
            raise ValueError(
                "Expected at least one example, entries of -2 or more for `acquired_at`. "
                f"Received: {len(self.acquired_at)} entries. Hint: Pool(len(x))."
            )

    def __len__(self) -> int:
        return len(self.acquired_at)

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

    def _known(self, indices: Indices) -> np.ndarray:
        """Returns indices of examples, each once."""
        indices = np.asarray(indices).reshape(-1)
        if indices.size and indices.dtype.kind not in "iu":
            raise ValueError(
                "Expected integers for `indices`. "
                f"Received: indices of dtype {indices.dtype}. Hint: indices of the data set."
            )
        indices = indices.astype("int64")
        unknown = indices[(indices < 0) | (indices >= len(self))]
        if unknown.size:
            raise ValueError(
                f"Expected indices in [0, {len(self)}). Received: {unknown[:5].tolist()}. "
                "Hint: indices are those of the data set, not positions in the pool."
            )
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
