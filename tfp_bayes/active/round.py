"""What one round of active learning measured."""

from collections.abc import Sequence
from dataclasses import dataclass


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
        validation_accuracy: Accuracy on the validation set, NaN without one.
        validation_nll: Negative log likelihood there.
        pool_uncertainty: Mean mutual information of the candidates this round chose from, by the
            model before it was trained on them; nats, NaN in round 0.
        num_asked: Answers of this round.
        num_rejected: Those that the filter did not believe.
        num_wrong: Those that differ from the truth, NaN where that is not known.
        num_wrong_rejected: Those that are both.
        purity: Share of training labels that are true, the initial set included.
        optimizer_steps: Steps of the optimizer in this round.
        fit_seconds: Time to re-initialise and train.
        score_seconds: Time to score the candidates and choose this round's queries.
        evaluate_seconds: Time to evaluate.
    """

    round: int
    num_labelled: int
    num_acquired: int
    test_accuracy: float = float("nan")
    test_rmse: float = float("nan")
    test_nll: float = float("nan")
    validation_accuracy: float = float("nan")
    validation_nll: float = float("nan")
    pool_uncertainty: float = float("nan")
    num_asked: int = 0
    num_rejected: int = 0
    num_wrong: float = float("nan")
    num_wrong_rejected: float = float("nan")
    purity: float = float("nan")
    optimizer_steps: int = 0
    fit_seconds: float = 0.0
    score_seconds: float = 0.0
    evaluate_seconds: float = 0.0


def filter_quality(history: Sequence[Round]) -> dict[str, float]:
    """Returns how well wrong labels were rejected over all rounds.

    Args:
        history: Rounds whose truth was known.

    Returns:
        precision: share of rejected labels that were wrong; recall: share of wrong labels that
        were rejected; excess: (rejected - wrong) / wrong, above 0 where more were rejected than
        were wrong. NaN where there is nothing to divide by.

    Example:

    >>> rounds = [Round(1, 30, 10, num_rejected=3, num_wrong=2, num_wrong_rejected=1)]
    >>> filter_quality(rounds)
    {'precision': 0.3333333333333333, 'recall': 0.5, 'excess': 0.5}
    """
    rejected = sum(row.num_rejected for row in history)
    wrong = sum(row.num_wrong for row in history)
    both = sum(row.num_wrong_rejected for row in history)

    def ratio(a: float, b: float) -> float:
        return float(a / b) if b else float("nan")

    return {
        "precision": ratio(both, rejected),
        "recall": ratio(both, wrong),
        "excess": ratio(rejected - wrong, wrong),
    }
