"""Kinds of labels: class numbers, zeros and ones, or real numbers."""

import numpy as np
from numpy.typing import ArrayLike

UNKNOWN = -1  # an unknown class number, or unknown zero or one; an unknown real label is NaN


class Targets:
    """Base class of the kinds of labels.

    Attributes:
        described: Description of valid labels, for errors.
        hint: Hint for errors.
        dtype: Dtype in which labels are stored.
        has_truth: Whether a label can be right or wrong. A real number can only be near or far.

    Args:
        num_outputs: Number of outputs K, the last axis of a prediction's mean.
        shape: Shape of one label: that of the positions of a dense prediction, otherwise ().
            There is a last axis of K if each output has its own label and K is not 1.
    """

    described: str
    hint = "one label for each index"
    dtype = "int64"
    has_truth = True

    def __init__(self, num_outputs: int, shape: tuple[int, ...]):
        self.num_outputs = num_outputs
        self.shape = shape

    @property
    def names_a_class(self) -> bool:
        """Whether the label of an example is one of the classes that a prediction has."""
        return False

    def check(self, labels: ArrayLike, size: int) -> np.ndarray:
        """Return labels (size, *shape) in `dtype`, after a check.

        Raises:
            ValueError: If the labels have another shape or kind, or are out of range.
        """
        labels = self._without_last_axis(np.atleast_1d(labels), size)
        expected = (size, *self.shape)
        fits = labels.shape == expected and labels.dtype.kind in "biuf"
        if not fits or (labels.size and not self._valid(labels)):
            numbers = labels.size and labels.dtype.kind in "biuf"
            known = f", from {labels.min()} to {labels.max()}" if numbers else ""
            raise ValueError(
                f"Expected {size} {self.described}, of shape {expected}. "
                f"Received: {labels.dtype} array of shape {labels.shape}{known}. "
                f"Hint: {self.hint}."
            )
        return labels.astype(self.dtype)

    def unknown(self, size: int) -> np.ndarray:
        """Return labels (size, *shape) that mean "unknown"."""
        value = UNKNOWN if self.dtype == "int64" else np.nan
        return np.full((size, *self.shape), value, self.dtype)

    def for_fit(self, labels: np.ndarray) -> np.ndarray:
        """Return labels in the form that `fit` takes: class numbers, or a last axis of outputs."""
        labels = labels.astype("float32")
        return labels[..., None] if self.num_outputs == 1 else labels

    def for_log_prob(self, labels: np.ndarray) -> np.ndarray:
        """Return labels in the form that `Prediction.log_prob` takes."""
        return labels

    def as_outputs(self, labels: np.ndarray) -> np.ndarray:
        """Return labels in the shape of a prediction's mean."""
        return labels[..., None] if self.num_outputs == 1 else labels

    def accuracy(self, labels: np.ndarray, mean: np.ndarray) -> float:
        """Return the fraction of labels that are the most probable ones, or NaN for real labels."""
        raise NotImplementedError

    def _valid(self, labels: np.ndarray) -> bool:
        raise NotImplementedError

    def _without_last_axis(self, labels: np.ndarray, size: int) -> np.ndarray:
        """Remove the last axis if it has length 1 for a single output."""
        is_column = self.num_outputs == 1 and labels.shape == (size, *self.shape, 1)
        return labels[..., 0] if is_column else labels


class ClassNumbers(Targets):
    """Class numbers, integers in [0, K), for a softmax."""

    hint = "one label for each index, as class numbers"

    def __init__(self, num_outputs: int, shape: tuple[int, ...]):
        super().__init__(num_outputs, shape)
        self.described = f"integer labels in [0, {num_outputs})"

    @property
    def names_a_class(self) -> bool:
        """Whether each example has one class, rather than one for each position."""
        return not self.shape

    def for_fit(self, labels: np.ndarray) -> np.ndarray:
        """Return the class numbers."""
        return labels

    def as_outputs(self, labels: np.ndarray) -> np.ndarray:
        """Return one-hot labels."""
        return np.eye(self.num_outputs)[labels]

    def accuracy(self, labels: np.ndarray, mean: np.ndarray) -> float:
        """Return the fraction of labels whose output is the largest."""
        return float(np.mean(mean.argmax(-1) == labels))

    def _valid(self, labels: np.ndarray) -> bool:
        whole = labels.dtype.kind in "iu"
        return bool(whole and 0 <= labels.min() <= labels.max() < self.num_outputs)

    def _without_last_axis(self, labels: np.ndarray, size: int) -> np.ndarray:
        return labels


class RegressedClasses(ClassNumbers):
    """Class numbers whose one-hot labels are the targets of a regression."""

    @property
    def names_a_class(self) -> bool:
        """False, because the prediction is not a probability."""
        return False

    def for_log_prob(self, labels: np.ndarray) -> np.ndarray:
        """Return one-hot labels."""
        return self.as_outputs(labels)


class ZerosAndOnes(Targets):
    """Labels of 0 or 1, one for each sigmoid."""

    described = "labels of 0 and 1"

    def accuracy(self, labels: np.ndarray, mean: np.ndarray) -> float:
        """Return the fraction of labels that are the more probable ones."""
        return float(np.mean((mean > 0.5) == (self.as_outputs(labels) == 1)))

    def _valid(self, labels: np.ndarray) -> bool:
        return bool(np.isin(labels, (0, 1)).all())


class RealNumbers(Targets):
    """Real targets of a regression."""

    described = "finite real labels"
    dtype = "float64"
    has_truth = False

    def accuracy(self, labels: np.ndarray, mean: np.ndarray) -> float:
        """Return NaN."""
        return float("nan")

    def _valid(self, labels: np.ndarray) -> bool:
        return bool(np.isfinite(labels).all())
