"""Filters that reject answers which the model finds unlikely before it is trained on them."""

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

# A filter that relies on the model keeps every answer until the model reaches this accuracy.
TRUSTED_ACCURACY = 0.6
# Prior of the noise rate: one wrong label in ten, with the weight of ten observed answers.
PRIOR_WRONG, PRIOR_RIGHT = 1.0, 9.0


class Answers(NamedTuple):
    """The answers for one batch.

    Attributes:
        probabilities: (q, K) calibrated predictive means, from before training on the batch.
        labels: (q,) answers.
        earlier: (M,) probability of each earlier answer, kept or not, from before training on it.
        wrong: (q,) bool, whether the answer differs from the true label. None if the true labels
            are unknown.
        seed: Integer seed for filters that draw random numbers.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    earlier: np.ndarray
    wrong: np.ndarray | None
    seed: int

    @property
    def probability(self) -> np.ndarray:
        """(q,) predicted probability of each answer."""
        return self.probabilities[np.arange(len(self.labels)), self.labels]


class Filter(Configured):
    """Base class of filters, which decide which answers of a batch to keep.

    Attributes:
        trusts_model: Whether the filter relies on the model and therefore waits until the model is
            accurate enough.
        needs_truth: Whether the filter reads the true labels.

    Args:
        rejected: What to do with an example whose answer is rejected. "skip" removes it from the
            pool, "quarantine" tests its answer again in each round, and "relabel" asks for a second
            answer and keeps that one.

    Raises:
        ValueError: If `rejected` is none of these.
    """

    trusts_model = True
    needs_truth = False
    rejected = "skip"  # for subclasses whose constructor does not set it

    def __init__(self, rejected: str = "skip"):
        if rejected not in REJECTED:
            raise ValueError(
                f"Expected one of {REJECTED} for `rejected`. Received: rejected={rejected!r}. "
                "Hint: 'relabel' asks for a second answer."
            )
        self.rejected = rejected

    def keep(self, answers: Answers) -> np.ndarray:
        """Return (q,) bool, which answers to keep."""
        raise NotImplementedError

    def get_config(self) -> dict:
        """Return the constructor's arguments, plain JSON."""
        return {"rejected": self.rejected}


def bayes_threshold(noise_rate: float, num_classes: int, cost_ratio: float = 1.0) -> float:
    """Return the probability below which it costs less to reject a label than to keep it.

    Args:
        noise_rate: Share of labels that are replaced by a random other class.
        num_classes: Number of classes K.
        cost_ratio: Cost of keeping a wrong label, relative to the cost of rejecting a right one. At
            1, the threshold is where a label is as likely wrong as right.

    Returns:
        tau, for which tau / (1 - tau) = cost_ratio noise_rate / ((K - 1) (1 - noise_rate)).

    Example:

    >>> round(bayes_threshold(0.2, 10), 3)
    0.027
    """
    odds = cost_ratio * noise_rate / ((num_classes - 1) * (1 - noise_rate))
    return odds / (1 + odds)


def estimate_noise_rate(probability: np.ndarray, num_classes: int) -> float:
    """Estimate the share of wrong labels from the probability that the model gives each answer.

    The estimate uses expectation maximization with a Beta(1, 9) prior on the rate r. An answer of
    probability p is wrong with odds r (1 - p) / ((K - 1) (1 - r) p).

    Args:
        probability: (M,) probability of each answer, from a model that was not trained on it.
        num_classes: Number of classes K.

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
    """A filter that keeps answers whose probability is at least `tau`.

    Args:
        tau: Threshold in [0, 1]. With ten classes and one wrong label in five, 0.027 makes the
            fewest errors; see `bayes_threshold`.
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
        """Return (q,) bool, which answers to keep."""
        return answers.probability >= self.tau

    def get_config(self) -> dict:
        """Return the constructor's arguments, plain JSON."""
        return {"tau": self.tau, **super().get_config()}


class BayesThreshold(Filter):
    """A filter that applies `bayes_threshold` for a known rate of wrong labels.

    Args:
        noise_rate: Share of wrong labels, in [0, 1).
        cost_ratio: Cost of keeping a wrong label, relative to the cost of rejecting a right one.
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
        """Return (q,) bool, which answers to keep."""
        num_classes = answers.probabilities.shape[1]
        tau = bayes_threshold(self.noise_rate, num_classes, self.cost_ratio)
        return answers.probability >= tau

    def get_config(self) -> dict:
        """Return the constructor's arguments, plain JSON."""
        return {
            "noise_rate": self.noise_rate,
            "cost_ratio": self.cost_ratio,
            **super().get_config(),
        }


class DynamicThreshold(Filter):
    """A filter that applies `bayes_threshold` for a rate estimated from all answers so far.

    Use it unless you know the rate of wrong labels: it needs no tuning, and it rejects hardly any
    clean labels.

    Args:
        cost_ratio: Cost of keeping a wrong label, relative to the cost of rejecting a right one. At
            the default, 2, about as many answers are rejected as are wrong (figure 6 in
            examples/study).
        rejected: See `Filter`.
    """

    def __init__(self, cost_ratio: float = 2.0, rejected: str = "skip"):
        super().__init__(rejected)
        check_positive(cost_ratio=cost_ratio)
        self.cost_ratio = float(cost_ratio)

    def keep(self, answers: Answers) -> np.ndarray:
        """Return (q,) bool, which answers to keep."""
        num_classes = answers.probabilities.shape[1]
        known = np.concatenate([answers.earlier, answers.probability])
        rate = estimate_noise_rate(known, num_classes)
        return answers.probability >= bayes_threshold(rate, num_classes, self.cost_ratio)

    def get_config(self) -> dict:
        """Return the constructor's arguments, plain JSON."""
        return {"cost_ratio": self.cost_ratio, **super().get_config()}


