"""Filters that reject labels which the model finds unlikely before it has trained on them."""

import copy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tfp_bayes._plumbing.configured import (
    Configured,
    check_finite,
    check_positive,
    get_configured,
)
from tfp_bayes.active.built_in import FILTERS, REJECTED

if TYPE_CHECKING:
    from tfp_bayes.prediction.targets import Targets

# Labels are not filtered by a model that is not better than this.
TRUSTED_ACCURACY = 0.6
# Before any answer: one label in ten is wrong, as sure as after ten answers.
PRIOR_WRONG, PRIOR_RIGHT = 1.0, 9.0


class Answers(NamedTuple):
    """The answers for one batch.

    Attributes:
        probabilities: (q, K) predictive means before training on the batch, calibrated.
        labels: (q,) answers.
        earlier: (M,) probability of each earlier answer, kept or not, before it was trained on.
        wrong: (q,) bool, whether the label is not the true one; None if the truth is not known.
        seed: Integer, for filters that draw.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    earlier: np.ndarray
    wrong: np.ndarray | None
    seed: int

    @property
    def probability(self) -> np.ndarray:
        """(q,) probability of each answer."""
        return self.probabilities[np.arange(len(self.labels)), self.labels]


class Filter(Configured):
    """Decides which answers of a batch are kept, and says what becomes of the others.

    Attributes:
        trusts_model: Whether it relies on the model, so that it has to wait until that is good.
        needs_truth: Whether it looks at the true labels.

    Args:
        rejected: What becomes of an example whose answer is not kept: "skip" gives it up,
            "quarantine" tests the answer again in each round, "relabel" asks once more and
            believes the second answer.

    Raises:
        ValueError: If `rejected` is none of these.
    """

    trusts_model = True
    needs_truth = False
    rejected = "skip"  # of a subclass whose constructor does not ask

    def __init__(self, rejected: str = "skip"):
        if rejected not in REJECTED:
            raise ValueError(
                f"Expected one of {REJECTED} for `rejected`. Received: rejected={rejected!r}. "
                "Hint: 'relabel' asks again."
            )
        self.rejected = rejected

    def keep(self, answers: Answers) -> np.ndarray:
        """Returns (q,) bool."""
        raise NotImplementedError

    def get_config(self) -> dict:
        """Returns the constructor's arguments, plain JSON."""
        return {"rejected": self.rejected}


def bayes_threshold(noise_rate: float, num_classes: int, cost_ratio: float = 1.0) -> float:
    """Returns the probability below which a label is more likely wrong than right.

    Args:
        noise_rate: Share of labels that are replaced by one of the other classes at random.
        num_classes: K.
        cost_ratio: What keeping a wrong label costs, in units of rejecting a right one.

    Returns:
        tau: p / (1 - p) = cost_ratio noise_rate / ((K - 1) (1 - noise_rate)) there.

    Example:

    >>> round(bayes_threshold(0.2, 10), 3)
    0.027
    """
    odds = cost_ratio * noise_rate / ((num_classes - 1) * (1 - noise_rate))
    return odds / (1 + odds)


def estimate_noise_rate(probability: np.ndarray, num_classes: int) -> float:
    """Returns the share of wrong labels, from how likely the model finds each answer.

    Expectation maximisation under a Beta(1, 9) prior: an answer of probability p is wrong with
    odds r (1 - p) / ((K - 1) (1 - r) p), where the rate r is what is estimated.

    Args:
        probability: (M,) of each answer, by a model that has not learned from it.
        num_classes: K.

    Example:

    >>> round(estimate_noise_rate(np.array([1e-6] * 20 + [0.9] * 80), 10), 2)
    0.19
    """
    rate = PRIOR_WRONG / (PRIOR_WRONG + PRIOR_RIGHT)
    for _ in range(1000):
        wrong = rate * (1 - probability) / (num_classes - 1)
        right = (1 - rate) * probability
        total = np.maximum(wrong + right, np.finfo("float64").tiny)
        new = (PRIOR_WRONG + (wrong / total).sum()) / (PRIOR_WRONG + PRIOR_RIGHT + len(probability))
        if abs(new - rate) < 1e-9:
            break
        rate = new
    return float(new)


