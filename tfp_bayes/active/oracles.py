"""Whoever answers what the label of an example is.

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

from tfp_bayes._plumbing.digest import digest
from tfp_bayes._plumbing.files import write_png
from tfp_bayes.active.images import draw_image


class Oracle(Protocol):
    """Answers what the labels of some examples are.

    Two methods may be added: `get_config()`, what answers depend on, so that a run is not
    continued with another oracle; and `get_state()` with `set_state(arrays)`, dictionaries of
    arrays, if answers depend on earlier ones, so that a run continues with them.
    """

    def __call__(self, indices: np.ndarray, again: int = 0) -> np.ndarray:
        """Returns labels (q,), integers, of the examples (q,)."""


def ask(oracle: Oracle, indices: np.ndarray, again: int) -> np.ndarray:
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

    def __init__(self, labels: np.ndarray):
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
        labels: np.ndarray,
        rate: float | None = None,
        *,
        confusion: np.ndarray | None = None,
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
