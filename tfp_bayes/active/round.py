"""The record of one round of active learning, and its one-line summary."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# What a learner does once a stage is over.
NEXT_STAGE = {
    "start": "training",
    "propose": "labelling",
    "tell": "training",
    "fit": "evaluating",
    "evaluate": "scoring the pool",
}


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

    def describe(self, num_rounds: int) -> str:
        """Returns one line for people: what is known of the test set, and what answers came to.

        Args:
            num_rounds: Rounds that are planned.

        Example:

        >>> Round(1, 30, 10, num_asked=10, num_rejected=3, num_wrong=2).describe(5)
        'round   1/5  acquired   10  rejected 3 of 10  wrong 2    0.0 s'
        """
        parts = [f"round {self.round:3d}/{num_rounds}", f"acquired {self.num_acquired:4d}"]
        if not math.isnan(self.test_accuracy):
            parts.append(f"test accuracy {self.test_accuracy:7.2%}")
        elif not math.isnan(self.test_rmse):
            parts.append(f"test RMSE {self.test_rmse:.4g}")
        if not math.isnan(self.test_nll):
            parts.append(f"test NLL {self.test_nll:.3f}")
        if self.num_rejected:
            parts.append(f"rejected {self.num_rejected} of {self.num_asked}")
        if self.num_wrong > 0:
            parts.append(f"wrong {self.num_wrong:.0f}")
        seconds = self.fit_seconds + self.score_seconds + self.evaluate_seconds
        return "  ".join([*parts, f"{seconds:5.1f} s"])


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


class Stages:
    """Whoever is told of each stage that is over.

    It knows no learner, so that one without a user is collected at once, and its lock with it.

    Args:
        listeners: Functions of the name of a stage.
    """

    def __init__(self, listeners: list[Callable[[str], None]]):
        self.listeners = listeners

    def __call__(self, stage: str) -> None:
        """Tells all of them."""
        for listener in list(self.listeners):
            listener(stage)


class Narration:
    """Says in words what a learner does once a stage is over.

    Args:
        num_rounds: Rounds that are planned.

    Attributes:
        round: The round in progress; set it for a learner that has a history.

    Example:

    >>> from tfp_bayes.active.round import Narration
    >>> narration = Narration(5)
    >>> narration("start"), narration("evaluate")
    ('round 0/5: training', 'round 1/5: scoring the pool')
    """

    def __init__(self, num_rounds: int):
        self.num_rounds = num_rounds
        self.round = 0

    def __call__(self, stage: str) -> str | None:
        """Returns what comes next, or None if the stage ends nothing that takes time."""
        if stage == "evaluate":
            self.round += 1
            if self.round > self.num_rounds:
                return "saving"
        if stage not in NEXT_STAGE:
            return None
        return f"round {self.round}/{self.num_rounds}: {NEXT_STAGE[stage]}"


class Progress:
    """Prints one line for each round and, on a terminal, the stage of the round in progress.

    Args:
        num_rounds: Rounds that are planned.
        num_complete: Rounds that are in the history.
        verbose: Whether to print anything.
    """

    def __init__(self, num_rounds: int, num_complete: int, verbose: bool):
        self.num_rounds = num_rounds
        self.verbose = verbose
        self.start = time.perf_counter()
        self.terminal = verbose and sys.stdout.isatty()
        self._narrate = Narration(num_rounds)
        self._narrate.round = num_complete
        if num_complete <= num_rounds:
            self._show(f"round {num_complete}/{num_rounds}")
        elif verbose:
            print(f"Round {num_complete - 1} is complete, {num_rounds} in all were asked for.")

    def on_stage(self, stage: str) -> None:
        """Shows what follows a stage."""
        words = self._narrate(stage)
        if words is not None:
            self._show(words)

    def _show(self, words: str) -> None:
        if self.terminal:
            seconds = time.perf_counter() - self.start
            print(f"\r\x1b[K{words} ... ({seconds:.0f} s)", end="", flush=True)

    def on_round(self, row: Round) -> None:
        """Prints a round that is complete."""
        self.close()
        if self.verbose:
            print(row.describe(self.num_rounds), flush=True)

    def close(self) -> None:
        """Removes what goes on from the terminal."""
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)
