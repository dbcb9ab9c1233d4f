"""Oracles, which answer what the label of an example is: arrays, people, several annotators.

An oracle is a function from indices (q,) to labels (q,). If it has an argument `again`, it is
called with `again=1` when the learner asks for a label a second time.
"""

import inspect
from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.checks import check_integers, check_labels
from tfp_bayes._plumbing.digest import digest
from tfp_bayes._plumbing.files import write_png
from tfp_bayes._plumbing.images import draw_image

MISSING = -1
_SMOOTHING = 0.01  # added to confusion counts, so no confusion has probability 0


class Oracle(Protocol):
    """A function that answers what the labels of some examples are.

    Three additions are optional. `get_config()` returns what the answers depend on, so that a run
    cannot be resumed with another oracle. An oracle whose answers depend on earlier ones needs
    `get_state()` and `set_state(arrays)`, which exchange a dictionary of arrays, to be resumed. An
    integer argument `again` is 1 if a label is asked for a second time.
    """

    def __call__(self, indices: np.ndarray, /) -> np.ndarray:
        """Return integer labels (q,) of the examples (q,)."""


def ask(oracle: Callable[..., np.ndarray], indices: np.ndarray, again: int) -> np.ndarray:
    """Return an oracle's labels (q,), passing `again` only if the oracle accepts it."""
    parameters = inspect.signature(oracle).parameters
    takes_again = "again" in parameters or any(
        each.kind is each.VAR_KEYWORD for each in parameters.values()
    )
    return np.asarray(oracle(indices, again=again) if takes_again else oracle(indices))


def digest_oracle(oracle: Oracle | None) -> str | None:
    """Return a string that identifies an oracle: its name and a digest of its `get_config()`."""
    if oracle is None:
        return None
    name = getattr(oracle, "__qualname__", type(oracle).__qualname__)
    config = oracle.get_config() if hasattr(oracle, "get_config") else None
    return f"{name} {digest(config)}"


class ArrayOracle:
    """An oracle that knows every label and is never wrong.

    Args:
        labels: (N, ...) labels of the whole data set.

    Example:

    >>> ArrayOracle([3, 1, 4])(np.array([2, 0]))
    array([4, 3])
    """

    def __init__(self, labels: ArrayLike):
        self.labels = np.asarray(labels)

    def __call__(self, indices: np.ndarray, again: int = 0) -> np.ndarray:
        """Return the labels (q, ...) of examples (q,)."""
        return self.labels[indices]

    def get_config(self) -> dict:
        """Return what the answers depend on."""
        return {"labels": self.labels}


class NoisyOracle:
    """An oracle that gives wrong answers for some examples, always the same ones.

    Args:
        labels: (N,) or (N, 1) true labels, integers in [0, K).
        rate: Share of labels that are replaced by a random other class.
        confusion: (K, K) confusion matrix, instead of `rate`. Row k holds the probability of each
            answer if the true label is k.
        seed: Integer that decides which answers are wrong.
        resample: Whether a second question draws a new answer instead of repeating the first.
        num_classes: Number of classes K. None uses the largest label plus 1.

    Raises:
        ValueError: If `labels`, `rate` or `confusion` are not as described.

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
        labels = np.atleast_1d(labels)
        num_classes = num_classes or int(labels.max()) + 1
        self.labels = check_labels(labels, len(labels), num_classes, "labels")
        if (rate is None) == (confusion is None):
            raise ValueError(
                "Expected either `rate` or `confusion`. Received: "
                f"rate={rate!r}, confusion={confusion!r}. Hint: for example NoisyOracle(y, 0.2)."
            )
        if confusion is None:
            if not isinstance(rate, Real) or not 0 <= rate <= 1:
                raise ValueError(
                    f"Expected `rate` in [0, 1]. Received: rate={rate!r}. Hint: such as 0.2."
                )
            others = np.full((num_classes, num_classes), rate / max(num_classes - 1, 1))
            np.fill_diagonal(others, 1 - rate)
            confusion = others
        self.confusion = np.asarray(confusion, "float64")
        valid = self.confusion.shape == (num_classes, num_classes) and self.confusion.min() >= 0
        if not valid or np.abs(self.confusion.sum(1) - 1).max() > 1e-6:
            raise ValueError(
                f"Expected probabilities ({num_classes}, {num_classes}) whose rows sum to 1 for "
                f"`confusion`. Received: shape {self.confusion.shape}. Hint: row k is for label k."
            )
        self.seed = seed
        self.resample = resample

    def __call__(self, indices: np.ndarray, again: int = 0) -> np.ndarray:
        """Return the labels (q,) of examples (q,), the same at each call with equal `again`."""
        draw = again if self.resample else 0
        # Draw for all examples, so an answer does not depend on which others are asked about.
        u = np.random.default_rng([self.seed, draw]).random(len(self.labels))[indices]
        cumulative = self.confusion[self.labels[indices]].cumsum(1)
        return np.minimum((u[:, None] >= cumulative).sum(1), len(self.confusion) - 1)

    def get_config(self) -> dict:
        """Return what the answers depend on."""
        return {
            "labels": self.labels,
            "confusion": self.confusion,
            "seed": self.seed,
            "resample": self.resample,
        }


class HumanOracle:
    """An oracle that shows images in a file and asks for their labels in the terminal.

    Args:
        x: (N, H, W, C) images.
        class_names: K different names. An answer is a name or, if no name is a number itself, the
            number of a class, counted from 0.
        folder: Folder to which the image file `ask.png` is written.
        read: Function that shows a prompt and returns what the person typed.

    Raises:
        ValueError: If two classes have the same name.

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
                f"Received: class_names={self.class_names}. Hint: add a number to equal names."
            )
        if not any(name.lstrip("-").isdecimal() for name in self.class_names):
            self.known |= {str(k): k for k in range(len(self.class_names))}
        self.path = Path(folder) / "ask.png"
        self.read = read

    def __call__(self, indices: np.ndarray, again: int = 0) -> np.ndarray:
        """Ask for the labels (q,), each until the answer is a class, and return them."""
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
    """Return the most frequent answer for each example, breaking each tie independently at random.

    Args:
        answers: (A, N) integer labels from A annotators, -1 if an annotator gave none.
        num_classes: Number of classes K.
        seed: Integer that decides ties.

    Returns:
        Labels (N,) int64.

    Raises:
        ValueError: If an example has no answer, or an answer is not in [-1, K).

    Example:

    >>> majority(np.array([[0, 2], [1, 2], [1, -1]]), 3)
    array([1, 2])
    """
    counts = _counts(answers, num_classes)
    return _largest(counts, np.random.default_rng(seed).random(counts.shape))


