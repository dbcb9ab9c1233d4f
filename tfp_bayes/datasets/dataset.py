"""Inputs and labels of one task, split, as every source of data gives them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

SPLITS = ("train", "validation", "test")


class Dataset(NamedTuple):
    """Inputs and labels of one task.

    Attributes:
        x_train: (N, H, W, C) uint8 images; floats where an array file holds floats; (N, F)
            float32 of a table. An `ImageFiles` in the place of the array if images are read from
            their files when they are asked for.
        y_train: (N,) int64 class numbers; (N, K) zeros and ones of several labels at once; (N,)
            float32 where a table's target is a number.
        x_test: (N', ...) as `x_train`.
        y_test: (N',) as `y_train`.
        class_names: K strings; none where there are no labels or the target is a number.
        x_validation: (N'', ...), or None where the data come without a validation set.
        y_validation: (N'',), or None.
        sources: By "train", "validation" and "test" where each row comes from, (N,) strings: the
            smear of a blood cell, the file of an image, the line of a table. Empty for others.
        skipped: What `skip_bad` left out, one sentence each.
        feature_names: F strings, of a table.
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
        """Whether there are labels; without, `x_train` is a pool to label."""
        return len(self.y_train) == len(self.x_train)

    @property
    def splits(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """The data as `keras.datasets` gives them: (x_train, y_train), (x_test, y_test)."""
        return (self.x_train, self.y_train), (self.x_test, self.y_test)
