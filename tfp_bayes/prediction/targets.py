"""Kinds of labels: class numbers, zeros and ones, or real numbers."""

import numpy as np
from numpy.typing import ArrayLike

UNKNOWN = -1  # of class numbers and of zeros and ones; a real label that is not known is NaN


class Targets:
    """The form of labels.

    Attributes:
        described: What the error of a label that does not fit says was expected.
        hint: What it advises.
        dtype: As which labels are kept.
        has_truth: Whether a label is right or wrong; real numbers are only near or far.

    Args:
        num_outputs: K, the last axis of a prediction's mean.
        shape: Of one label: () or that of the positions of a dense prediction, with a last axis
            of K where each output has a label of its own and K is not 1.
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
        """Whether a label is one of the classes that a prediction gives a probability each."""
        return False

    def check(self, labels: ArrayLike, size: int) -> np.ndarray:
        """Returns labels (size, *shape) as they are kept.

        Raises:
            ValueError: If they have another shape, are of another kind or are out of range.
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
        """Returns labels (size, *shape) that stand for none."""
        value = UNKNOWN if self.dtype == "int64" else np.nan
        return np.full((size, *self.shape), value, self.dtype)

    def for_fit(self, labels: np.ndarray) -> np.ndarray:
        """Returns labels as `fit` takes them: class numbers, or one axis for each output."""
        labels = labels.astype("float32")
        return labels[..., None] if self.num_outputs == 1 else labels

    def for_log_prob(self, labels: np.ndarray) -> np.ndarray:
        """Returns labels as `Prediction.log_prob` takes them."""
        return labels

    def as_outputs(self, labels: np.ndarray) -> np.ndarray:
        """Returns labels with the shape of a prediction's mean."""
        return labels[..., None] if self.num_outputs == 1 else labels

    def accuracy(self, labels: np.ndarray, mean: np.ndarray) -> float:
        """Returns the share of labels that are the likelier ones; NaN of real numbers."""
        raise NotImplementedError

    def _valid(self, labels: np.ndarray) -> bool:
        raise NotImplementedError

    def _without_last_axis(self, labels: np.ndarray, size: int) -> np.ndarray:
        """Leaves out an axis of length 1 for the only output."""
        is_column = self.num_outputs == 1 and labels.shape == (size, *self.shape, 1)
        return labels[..., 0] if is_column else labels


class ClassNumbers(Targets):
    """Integers in [0, K), for a softmax."""

    hint = "one label for each index, as class numbers"

    def __init__(self, num_outputs: int, shape: tuple[int, ...]):
        super().__init__(num_outputs, shape)
        self.described = f"integer labels in [0, {num_outputs})"

    @property
    def names_a_class(self) -> bool:
        """Whether an example, and not each of its positions, has a class."""
        return not self.shape

    def for_fit(self, labels: np.ndarray) -> np.ndarray:
        """Returns class numbers as they are."""
        return labels

    def as_outputs(self, labels: np.ndarray) -> np.ndarray:
        """Returns one-hot labels."""
        return np.eye(self.num_outputs)[labels]

    def accuracy(self, labels: np.ndarray, mean: np.ndarray) -> float:
        """Returns the share of labels whose output is the largest."""
        return float(np.mean(mean.argmax(-1) == labels))

    def _valid(self, labels: np.ndarray) -> bool:
        whole = labels.dtype.kind in "iu"
        return bool(whole and 0 <= labels.min() <= labels.max() < self.num_outputs)

    def _without_last_axis(self, labels: np.ndarray, size: int) -> np.ndarray:
        return labels


class RegressedClasses(ClassNumbers):
    """Class numbers that a regression takes as one-hot targets."""

    @property
    def names_a_class(self) -> bool:
        """Returns False: the prediction is no probability."""
        return False

    def for_log_prob(self, labels: np.ndarray) -> np.ndarray:
        """Returns one-hot labels."""
        return self.as_outputs(labels)


class ZerosAndOnes(Targets):
    """One answer, yes or no, for each sigmoid."""

    described = "labels of 0 and 1"

    def accuracy(self, labels: np.ndarray, mean: np.ndarray) -> float:
        """Returns the share of labels that the mean is nearer to."""
        return float(np.mean((mean > 0.5) == (self.as_outputs(labels) == 1)))

    def _valid(self, labels: np.ndarray) -> bool:
        return bool(np.isin(labels, (0, 1)).all())


class RealNumbers(Targets):
    """Targets of a regression."""

    described = "finite real labels"
    dtype = "float64"
    has_truth = False

    def accuracy(self, labels: np.ndarray, mean: np.ndarray) -> float:
        """Returns NaN."""
        return float("nan")

    def _valid(self, labels: np.ndarray) -> bool:
        return bool(np.isfinite(labels).all())