class StaticThreshold(Filter):
    """Keeps answers of probability `tau` and more.

    Args:
        tau: Threshold in [0, 1]; under ten classes and one wrong label in five, 0.027 makes the
            fewest errors, see `bayes_threshold`.
        rejected: See `Filter`.
    """

    def __init__(self, tau: float = 0.1, rejected: str = "skip"):
        super().__init__(rejected)
        check_finite(tau=tau)
        if not 0 <= tau <= 1:
            raise ValueError(
                f"Expected `tau` in [0, 1]. Received: tau={tau!r}. Hint: it is a probability."
            )
        self.tau = float(tau)

    def keep(self, answers: Answers) -> np.ndarray:
        """Returns (q,) bool."""
        return answers.probability >= self.tau

    def get_config(self) -> dict:
        """Returns the constructor's arguments, plain JSON."""
        return {"tau": self.tau, **super().get_config()}


class BayesThreshold(Filter):
    """Keeps answers that are more likely right than wrong, at a known rate of wrong labels.

    Args:
        noise_rate: Share of wrong labels, in [0, 1).
        cost_ratio: What keeping a wrong label costs, in units of rejecting a right one.
        rejected: See `Filter`.

    Reference:
        Frenay and Verleysen 2014, "Classification in the Presence of Label Noise", section IV.
    """

    def __init__(self, noise_rate: float = 0.2, cost_ratio: float = 1.0, rejected: str = "skip"):
        super().__init__(rejected)
        self.noise_rate = _checked_rate(noise_rate)
        check_positive(cost_ratio=cost_ratio)
        self.cost_ratio = float(cost_ratio)

    def keep(self, answers: Answers) -> np.ndarray:
        """Returns (q,) bool."""
        num_classes = answers.probabilities.shape[1]
        tau = bayes_threshold(self.noise_rate, num_classes, self.cost_ratio)
        return answers.probability >= tau

    def get_config(self) -> dict:
        """Returns the constructor's arguments, plain JSON."""
        return {
            "noise_rate": self.noise_rate,
            "cost_ratio": self.cost_ratio,
            **super().get_config(),
        }


class DynamicThreshold(Filter):
    """Keeps answers that are likely enough to be right, at a rate estimated from all answers.

    The default: nothing to tune, and with clean labels hardly anything is rejected.

    Args:
        cost_ratio: What keeping a wrong label costs, in units of rejecting a right one. Under 2
            about as many answers are rejected as are wrong (figure 6 in examples/study).
        rejected: See `Filter`.
    """

    def __init__(self, cost_ratio: float = 2.0, rejected: str = "skip"):
        super().__init__(rejected)
        check_positive(cost_ratio=cost_ratio)
        self.cost_ratio = float(cost_ratio)

    def keep(self, answers: Answers) -> np.ndarray:
        """Returns (q,) bool."""
        num_classes = answers.probabilities.shape[1]
        known = np.concatenate([answers.earlier, answers.probability])
        rate = estimate_noise_rate(known, num_classes)
        return answers.probability >= bayes_threshold(rate, num_classes, self.cost_ratio)

    def get_config(self) -> dict:
        """Returns the constructor's arguments, plain JSON."""
        return {"cost_ratio": self.cost_ratio, **super().get_config()}


class BudgetThreshold(Filter):
    """Rejects the least likely answers, about as many as are wrong.

    The threshold is the largest under which no more than (1 + kappa) noise_rate q rejections are
    to be expected, given what the model predicts for the batch.

    Args:
        noise_rate: Share of wrong labels, in [0, 1).
        kappa: Share of rejections above that which is accepted.
        rejected: See `Filter`.
    """

    def __init__(self, noise_rate: float = 0.2, kappa: float = 0.2, rejected: str = "skip"):
        super().__init__(rejected)
        self.noise_rate = _checked_rate(noise_rate)
        check_finite(kappa=kappa)
        self.kappa = float(kappa)

    def keep(self, answers: Answers) -> np.ndarray:
        """Returns (q,) bool."""
        p = answers.probabilities
        num_classes = p.shape[1]
        # The probability that the answer is k, and that it is then rejected at tau: p_k < tau.
        answer = (1 - self.noise_rate) * p + self.noise_rate * (1 - p) / (num_classes - 1)
        order = np.argsort(p, axis=None)
        expected = np.cumsum(answer.reshape(-1)[order])
        budget = (1 + self.kappa) * self.noise_rate * len(p)
        count = np.searchsorted(expected, budget, side="right")
        levels = np.append(p.reshape(-1)[order], np.inf)
        return answers.probability >= levels[count]

    def get_config(self) -> dict:
        """Returns the constructor's arguments, plain JSON."""
        return {"noise_rate": self.noise_rate, "kappa": self.kappa, **super().get_config()}


