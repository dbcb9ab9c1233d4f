"""Whoever answers what the label of an example is: an array, a person, or several annotators.

An oracle is a function from indices (q,) to labels (q,). One that takes `again` is called with
`again=1` when a label is asked for a second time.
"""

import inspect
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.digest import digest
from tfp_bayes._plumbing.files import write_png
from tfp_bayes._plumbing.images import draw_image

MISSING = -1
_SMOOTHING = 0.01  # of confusion matrices, so that an annotator never seen wrong may be wrong


class Oracle(Protocol):
    """Answers what the labels of some examples are.

    Two methods may be added: `get_config()`, what answers depend on, so that a run is not
    continued with another oracle; and `get_state()` with `set_state(arrays)`, dictionaries of
    arrays, if answers depend on earlier ones, so that a run continues with them. So may an
    argument `again`, an integer.
    """

    def __call__(self, indices: np.ndarray, /) -> np.ndarray:
        """Returns labels (q,), integers, of the examples (q,)."""


def ask(oracle: Callable[..., np.ndarray], indices: np.ndarray, again: int) -> np.ndarray:
    """Returns an oracle's labels (q,); one that takes no `again` is asked as it is."""
    parameters = inspect.signature(oracle).parameters
    takes_again = "again" in parameters or any(
        each.kind is each.VAR_KEYWORD for each in parameters.values()
    )
    return np.asarray(oracle(indices, again=again) if takes_again else oracle(indices))


def digest_oracle(oracle: Oracle | None) -> str | None:
    """Returns what tells one oracle from another: its class and `get_config()`, if it has one."""
    if oracle is None:
        return None
    name = getattr(oracle, "__qualname__", type(oracle).__qualname__)
    config = oracle.get_config() if hasattr(oracle, "get_config") else None
    return f"{name} {digest(config)}"


class ArrayOracle:
    """Knows every label and is never wrong.

    Args:
        labels: (N,) integers.

    Example:

    >>> ArrayOracle([3, 1, 4])(np.array([2, 0]))
    array([4, 3])
    """

    def __init__(self, labels: ArrayLike):
        self.labels = np.asarray(labels)

    def __call__(self, indices: np.ndarray, again: int = 0) -> np.ndarray:
        """Returns the labels (q,) of examples (q,)."""
        return self.labels[indices]

    def get_config(self) -> dict:
        """Returns what answers depend on."""
        return {"labels": self.labels}


class NoisyOracle:
    """Knows every label and is wrong for some, always the same ones.

    Args:
        labels: (N,) true labels, integers in [0, K).
        rate: Share of labels that are replaced by one of the other classes, all equally likely.
        confusion: (K, K) instead of `rate`: row k holds the probabilities of each answer where
            the truth is k.
        seed: Integer that decides which are wrong.
        resample: Whether asking again may give another answer; it is the first one otherwise.
        num_classes: K; None takes the largest label.

    Raises:
        ValueError: If `rate` is not in [0, 1], or rows of `confusion` are not probabilities.

    Example:

    >>> labels = np.arange(1000) % 10
    >>> oracle = NoisyOracle(labels, 0.2)
    >>> round(float(np.mean(oracle(np.arange(1000)) != labels)), 1)
    0.2
    """

    def __init__(
        self,
        labels: ArrayLike,
        rate: float | None = None,
        *,
        confusion: ArrayLike | None = None,
        seed: int = 0,
        resample: bool = False,
        num_classes: int | None = None,
    ):
        self.labels = np.asarray(labels)
        num_classes = num_classes or int(self.labels.max()) + 1
        if (rate is None) == (confusion is None):
            raise ValueError(
                "Expected either `rate` or `confusion`. "
                f"Received: rate={rate!r}, confusion={confusion!r}. Hint: NoisyOracle(y, 0.2)."
            )
        if confusion is None:
            if not isinstance(rate, Real) or not 0 <= rate <= 1:
                raise ValueError(
                    f"Expected `rate` in [0, 1]. Received: rate={rate!r}. "
                    "Hint: 0.2 replaces one label in five."
                )
            others = np.full((num_classes, num_classes), rate / max(num_classes - 1, 1))
            np.fill_diagonal(others, 1 - rate)
            confusion = others
        self.confusion = np.asarray(confusion, "float64")
        valid = self.confusion.shape == (num_classes, num_classes) and self.confusion.min() >= 0
        if not valid or np.abs(self.confusion.sum(1) - 1).max() > 1e-6:
            raise ValueError(
                f"Expected probabilities ({num_classes}, {num_classes}) for `confusion`, rows that "
                f"sum to 1. Received: shape {self.confusion.shape}. Hint: row k is the truth."
            )
        self.seed = seed
        self.resample = resample

    def __call__(self, indices: np.ndarray, again: int = 0) -> np.ndarray:
        """Returns the labels (q,) of examples (q,), the same at each call with this `again`."""
        draw = again if self.resample else 0
        # Drawn for all examples, so that an answer does not depend on what else is asked.
        u = np.random.default_rng([self.seed, draw]).random(len(self.labels))[indices]
        cumulative = self.confusion[self.labels[indices]].cumsum(1)
        return np.minimum((u[:, None] >= cumulative).sum(1), len(self.confusion) - 1)

    def get_config(self) -> dict:
        """Returns what answers depend on."""
        return {
            "labels": self.labels,
            "confusion": self.confusion,
            "seed": self.seed,
            "resample": self.resample,
        }


class HumanOracle:
    """Shows images in a file and asks for their labels in the terminal.

    Args:
        x: (N, H, W, C) images.
        class_names: K different names; an answer is a name, or a number counted from 0 where no
            name is a number itself.
        folder: Where the picture `ask.png` is written.
        read: Called with a prompt, returns what was typed.

    Raises:
        ValueError: If two classes have one name.

    Example:

    >>> oracle = HumanOracle(np.zeros((3, 8, 8, 1)), ["cat", "dog"], tmp_path, lambda _: "dog")
    >>> oracle(np.array([2]))
    array([1])
    """

    def __init__(
        self,
        x: np.ndarray,
        class_names: Sequence[str],
        folder: str | Path = ".",
        read: Callable[[str], str] = input,
    ):
        self.x = x
        self.class_names = [str(name).strip() for name in class_names]
        self.known = {name: k for k, name in enumerate(self.class_names)}
        if len(self.known) < len(self.class_names):
            raise ValueError(
                "Expected different names for `class_names`. "
                f"Received: class_names={self.class_names}. Hint: number those that are equal."
            )
        if not any(name.lstrip("-").isdecimal() for name in self.class_names):
            self.known |= {str(k): k for k in range(len(self.class_names))}
        self.path = Path(folder) / "ask.png"
        self.read = read

    def __call__(self, indices: np.ndarray, again: int = 0) -> np.ndarray:
        """Returns the labels (q,) that were typed; asks until they are classes."""
        figure = Figure(figsize=(1.2 * len(indices), 1.6), layout="constrained")
        for number, (axes, i) in enumerate(
            zip(figure.subplots(1, len(indices), squeeze=False)[0], indices), start=1
        ):
            draw_image(axes, np.asarray(self.x[i]))
            axes.set_title(f"{number}", fontsize=9)
        write_png(self.path, figure)
        return np.array([self._ask(number) for number in range(1, len(indices) + 1)])

    def _ask(self, number: int) -> int:
        while True:
            answer = self.read(f"Image {number} in {self.path}, one of {self.class_names}: ")
            if answer.strip() in self.known:
                return self.known[answer.strip()]


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
        if self.get_state():
            self.answers, self.asked = arrays["answers"], arrays["asked"]

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
