"""What one round of active learning measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Round:
    """One row of a learner's history: the model trained with `num_acquired` bought labels.

    Attributes:
        round: 0 for the initial set, then 1, 2 ...
        num_labelled: Training examples, the initial set included.
        num_acquired: Training examples beyond the initial set.
        test_accuracy: Accuracy of the predictive mean on the test set, NaN without one.
        test_rmse: Root mean squared error of the predictive mean against one-hot labels, over
            examples and classes, NaN without a test set.
        test_nll: Its mean negative log likelihood in nats, NaN without a test set.
        validation_nll: The same on the validation set, NaN without one.
        optimizer_steps: Steps of the optimizer in this round.
        fit_seconds: Time to re-initialise and train.
        score_seconds: Time to score the candidates and choose this round's queries.
        evaluate_seconds: Time to evaluate.
    """

    round: int
    num_labelled: int
    num_acquired: int
    test_accuracy: float
    test_rmse: float
    test_nll: float
    validation_nll: float
    optimizer_steps: int
    fit_seconds: float
    score_seconds: float
    evaluate_seconds: float


def images_to_error(history: Sequence[Round], error: float) -> float | None:
    """Returns how many acquired examples it took to reach a test error.

    Args:
        history: Rounds in order.
        error: Test error to reach, e.g. 0.05.

    Returns:
        Acquired examples at the first crossing, linearly interpolated between rounds; None if
        the error was never reached.

    Example:

    >>> rounds = [Round(0, 20, 0, .8, *[1] * 7), Round(1, 30, 10, .9, *[1] * 7)]
    >>> round(images_to_error(rounds, 0.15), 6)
    5.0
    """
    x = np.array([row.num_acquired for row in history])
    y = np.array([1 - row.test_accuracy for row in history])
    reached = np.flatnonzero(y <= error)
    if not reached.size:
        return None
    i = reached[0]
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + (x[i] - x[i - 1]) * (y[i - 1] - error) / (y[i - 1] - y[i]))
