"""When to stop buying labels.

A criterion is a function of the history so far that says whether it is enough. They combine by
`any_of` and `all_of`; the usual ones have a short form, such as "accuracy=0.95".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tfp_bayes.active.round import Round

Criterion = Callable[[Sequence[Round]], bool]


@dataclass(frozen=True)
class Budget:
    """Stops once `num_asked` answers have been paid for, rejected ones included."""

    num_asked: int

    def __call__(self, history: Sequence[Round]) -> bool:
        """Returns whether to stop."""
        return sum(row.num_asked for row in history) >= self.num_asked


@dataclass(frozen=True)
class Target:
    """Stops once the validation set is predicted well enough, by accuracy, NLL or both.

    Attributes:
        accuracy: Validation accuracy to reach, or None.
        nll: Validation negative log likelihood to come down to, nats, or None.
    """

    accuracy: float | None = None
    nll: float | None = None

    def __call__(self, history: Sequence[Round]) -> bool:
        """Returns whether to stop."""
        last = history[-1]
        reached = self.accuracy is None or last.validation_accuracy >= self.accuracy
        return reached and (self.nll is None or last.validation_nll <= self.nll)


@dataclass(frozen=True)
class Plateau:
    """Stops once the validation NLL has not improved on its best for some rounds.

    Attributes:
        patience: Rounds without an improvement.
        min_delta: Nats that count as one.
    """

    patience: int = 5
    min_delta: float = 0.01

    def __call__(self, history: Sequence[Round]) -> bool:
        """Returns whether to stop."""
        if len(history) <= self.patience:
            return False
        before = min(row.validation_nll for row in history[: -self.patience])
        since = min(row.validation_nll for row in history[-self.patience :])
        return since > before - self.min_delta


@dataclass(frozen=True)
class Certain:
    """Stops once the candidates of a round have a mean mutual information below a value.

    Attributes:
        mutual_information: Nats.
    """

    mutual_information: float

    def __call__(self, history: Sequence[Round]) -> bool:
        """Returns whether to stop."""
        return history[-1].pool_uncertainty <= self.mutual_information  # never, while unknown


def any_of(*criteria: Criterion) -> Criterion:
    """Stops once one criterion would.

    Example:

    >>> stop = any_of(Budget(200), Target(accuracy=0.95))
    """
    return lambda history: any(criterion(history) for criterion in criteria)


def all_of(*criteria: Criterion) -> Criterion:
    """Stops once all criteria would."""
    return lambda history: all(criterion(history) for criterion in criteria)


def get(stop: "Criterion | str | Sequence[Criterion | str] | None") -> Criterion | None:
    """Returns a criterion from its short form, from several of which one is enough, or itself.

    Args:
        stop: "labels=200" (answers paid for), "accuracy=0.95" or "nll=0.2" (on validation data),
            "plateau=5" (rounds without an improvement), "uncertainty=0.05" (nats, of the pool), a
            criterion, a sequence of these, or None, which never stops.

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


# How each short form is made, and the values it takes: the smallest, the largest, whole ones only.
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
        f"Expected NAME=VALUE with a name out of {sorted(NAMES)} and a value it can reach, or a "
        f"criterion, for `stop`. Received: stop={stop!r}. Hint: 'labels=200' or 'accuracy=0.95'."
    )
