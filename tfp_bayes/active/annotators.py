"""Several annotators of one example, and the label to take from their answers."""

from collections.abc import Sequence

import numpy as np

from tfp_bayes.active.oracles import Oracle, ask, digest_oracle

MISSING = -1
_SMOOTHING = 0.01  # of confusion matrices, so that an annotator never seen wrong may be wrong


def majority(answers: np.ndarray, num_classes: int, seed: int = 0) -> np.ndarray:
    """Returns the most frequent answer for each example; each tie is broken at random by itself.

    Args:
        answers: (A, N) labels of A annotators, -1 where one gave none.
        num_classes: K.
        seed: Integer that decides ties.

    Returns:
        Labels (N,) int64.

    Raises:
        ValueError: If an example has no answer, or an answer is no class.

    Example:

    >>> majority(np.array([[0, 2], [1, 2], [1, -1]]), 3)
    array([1, 2])
    """
    counts = _counts(answers, num_classes)
    return _largest(counts, np.random.default_rng(seed).random(counts.shape))


def dawid_skene(
    answers: np.ndarray, num_classes: int, max_iterations: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Estimates labels and how each annotator confuses classes, by expectation maximisation.

    Better than the majority where some annotators are better than others, and there are enough
    examples to tell.

    Args:
        answers: (A, N) labels of A annotators, -1 where one gave none.
        num_classes: K.
        max_iterations: At most as many steps.

    Returns:
        Probabilities (N, K) of the labels, and confusion matrices (A, K, K): row k holds the
        probabilities of each answer where the label is k.

    Raises:
        ValueError: If an example has no answer, or an answer is no class.

    Reference:
        Dawid and Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM
        Algorithm", equations 2.3 to 2.5.

    Example:

    >>> good, bad = np.array([0, 1] * 20), np.array([0, 0, 1, 1] * 10)
    >>> p, confusion = dawid_skene(np.stack([good, good, bad]), 2)
    >>> bool((p.argmax(1) == good).all())
    True
    """
    answers = np.asarray(answers)
    counts = _counts(answers, num_classes)
    p = counts / counts.sum(1, keepdims=True)  # (N, K)
    given = np.eye(num_classes)[np.maximum(answers, 0)]  # (A, N, K)
    given *= (answers != MISSING)[..., None]
    for _ in range(max_iterations):
        confusion = np.einsum("nk,anj->akj", p, given) + _SMOOTHING
        confusion /= confusion.sum(2, keepdims=True)
        prior = p.mean(0)
        with np.errstate(divide="ignore"):
            log_p = np.log(prior) + np.einsum("anj,akj->nk", given, np.log(confusion))
        new = np.exp(log_p - log_p.max(1, keepdims=True))
        new /= new.sum(1, keepdims=True)
        converged = np.abs(new - p).max() < 1e-6
        p = new
        if converged:
            break
    return p, confusion


class Annotators:
    """Asks several oracles and takes the majority, or what Dawid and Skene's model makes of it.

    Args:
        oracles: A of them.
        num_classes: K.
        aggregation: "majority" or "dawid_skene", which learns from all answers so far.
        seed: Integer that decides ties.

    Attributes:
        answers: (A, M) so far, for "dawid_skene"; a learner's checkpoint holds them.
        asked: (M, 2) the example and the `again` of each. A question that is asked once more has
            its latest answers only.

    Raises:
        ValueError: If there is no oracle or `aggregation` is unknown.

    Example:

    >>> labels = np.arange(100) % 5
    >>> team = Annotators([NoisyOracle(labels, 0.3, seed=s) for s in range(5)], 5)
    >>> bool((team(np.arange(100)) == labels).mean() > 0.8)
    True
    """

    def __init__(
        self,
        oracles: Sequence[Oracle],
        num_classes: int,
        aggregation: str = "majority",
        seed: int = 0,
    ):
        if not oracles or aggregation not in ("majority", "dawid_skene"):
            raise ValueError(
                "Expected at least one oracle, and 'majority' or 'dawid_skene' for `aggregation`. "
                f"Received: {len(oracles)} oracles, aggregation={aggregation!r}. "
                "Hint: 'majority' needs no history."
            )
        self.oracles = list(oracles)
        self.num_classes = num_classes
        self.aggregation = aggregation
        self.seed = seed
        self.answers = np.zeros((len(oracles), 0), "int64")
        self.asked = np.zeros((0, 2), "int64")

    def __call__(self, indices: np.ndarray, again: int = 0) -> np.ndarray:
        """Returns one label (q,) for each example (q,)."""
        new = np.stack([ask(oracle, indices, again) for oracle in self.oracles])  # (A, q)
        # Drawn for each example, so that a label does not depend on what else is asked.
        seeds = [[self.seed, int(i)] for i in indices]
        ties = np.stack([np.random.default_rng(s).random(self.num_classes) for s in seeds])
        if self.aggregation == "majority":
            return _largest(_counts(new, self.num_classes), ties)
        indices = np.asarray(indices, "int64")
        earlier = ~(np.isin(self.asked[:, 0], indices) & (self.asked[:, 1] == again))
        questions = np.stack([indices, np.full(len(indices), again)], axis=1)
        self.asked = np.concatenate([self.asked[earlier], questions])
        self.answers = np.concatenate([self.answers[:, earlier], new], axis=1)
        return _largest(dawid_skene(self.answers, self.num_classes)[0][-len(indices) :], ties)

    def get_state(self) -> dict[str, np.ndarray]:
        """Returns what later answers depend on; nothing, where the majority decides."""
        if self.aggregation == "majority":
            return {}
        return {"answers": self.answers, "asked": self.asked}

    def set_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes what `get_state` gave."""
        for name in self.get_state():
            setattr(self, name, arrays[name])

    def get_config(self) -> dict:
        """Returns what answers depend on."""
        return {
            "oracles": [digest_oracle(oracle) for oracle in self.oracles],
            "num_classes": self.num_classes,
            "aggregation": self.aggregation,
            "seed": self.seed,
        }


def _largest(values: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Returns the position of the largest value in each row (N, K), of equal ones by `ties`."""
    tolerance = 1e-9 * np.abs(values).max(1, keepdims=True)
    equal = values >= values.max(1, keepdims=True) - tolerance
    return np.where(equal, ties, -1.0).argmax(1)


def _counts(answers: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns how many annotators gave each answer (N, K)."""
    answers = np.asarray(answers)
    valid = answers.ndim == 2 and answers.dtype.kind in "iu" and answers.size
    if not valid or answers.min() < MISSING or answers.max() >= num_classes:
        raise ValueError(
            f"Expected integers (A, N) from -1 to {num_classes - 1} for `answers`. "
            f"Received: {answers.dtype} array of shape {answers.shape}. Hint: -1 is no answer."
        )
    counts = np.stack([(answers == k).sum(0) for k in range(num_classes)], axis=1)
    if (counts.sum(1) == 0).any():
        raise ValueError(
            "Expected at least one answer for each example. Received: none for "
            f"{np.flatnonzero(counts.sum(1) == 0)[:5].tolist()}. Hint: leave these out."
        )
    return counts