class BudgetThreshold(Filter):
    """A filter that rejects the least likely answers, about as many as are wrong.

    The threshold is the largest one at which the expected number of rejections, computed from the
    model's predictions for the batch of size q, is at most (1 + kappa) noise_rate q.

    Args:
        noise_rate: Share of wrong labels, in [0, 1).
        kappa: Allowed excess of expected rejections over expected wrong labels, as a share of the
            latter.
        rejected: See `Filter`.
    """

    def __init__(self, noise_rate: float = 0.2, kappa: float = 0.2, rejected: str = "skip"):
        super().__init__(rejected)
        self.noise_rate = _checked_rate(noise_rate)
        check_finite(kappa=kappa)
        self.kappa = float(kappa)

    def keep(self, answers: Answers) -> np.ndarray:
        """Return (q,) bool, which answers to keep."""
        p = answers.probabilities
        num_classes = p.shape[1]
        # Probability that the answer is k. At threshold tau it is then rejected if p_k < tau.
        answer = (1 - self.noise_rate) * p + self.noise_rate * (1 - p) / (num_classes - 1)
        order = np.argsort(p, axis=None)
        expected = np.cumsum(answer.reshape(-1)[order])
        budget = (1 + self.kappa) * self.noise_rate * len(p)
        count = np.searchsorted(expected, budget, side="right")
        levels = np.append(p.reshape(-1)[order], np.inf)
        return answers.probability >= levels[count]

    def get_config(self) -> dict:
        """Return the constructor's arguments, plain JSON."""
        return {"noise_rate": self.noise_rate, "kappa": self.kappa, **super().get_config()}


class OracleFilter(Filter):
    """A filter that rejects exactly the wrong answers, an upper bound for experiments.

    It needs the true labels `y`.
    """

    trusts_model = False
    needs_truth = True

    def keep(self, answers: Answers) -> np.ndarray:
        """Return (q,) bool, which answers to keep."""
        if answers.wrong is None:
            raise ValueError(
                "Expected known labels for filter='oracle'. Received: y=None. "
                "Hint: this filter is a control for experiments; use 'dynamic_threshold'."
            )
        return ~answers.wrong


class RandomFilter(Filter):
    """A filter that rejects answers at random, a control that shows the cost of rejecting as many.

    Args:
        rate: Share of answers to reject, in [0, 1).
        rejected: See `Filter`.
    """

    trusts_model = False

    def __init__(self, rate: float = 0.2, rejected: str = "skip"):
        super().__init__(rejected)
        self.rate = _checked_rate(rate, "rate")

    def keep(self, answers: Answers) -> np.ndarray:
        """Return (q,) bool, which answers to keep."""
        return np.random.default_rng(answers.seed).random(len(answers.labels)) >= self.rate

    def get_config(self) -> dict:
        """Return the constructor's arguments, plain JSON."""
        return {"rate": self.rate, **super().get_config()}


def _checked_rate(rate: float, name: str = "noise_rate") -> float:
    check_finite(**{name: rate})
    if not 0 <= rate < 1:
        raise ValueError(
            f"Expected `{name}` in [0, 1). Received: {name}={rate!r}. "
            "Hint: it is a share of labels, such as 0.2."
        )
    return float(rate)


def get(identifier: str | dict | Filter | None, rejected: str | None = None) -> Filter | None:
    """Return the filter for a name, a dictionary, or a `Filter`; None keeps every answer.

    Args:
        identifier: "dynamic_threshold", "static_threshold", "bayes_threshold",
            "budget_threshold", "oracle", "random" (with their default arguments), a dictionary with
            a "name" and arguments, a `Filter` or None.
        rejected: What to do with rejected answers if `identifier` does not say; see `Filter`.

    Raises:
        ValueError: If `identifier` is none of these, or it contradicts `rejected`.

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
            "Expected the same `rejected` as that of `label_filter`. Received: "
            f"label_filter={found!r}, rejected={rejected!r}. Hint: leave out `rejected`."
        )
    found = copy.copy(found)
    found.rejected = rejected
    return found


def identify(label_filter: Filter | None) -> dict[str, str]:
    """Return the settings of a filter that a resumed run must share, as strings."""
    if label_filter is None:
        return {"label_filter": "None", "rejected": Filter.rejected}
    config = {k: v for k, v in label_filter.get_config().items() if k != "rejected"}
    arguments = ", ".join(f"{name}={value!r}" for name, value in config.items())
    name = f"{type(label_filter).__name__}({arguments})"
    return {"label_filter": name, "rejected": label_filter.rejected}


def check_suits(label_filter: Filter | None, targets: "Targets", has_truth: bool) -> None:
    """Raise ValueError if a filter cannot work with these predictions or without true labels."""
    if label_filter is None:
        return
    if not targets.names_a_class:
        raise ValueError(
            "Expected a model that predicts class probabilities of each example with "
            f"`label_filter`. Received: label_filter={label_filter!r}, a model that predicts "
            f"{targets.described}. Hint: end the model in a softmax; "
            "BayesianBasisRegression.to_classifier() does."
        )
    if label_filter.needs_truth and not has_truth:
        raise ValueError(
            f"Expected true labels `y` with label_filter={label_filter!r}. Received: y=None. "
            "Hint: this filter is a control for experiments; use 'dynamic_threshold'."
        )
