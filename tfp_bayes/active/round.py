"""The record of one round of active learning, and progress messages."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# What a learner does next when a stage ends.
NEXT_STAGE = {
    "start": "training",
    "propose": "labeling",
    "tell": "training",
    "fit": "evaluating",
    "evaluate": "scoring the pool",
}


@dataclass(frozen=True)
class Round:
    """One row of a learner's history: the results of training with `num_acquired` acquired labels.

    Attributes:
        round: Number of the round: 0 for the initial set, then 1, 2, ...
        num_labelled: Number of training examples, including the initial set.
        num_acquired: Number of training examples without the initial set.
        test_accuracy: Accuracy of the predictive mean on the test set, NaN without one.
        test_rmse: Root mean squared error of the predictive mean on the test set, over examples and
            targets, or against one-hot labels over examples and classes. NaN without a test set.
        test_nll: Mean negative log likelihood on the test set in nats, NaN without one.
        validation_accuracy: Accuracy on the validation set, NaN without one.
        validation_nll: Mean negative log likelihood on the validation set in nats, NaN without one.
        pool_uncertainty: Mean mutual information of the candidates of this round, in nats, from the
            model that scored them. NaN in round 0.
        num_asked: Number of answers in this round.
        num_rejected: Number of those that the filter rejected.
        num_wrong: Number of those that differ from the true label, NaN if these are unknown.
        num_wrong_rejected: Number of those that are wrong and were rejected, NaN if unknown.
        purity: Share of training labels that are correct, including the initial set, NaN if
            unknown.
        optimizer_steps: Number of optimizer steps in this round.
        fit_seconds: Time to re-initialize and train the model, in seconds.
        score_seconds: Time to score the candidates and select the batch, in seconds.
        evaluate_seconds: Time to evaluate the model, in seconds.
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
        """Return a one-line summary: results on the test set, and counts of answers.

        Args:
            num_rounds: Number of rounds planned.

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
    """Return how well a filter rejected wrong labels, over all rounds.

    Args:
        history: Rounds in which the true labels were known.

    Returns:
        A dictionary with "precision", the share of rejected labels that were wrong; "recall", the
        share of wrong labels that were rejected; and "excess", (rejected - wrong) / wrong, which is
        positive if more labels were rejected than were wrong. NaN if the denominator is 0.

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
    """Listeners that are called at the end of each stage.

    This object holds no reference to the learner, so that an unused learner is garbage-collected
    at once and its lock is released.

    Args:
        listeners: Functions that take the name of a stage.
    """

    def __init__(self, listeners: list[Callable[[str], None]]):
        self.listeners = listeners

    def __call__(self, stage: str) -> None:
        """Call all listeners."""
        for listener in list(self.listeners):
            listener(stage)


class Narration:
    """Messages that say what a learner does next when a stage ends.

    Args:
        num_rounds: Number of rounds planned.

    Attributes:
        round: The round in progress. Set it if the learner already has a history.

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
        """Return what the learner does next, or None if there is nothing to announce."""
        if stage == "evaluate":
            self.round += 1
            if self.round > self.num_rounds:
                return "saving"
        if stage not in NEXT_STAGE:
            return None
        return f"round {self.round}/{self.num_rounds}: {NEXT_STAGE[stage]}"


class Progress:
    """Printer of one line for each round and, on a terminal, of the current stage.

    Args:
        num_rounds: Number of rounds planned.
        num_complete: Number of rounds in the history.
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
            print(f"Nothing to do: rounds complete {num_complete - 1}, requested {num_rounds}.")

    def on_stage(self, stage: str) -> None:
        """Show what follows a stage."""
        words = self._narrate(stage)
        if words is not None:
            self._show(words)

    def _show(self, words: str) -> None:
        if self.terminal:
            seconds = time.perf_counter() - self.start
            print(f"\r\x1b[K{words} ... ({seconds:.0f} s)", end="", flush=True)

    def on_round(self, row: Round) -> None:
        """Print the line of a complete round."""
        self.close()
        if self.verbose:
            print(row.describe(self.num_rounds), flush=True)

    def close(self) -> None:
        """Clear the current stage from the terminal."""
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)
