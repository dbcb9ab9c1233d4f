"""The answers of whoever labels: which are believed, and what becomes of the others."""

import numpy as np

from tfp_bayes.active.built_in import REJECTED
from tfp_bayes.active.filters import Answers, Filter
from tfp_bayes.active.pool import IGNORED, UNLABELLED, Pool
from tfp_bayes.prediction.targets import UNKNOWN, Targets

NO_ANSWERS = {"asked": 0, "rejected": 0, "wrong": 0, "wrong_rejected": 0}


class Labelling:
    """The label of every example, and what a filter made of it.

    Attributes:
        labels: (N, ...) answers, -1 or NaN where there is none, see `Targets`; those of the
            pool's labelled examples are trained on.
        probability: (N,) of each answer before it was trained on, NaN where not asked.
        rejected_at: (N,) round in which an answer was last rejected, -1 if none was.
        num_asks: (N,) answers given.
        tally: Of the round in progress: answers asked and rejected, and how many of both are
            wrong (where the truth is known).

    Args:
        size: N.
        label_filter: What decides, or None to believe everything.
        rejected: "skip" gives rejected examples up, "quarantine" tests them again in each round,
            "relabel" asks once more and believes the second answer.
        truth: (N, ...) true labels, to count errors, or None.
        targets: What a label is.
    """

    def __init__(
        self,
        size: int,
        label_filter: Filter | None,
        rejected: str,
        truth: np.ndarray | None,
        targets: Targets,
    ):
        if rejected not in REJECTED:
            raise ValueError(
                f"Expected one of {REJECTED} for `rejected`. Received: rejected={rejected!r}. "
                "Hint: 'relabel' asks again."
            )
        self.filter = label_filter
        self.rejected = rejected
        self.truth = truth if targets.has_truth else None
        self.targets = targets
        self.labels = targets.unknown(size)
        self.probability = np.full(size, np.nan)
        self.rejected_at = np.full(size, -1)
        self.num_asks = np.zeros(size, "int64")
        self.tally = dict(NO_ANSWERS)

    @property
    def is_known(self) -> np.ndarray:
        """(N,) bool, which examples have an answer."""
        return are_known(self.labels)

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns what is remembered of each example; `tally` is a state of its own."""
        return {
            "labels": self.labels,
            "probability": self.probability,
            "rejected_at": self.rejected_at,
            "num_asks": self.num_asks,
        }

    def set_state(self, arrays: dict[str, np.ndarray], tally: dict[str, int]) -> None:
        """Takes what `get_state` gave, which may stand among other arrays."""
        self.labels = arrays["labels"]
        self.probability = arrays["probability"]
        self.rejected_at = arrays["rejected_at"]
        self.num_asks = arrays["num_asks"]
        self.tally = tally

    def take(self, indices: np.ndarray, labels: np.ndarray) -> None:
        """Writes answers down; `settle` decides on them."""
        self.labels[indices] = labels
        self.num_asks[indices] += 1

    def forget(self, indices: np.ndarray) -> None:
        """Takes answers back that nothing was decided on."""
        given = indices[self.is_known[indices]]
        self.labels[given] = self.targets.unknown(len(given))
        self.num_asks[given] -= 1

    def unsettled(self, pool: Pool) -> np.ndarray:
        """Returns the indices of answers that nothing was decided on."""
        return np.flatnonzero((pool.acquired_at == UNLABELLED) & self.is_known)

    def quarantined(self, pool: Pool) -> np.ndarray:
        """Returns the indices of rejected answers that are to be tested again."""
        if self.rejected != "quarantine":
            return np.array([], "int64")
        return np.flatnonzero((pool.acquired_at == IGNORED) & (self.rejected_at >= 0))

    def settle(
        self,
        pool: Pool,
        indices: np.ndarray,
        probabilities: np.ndarray | None,
        round: int,
        seed: int,
    ) -> np.ndarray:
        """Moves answered examples into the labelled set or out of the pool.

        Args:
            pool: Changed.
            indices: (q,) answered examples.
            probabilities: (q, K) of their classes before training on them, calibrated; None
                believes every answer (no filter, or a model that is not good enough yet).
            round: The round in progress.
            seed: Integer.

        Returns:
            Indices to ask again.
        """
        keep = np.ones(len(indices), bool)
        if probabilities is not None:
            first = self.num_asks[indices] < 2  # a second answer is final
            keep = self._keep(indices, probabilities, seed) | ~first
        wrong = np.zeros(len(indices), bool)
        if self.truth is not None:
            wrong = differ(self.labels[indices], self.truth[indices])
        for name, which in (
            ("asked", np.ones(len(indices), bool)),
            ("rejected", ~keep),
            ("wrong", wrong),
            ("wrong_rejected", wrong & ~keep),
        ):
            self.tally[name] += int(which.sum())
        self.rejected_at[indices[~keep]] = round
        pool.acquire(indices[keep], round)
        if self.rejected == "relabel":
            self.labels[indices[~keep]] = self.targets.unknown(int((~keep).sum()))
            return indices[~keep]
        pool.ignore(indices[~keep])
        return indices[:0]

    def test_again(
        self, pool: Pool, indices: np.ndarray, probabilities: np.ndarray, round: int, seed: int
    ) -> None:
        """Takes those of the quarantined answers up that the model by now finds likely."""
        keep = self._keep(indices, probabilities, seed)
        pool.readmit(indices[keep])
        pool.acquire(indices[keep], round)

    def _keep(self, indices: np.ndarray, probabilities: np.ndarray, seed: int) -> np.ndarray:
        assert self.filter is not None  # or nobody asks for probabilities
        labels = self.labels[indices]
        others = np.setdiff1d(np.flatnonzero(~np.isnan(self.probability)), indices)
        wrong = None if self.truth is None else labels != self.truth[indices]
        answers = Answers(probabilities, labels, self.probability[others], wrong, seed)
        self.probability[indices] = answers.probability
        return self.filter.keep(answers)

    def close_round(self, pool: Pool) -> dict[str, float]:
        """Returns what the round's answers came to, as attributes of `Round`, and starts anew."""
        unknown = float("nan")
        labelled = pool.labelled
        result = {
            "num_asked": self.tally["asked"],
            "num_rejected": self.tally["rejected"],
            "num_wrong": unknown,
            "num_wrong_rejected": unknown,
            "purity": unknown,
        }
        if self.truth is not None:
            wrong = differ(self.labels[labelled], self.truth[labelled])
            result["num_wrong"] = float(self.tally["wrong"])
            result["num_wrong_rejected"] = float(self.tally["wrong_rejected"])
            result["purity"] = float(1 - np.mean(wrong))
        self.tally = dict(NO_ANSWERS)
        return result


def are_known(labels: np.ndarray) -> np.ndarray:
    """Returns (n,) bool, which of the labels (n, ...) are some."""
    known = ~np.isnan(labels) if labels.dtype.kind == "f" else labels != UNKNOWN
    return known.reshape(len(labels), -1).all(1)


def differ(labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns (n,) bool, which labels are not the same."""
    return (labels != others).reshape(len(labels), -1).any(1)
