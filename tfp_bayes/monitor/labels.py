"""Accuracy, likelihood and calibration over a stream of labels, with exponential forgetting."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tfp_bayes._plumbing.bins import equal_width
from tfp_bayes._plumbing.probabilities import as_labelled, log_losses

_NUM_BINS = 15


class Calibration(NamedTuple):
    """Metrics of the recent labels; NaN before the first label.

    Attributes:
        accuracy: Share of correct predictions.
        confidence: Mean probability of the predicted class; the model is overconfident if it is
            above `accuracy`.
        nll: Negative log likelihood in nats.
        ece: Expected calibration error with 15 equal-width bins. It is positive even under
            calibration; see `metrics.calibration_floor` with `num_effective` rows.
        num_effective: Effective number of labels, the sum of their weights; in the long run
            1.44 `half_life`.
        num_invalid: Number of labeled rows without a finite prediction, which are not counted in
            the other metrics.
    """

    accuracy: float
    confidence: float
    nll: float
    ece: float
    num_effective: float
    num_invalid: int


class LabelledStream:
    """Sums over labeled rows, where the weight of a row halves every `half_life` rows."""

    def __init__(self, half_life: float):
        self.half_life = half_life
        self.num_invalid = 0
        # By bin of confidence: sums of weight, confidence, correct predictions and NLL.
        self.sums = np.zeros((4, _NUM_BINS))

    def check(self, probs: np.ndarray, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Returns labels (n,) and probabilities (n, K) of the rows with a finite prediction.

        Raises:
            ValueError: If labels are not class numbers, one per row.
        """
        labels = np.asarray(labels)
        if labels.shape == (len(probs), 1):
            labels = labels[:, 0]
        if len(probs) == 0 and labels.shape == (0,):  # an empty list is not of integer type
            return labels.astype("int64"), probs
        finite = np.isfinite(probs).all(-1)
        # Labels are checked even for rows without a finite prediction.
        checked, _ = as_labelled(labels, np.where(finite[:, None], probs, 1 / probs.shape[1]))
        return checked[finite], probs[finite]

    def add(self, labels: np.ndarray, probs: np.ndarray, num_invalid: int) -> None:
        """Adds the rows that `check` returned, in order."""
        self.num_invalid += num_invalid
        confidence = probs.max(-1)
        decay = 0.5 ** (1 / self.half_life)
        weights = decay ** np.arange(len(probs) - 1, -1, -1)
        correct = probs.argmax(-1) == labels
        bins = equal_width(confidence, _NUM_BINS)
        columns = (np.ones(len(probs)), confidence, correct, log_losses(labels, probs))
        new = [np.bincount(bins, weights * each, _NUM_BINS) for each in columns]
        self.sums = self.sums * decay ** len(probs) + np.array(new)

    def result(self) -> Calibration:
        """Returns the metrics of the rows so far."""
        total = self.sums.sum(1)
        if total[0] == 0:
            nan = float("nan")
            return Calibration(nan, nan, nan, nan, 0.0, self.num_invalid)
        confidence, accuracy, nll = (total[1:] / total[0]).tolist()
        ece = np.abs(self.sums[1] - self.sums[2]).sum() / total[0]
        return Calibration(accuracy, confidence, nll, float(ece), float(total[0]), self.num_invalid)

    def get_state(self) -> dict[str, Any]:
        """Returns the changing state as plain JSON."""
        return {"num_invalid": self.num_invalid, "sums": self.sums.tolist()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restores a state from `get_state`."""
        self.num_invalid = int(state["num_invalid"])
        self.sums = np.array(state["sums"], "float64").reshape(4, _NUM_BINS)