def dawid_skene(
    answers: np.ndarray, num_classes: int, max_iterations: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate labels and each annotator's confusion matrix by expectation maximization.

    This is better than the majority if some annotators are more reliable than others and there are
    enough examples to tell.

    Args:
        answers: (A, N) integer labels from A annotators, -1 if an annotator gave none.
        num_classes: Number of classes K.
        max_iterations: Maximum number of iterations.

    Returns:
        Probabilities (N, K) of the labels, and confusion matrices (A, K, K). Row k of a matrix
        holds the probability of each answer if the label is k.

    Raises:
        ValueError: If an example has no answer, an answer is not in [-1, K), or `max_iterations` is
            below 1.

    Reference:
        Dawid and Skene 1979, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM
        Algorithm", equations 2.3 to 2.5.

    Example:

    >>> good, bad = np.array([0, 1] * 20), np.array([0, 0, 1, 1] * 10)
    >>> p, confusion = dawid_skene(np.stack([good, good, bad]), 2)
    >>> bool((p.argmax(1) == good).all())
    True
    """
    check_integers(1, max_iterations=max_iterations)
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
    """An oracle that combines the answers of several oracles into one label for each example.

    Args:
        oracles: The A oracles to ask.
        num_classes: Number of classes K.
        aggregation: "majority" or "dawid_skene", which learns from all answers so far.
        seed: Integer that decides ties.

    Attributes:
        answers: (A, M) answers so far, for "dawid_skene". A learner's checkpoint contains them.
        asked: (M, 2) the example and the value of `again` of each question. If a question is
            repeated, only its latest answers are kept.

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
                "Hint: 'majority' is the default."
            )
        self.oracles = list(oracles)
        self.num_classes = num_classes
        self.aggregation = aggregation
        self.seed = seed
        self.answers = np.zeros((len(oracles), 0), "int64")
        self.asked = np.zeros((0, 2), "int64")

    def __call__(self, indices: np.ndarray, again: int = 0) -> np.ndarray:
        """Return one label for each example (q,), as an array (q,)."""
        new = np.stack([ask(oracle, indices, again) for oracle in self.oracles])  # (A, q)
        # Draw for each example, so a label does not depend on which others are asked about.
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
        """Return the answers that later labels depend on; an empty dictionary for "majority"."""
        if self.aggregation == "majority":
            return {}
        return {"answers": self.answers, "asked": self.asked}

    def set_state(self, arrays: dict[str, np.ndarray]) -> None:
        """Restore a state from `get_state`."""
        if self.get_state():
            self.answers, self.asked = arrays["answers"], arrays["asked"]

    def get_config(self) -> dict:
        """Return what the answers depend on."""
        return {
            "oracles": [digest_oracle(oracle) for oracle in self.oracles],
            "num_classes": self.num_classes,
            "aggregation": self.aggregation,
            "seed": self.seed,
        }


def _largest(values: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Return the position of the largest value in each row (N, K); `ties` (N, K) decides ties."""
    tolerance = 1e-9 * np.abs(values).max(1, keepdims=True)
    equal = values >= values.max(1, keepdims=True) - tolerance
    return np.where(equal, ties, -1.0).argmax(1)


def _counts(answers: np.ndarray, num_classes: int) -> np.ndarray:
    """Count how many annotators gave each answer, (N, K)."""
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
            f"{np.flatnonzero(counts.sum(1) == 0)[:5].tolist()}. Hint: leave these examples out."
        )
    return counts
