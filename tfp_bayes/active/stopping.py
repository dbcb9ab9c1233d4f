"""Criteria that decide when to stop acquiring labels.

A criterion is a function that takes the history so far and returns whether to stop. Combine
criteria with `any_of` and `all_of`. The common ones have a short form, such as "accuracy=0.95".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tfp_bayes.active.round import Round

Criterion = Callable[[Sequence[Round]], bool]


@dataclass(frozen=True)
class Budget:
    """Criterion that stops after `num_asked` answers, including rejected ones.

    Attributes:
        num_asked: Number of answers.
    """

    num_asked: int

    def __call__(self, history: Sequence[Round]) -> bool:
        """Return whether to stop."""
        return sum(row.num_asked for row in history) >= self.num_asked


@dataclass(frozen=True)
class Target:
    """Criterion that stops at a given validation accuracy, validation NLL, or both.

    Attributes:
        accuracy: Minimum validation accuracy, or None.
        nll: Maximum validation negative log likelihood in nats, or None.
    """

    accuracy: float | None = None
    nll: float | None = None

    def __call__(self, history: Sequence[Round]) -> bool:
        """Return whether to stop."""
        last = history[-1]
        reached = self.accuracy is None or last.validation_accuracy >= self.accuracy
        return reached and (self.nll is None or last.validation_nll <= self.nll)


@dataclass(frozen=True)
class Plateau:
    """Criterion that stops when the validation NLL has not improved on its best for some rounds.

    Attributes:
        patience: Number of rounds without an improvement.
        min_delta: Smallest decrease in nats that counts as an improvement.
    """

    patience: int = 5
    min_delta: float = 0.01

    def __call__(self, history: Sequence[Round]) -> bool:
        """Return whether to stop."""
        if len(history) <= self.patience:
            return False
        before = min(row.validation_nll for row in history[: -self.patience])
        since = min(row.validation_nll for row in history[-self.patience :])
        return since > before - self.min_delta


@dataclass(frozen=True)
class Certain:
    """Criterion that stops when the mean mutual information of the candidates is small enough.

    Attributes:
        mutual_information: Maximum mean mutual information in nats.
    """

    mutual_information: float

    def __call__(self, history: Sequence[Round]) -> bool:
        """Return whether to stop."""
        return history[-1].pool_uncertainty <= self.mutual_information  # False for NaN


def any_of(*criteria: Criterion) -> Criterion:
    """Return a criterion that stops when at least one of several does.

    Example:

    >>> stop = any_of(Budget(200), Target(accuracy=0.95))
    """
    return lambda history: any(criterion(history) for criterion in criteria)


def all_of(*criteria: Criterion) -> Criterion:
    """Return a criterion that stops when all of several do."""
    return lambda history: all(criterion(history) for criterion in criteria)


def get(stop: "Criterion | str | Sequence[Criterion | str] | None") -> Criterion | None:
    """Return the criterion for a short form, a criterion, or a sequence of these.

    Args:
        stop: "labels=200" (number of answers), "accuracy=0.95" or "nll=0.2" (on validation data),
            "plateau=5" (rounds without an improvement), "uncertainty=0.05" (mean mutual information
            of the candidates, in nats), a criterion, a sequence of these, which stops when one of
            them does, or None, which never stops.

    Raises:
        ValueError: If it is none of these.

    Example:

    >>> get("labels=200")
    Budget(num_asked=200)
    """
    if stop is None or callable(stop):
        return stop
    if isinstance(stop, str):
        return _from_text(stop)
    if not isinstance(stop, Sequence):
        raise _refused(stop)
    criteria = []
    for each in stop:
        criterion = get(each)
        if criterion is None:
            raise _refused(stop)
        criteria.append(criterion)
    return any_of(*criteria) if criteria else None


# For each short form: a function from its value to the criterion, the smallest and the largest
# allowed value, and whether the value must be a whole number.
_SHORT: dict[str, tuple[Callable[[float], Criterion], float, float, bool]] = {
    "labels": (lambda value: Budget(int(value)), 1, math.inf, True),
    "accuracy": (lambda value: Target(accuracy=value), 0, 1, False),
    "nll": (lambda value: Target(nll=value), -math.inf, math.inf, False),
    "plateau": (lambda value: Plateau(int(value)), 1, math.inf, True),
    "uncertainty": (Certain, 0, math.inf, False),
}
NAMES = tuple(_SHORT)


def _from_text(text: str) -> Criterion:
    name, _, value_text = text.partition("=")
    try:
        make, least, most, whole = _SHORT[name]
        value = float(value_text)
    except (KeyError, ValueError):
        raise _refused(text) from None
    if not (math.isfinite(value) and least <= value <= most) or (whole and value % 1):
        raise _refused(text)
    return make(value)


def _refused(stop: object) -> ValueError:
    return ValueError(
        f"Expected NAME=VALUE, where the name is one of {sorted(NAMES)} and can reach the value, "
        f"or a criterion, for `stop`. Received: stop={stop!r}. "
        "Hint: for example 'labels=200' or 'accuracy=0.95'."
    )