class OracleFilter(Filter):
    """Rejects exactly the wrong labels: the best there can be, where the truth is known."""

    trusts_model = False
    needs_truth = True

    def keep(self, answers: Answers) -> np.ndarray:
        """Returns (q,) bool."""
        if answers.wrong is None:
            raise ValueError(
                "Expected known labels for filter='oracle'. Received: y=None. "
                "Hint: it is a control for experiments; use 'dynamic_threshold'."
            )
        return ~answers.wrong


class RandomFilter(Filter):
    """Rejects answers at random: what rejecting as many costs.

    Args:
        rate: Share to reject, in [0, 1).
        rejected: See `Filter`.
    """

    trusts_model = False

    def __init__(self, rate: float = 0.2, rejected: str = "skip"):
        super().__init__(rejected)
        self.rate = _checked_rate(rate, "rate")

    def keep(self, answers: Answers) -> np.ndarray:
        """Returns (q,) bool."""
        return np.random.default_rng(answers.seed).random(len(answers.labels)) >= self.rate

    def get_config(self) -> dict:
        """Returns the constructor's arguments, plain JSON."""
        return {"rate": self.rate, **super().get_config()}


def _checked_rate(rate: float, name: str = "noise_rate") -> float:
    check_finite(**{name: rate})
    if not 0 <= rate < 1:
        raise ValueError(
            f"Expected `{name}` in [0, 1). Received: {name}={rate!r}. Hint: a share of labels."
        )
    return float(rate)


def get(identifier: str | dict | Filter | None, rejected: str | None = None) -> Filter | None:
    """Returns a filter from its name, its serialized form or itself; None keeps every answer.

    Args:
        identifier: "dynamic_threshold", "static_threshold", "bayes_threshold",
            "budget_threshold", "oracle", "random" (with their defaults), a dictionary with a
            "name" and arguments, a `Filter` or None.
        rejected: What becomes of rejected answers, where `identifier` does not say; see `Filter`.

    Raises:
        ValueError: If it is none of these, or says another thing about rejected answers.

    Example:

    >>> tfp_bayes.active.filters.get({"name": "static_threshold", "tau": 0.05})
    StaticThreshold(tau=0.05, rejected='skip')
    """
    if rejected is not None:
        Filter(rejected)  # raises
    if identifier is None:
        return None
    found = get_configured(identifier, Filter, "label_filter", FILTERS)
    if rejected is None or found.rejected == rejected:
        return found
    if found.rejected != Filter.rejected:
        raise ValueError(
            f"Expected one word on rejected answers. Received: label_filter={found!r}, "
            f"rejected={rejected!r}. Hint: leave out `rejected`, or say the same."
        )
    found = copy.copy(found)
    found.rejected = rejected
    return found


def identify(label_filter: Filter | None) -> dict[str, str]:
    """Returns what tells a run with a filter from one with another."""
    if label_filter is None:
        return {"label_filter": "None", "rejected": Filter.rejected}
    config = {k: v for k, v in label_filter.get_config().items() if k != "rejected"}
    arguments = ", ".join(f"{name}={value!r}" for name, value in config.items())
    name = f"{type(label_filter).__name__}({arguments})"
    return {"label_filter": name, "rejected": label_filter.rejected}


def check_suits(label_filter: Filter | None, targets: "Targets", has_truth: bool) -> None:
    """Raises ValueError unless a filter has what it decides by."""
    if label_filter is None:
        return
    if not targets.names_a_class:
        raise ValueError(
            "Expected a model that predicts probabilities of the classes of an example with "
            f"`label_filter`. Received: label_filter={label_filter!r}, a model that predicts "
            f"{targets.described}. Hint: end the model in a softmax; "
            "BayesianBasisRegression.to_classifier() does."
        )
    if label_filter.needs_truth and not has_truth:
        raise ValueError(
            f"Expected true labels `y` with label_filter={label_filter!r}. Received: y=None. "
            "Hint: it is a control for experiments; use 'dynamic_threshold'."
        )
