"""How good a model is on labelled examples."""

from typing import NamedTuple

import numpy as np

from tfp_bayes.active.targets import Targets
from tfp_bayes.prediction import Prediction


class Scores(NamedTuple):
    """Scores of a predictive distribution, NaN without data.

    Attributes:
        accuracy: Share of labels that are the likelier ones; NaN for real labels.
        rmse: Root mean squared error of the mean against the labels, one-hot if they are classes,
            over examples and outputs.
        nll: Mean negative log likelihood of an example or position, in nats.
    """

    accuracy: float = float("nan")
    rmse: float = float("nan")
    nll: float = float("nan")


def score_labels(prediction: Prediction, labels: np.ndarray, targets: Targets) -> Scores:
    """Scores predictions of N labels.

    Args:
        prediction: Of the N examples.
        labels: (N, ...) of the form of `targets`.
        targets: What a label is.
    """
    nll = -prediction.log_prob(targets.for_log_prob(labels)).mean()
    target = targets.one_hot(labels)
    rmse = np.sqrt(np.mean(np.square(target - prediction.mean)))
    if targets.classes:
        accuracy = float(np.mean(prediction.mean.argmax(-1) == labels))
    elif targets.likelihood == "bernoulli":
        accuracy = float(np.mean((prediction.mean > 0.5) == (target == 1)))
    else:
        accuracy = float("nan")
    return Scores(accuracy, float(rmse), float(nll))
