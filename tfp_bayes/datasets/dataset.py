"""The type `Dataset`, which every source of data returns."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "validation", "test")


class Dataset(NamedTuple):
    """Inputs and labels of one task, divided into training, validation and test sets.

    Attributes:
        x_train: (N, H, W, C) uint8 images, or floats if an array file has floats; (N, F) float32
            features of a table. An `ImageFiles` instead of an array if images are read from their
            files on demand.
        y_train: (N,) int64 class numbers; (N, K) zeros and ones for several labels per example;
            (N,) float32 if the target of a table is a number.
        x_test: (N', ...) inputs in the form of `x_train`.
        y_test: (N',) or (N', K) labels in the form of `y_train`.
        class_names: K strings; empty if there are no labels or the target is a number.
        x_validation: (N'', ...) inputs, or None if the data have no validation set.
        y_validation: (N'',) or (N'', K) labels, or None.
        sources: (N,) strings by "train", "validation" and "test" that tell where each row comes
            from: the smear of a blood cell, the file of an image, or the line of a table. Empty for
            other data.
        skipped: One sentence for each file or row that `skip_bad` left out.
        feature_names: F names of the features of a table.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple[str, ...]
    x_validation: np.ndarray | None = None
    y_validation: np.ndarray | None = None
    sources: Mapping[str, np.ndarray] = MappingProxyType({})
    skipped: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()

    @property
    def is_labelled(self) -> bool:
        """Whether there are labels; without labels, `x_train` is a pool to label."""
        return len(self.y_train) == len(self.x_train)

    @property
    def splits(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """The data in the form of `keras.datasets`: (x_train, y_train), (x_test, y_test)."""
        return (self.x_train, self.y_train), (self.x_test, self.y_test)


def has_classes(names: Sequence[str], expected: Sequence[str]) -> bool:
    """Returns whether class names are the expected ones, or as many numbers, or no names."""
    numbers = [str(k) for k in range(len(expected))]
    return list(names) in (list(expected), numbers, [])


def have_same_classes(one: Sequence[str], other: Sequence[str]) -> bool:
    """Return whether two data sets have the same classes; one of them may lack names."""
    return has_classes(one, other) or has_classes(other, one)
