"""When to stop buying labels.

A criterion is a function of the history so far that says whether it is enough. They combine by
`any_of` and `all_of`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tfp_bayes.active.round import Round

Criterion = Callable[[Sequence[Round]], bool]


class Budget(NamedTuple):
    """Stops once `num_asked` answers have been paid for, rejected ones included."""

    num_asked: int

    def __call__(self, history: Sequence[Round]) -> bool:
        """Returns whether to stop."""
        return sum(row.num_asked for row in history) >= self.num_asked


class Target(NamedTuple):
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


class Plateau(NamedTuple):
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


class Certain(NamedTuple):
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
