"""What the label of one example is: a class number, zeros and ones, or real numbers."""

from typing import NamedTuple

import numpy as np

from tfp_bayes.prediction import Prediction

UNKNOWN = -1  # of class numbers and of zeros and ones; a real label that is not known is NaN


class Targets(NamedTuple):
    """The form of labels, as a model's predictions and the first labels show it.

    Attributes:
        likelihood: Of the predictions: "categorical", "bernoulli" or "normal".
        num_outputs: K, the last axis of a prediction's mean.
        shape: Of one label: () or that of the positions of a dense prediction, with a last axis
            of K where each output has a label of its own and K is not 1.
        classes: Whether labels are class numbers in [0, K), also those that a regression takes
            as one-hot targets.
    """

    likelihood: str
    num_outputs: int
    shape: tuple[int, ...]
    classes: bool

    def check(self, labels: np.ndarray, size: int) -> np.ndarray:
        """Returns labels (size, *shape) as they are kept.

        Raises:
            ValueError: If they have another shape, are of another kind or are out of range.
        """
        labels = np.atleast_1d(labels)
        expected = (size, *self.shape)
        if labels.shape == (*expected, 1) and not self.classes and self.num_outputs == 1:
            labels = labels[..., 0]
        if labels.shape != expected or not self._valid(labels):
            kind = {
                "categorical": f"integer labels in [0, {self.num_outputs})",
                "bernoulli": "labels of 0 and 1",
                "normal": "finite real labels",
            }["categorical" if self.classes else self.likelihood]
            known = f", from {labels.min()} to {labels.max()}" if _are_numbers(labels) else ""
            raise ValueError(
                f"Expected {size} {kind}, of shape {expected}. "
                f"Received: {labels.dtype} array of shape {labels.shape}{known}. "
                + (
                    "Hint: one label for each index, as class numbers."
                    if self.classes
                    else "Hint: one label for each index."
                )
            )
        return labels.astype(self._dtype)

    def unknown(self, size: int) -> np.ndarray:
        """Returns labels (size, *shape) that stand for none."""
        value = UNKNOWN if self._dtype == "int64" else np.nan
        return np.full((size, *self.shape), value, self._dtype)

    def are_known(self, labels: np.ndarray) -> np.ndarray:
        """Returns (n,) bool, which of the labels (n, *shape) are some."""
        known = ~np.isnan(labels) if labels.dtype.kind == "f" else labels != UNKNOWN
        return known.reshape(len(labels), -1).all(1)

    def differ(self, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Returns (n,) bool, which labels are not the same."""
        return (labels != others).reshape(len(labels), -1).any(1)

    def for_fit(self, labels: np.ndarray) -> np.ndarray:
        """Returns labels as `fit` takes them: class numbers, or one axis for each output."""
        if self.classes:
            return labels
        labels = labels.astype("float32")
        return labels[..., None] if self.num_outputs == 1 else labels

    def for_log_prob(self, labels: np.ndarray) -> np.ndarray:
        """Returns labels as `Prediction.log_prob` takes them."""
        one_hot = self.classes and self.likelihood == "normal"
        return self.one_hot(labels) if one_hot else labels

    def one_hot(self, labels: np.ndarray) -> np.ndarray:
        """Returns labels with the shape of a prediction's mean."""
        if self.classes:
            return np.eye(self.num_outputs)[labels]
        return labels[..., None] if self.num_outputs == 1 else labels

    @property
    def _dtype(self) -> str:
        return "int64" if self.classes or self.likelihood == "bernoulli" else "float64"

    def _valid(self, labels: np.ndarray) -> bool:
        if not _are_numbers(labels):
            return not labels.size and labels.dtype.kind in "biuf"
        if self.classes:
            whole = labels.dtype.kind in "iu"
            return bool(whole and 0 <= labels.min() <= labels.max() < self.num_outputs)
        if self.likelihood == "bernoulli":
            return bool(np.isin(labels, (0, 1)).all())
        return bool(np.isfinite(labels).all())


def infer_targets(prediction: Prediction, labels: np.ndarray) -> Targets:
    """Returns the form of labels, from a prediction of some examples and labels of others.

    Args:
        prediction: Of any examples.
        labels: (n, ...) of any examples.
    """
    positions, num_outputs = prediction.mean.shape[1:-1], prediction.mean.shape[-1]
    # Classes may be regressed on, as one-hot targets; then a label is a number, not K of them.
    one_hot = (
        prediction.likelihood == "normal"
        and num_outputs > 1
        and np.ndim(labels) == 1 + len(positions)
        and np.asarray(labels).dtype.kind in "iu"
    )
    classes = prediction.likelihood == "categorical" or one_hot
    shape = positions if classes or num_outputs == 1 else (*positions, num_outputs)
    return Targets(prediction.likelihood, num_outputs, shape, classes)


def _are_numbers(labels: np.ndarray) -> bool:
    return bool(labels.size) and labels.dtype.kind in "biuf"
