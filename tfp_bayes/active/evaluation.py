"""How good a model is on labelled examples."""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from tfp_bayes.metrics import accuracy, nll
from tfp_bayes.prediction import Prediction


class Scores(NamedTuple):
    """Scores of a predictive distribution, NaN without data.

    Attributes:
        accuracy: Of the largest mean.
        rmse: Root mean squared error of the mean against one-hot labels, over examples and classes.
        nll: Mean negative log likelihood in nats.
    """

    accuracy: float = float("nan")
    rmse: float = float("nan")
    nll: float = float("nan")


def score_labels(
    prediction: Prediction, labels: np.ndarray, num_classes: int, normal: bool
) -> Scores:
    """Scores predictions of N labels.

    Args:
        prediction: Of the N examples.
        labels: (N,) integers.
        num_classes: K.
        normal: Whether one-hot labels are predicted as normal targets, not as probabilities.
    """
    targets = np.eye(num_classes)[labels]
    rmse = float(np.sqrt(np.mean((targets - prediction.mean) ** 2)))
    if not normal:
        return Scores(accuracy(labels, prediction.mean), rmse, nll(labels, prediction.mean))
    surprise = -norm(prediction.mean, prediction.std).logpdf(targets).sum(-1).mean()
    return Scores(float(np.mean(prediction.mean.argmax(-1) == labels)), rmse, float(surprise))
