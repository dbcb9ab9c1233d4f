"""The weights of a layer as matrices, which a covariance with Kronecker factors describes."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf


class Form(NamedTuple):
    """How a variable lies in matrices: reshaped, then transposed, it is rows of them (G, ·, U).

    Args:
        shape: To reshape it to.
        order: To transpose that by.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]


class WeightMatrices:
    """A kernel and perhaps a bias as matrices W (G, F, U), the bias as their last rows.

    Most layers have one, G = 1. Others have one for each of their groups, heads or channels.

    Args:
        variables: Kernel and, if it has the same columns, bias.
        forms: Of each variable.
        shape: (G, F, U).

    Attributes:
        variables: As given.
        shape: As given.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        forms: Sequence[Form],
        shape: tuple[int, int, int],
    ):
        self.variables = list(variables)
        self.shape = shape
        self._forms = list(forms)

    def read(self) -> np.ndarray:
        """Returns W as it is now, float64."""
        num_groups, _, num_units = self.shape
        rows = [
            v.numpy().astype("float64").reshape(form.shape).transpose(form.order)
            for v, form in zip(self.variables, self._forms)
        ]
        return np.concatenate([r.reshape(num_groups, -1, num_units) for r in rows], axis=1)

    def join(self, values: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns W of one tensor for each of `variables`."""
        num_groups, _, num_units = self.shape
        rows = [
            tf.transpose(tf.reshape(value, form.shape), form.order)
            for value, form in zip(values, self._forms)
        ]
        return tf.concat([tf.reshape(r, [num_groups, -1, num_units]) for r in rows], axis=1)

    def split(self, weights: tf.Tensor) -> list[tf.Tensor]:
        """Splits W into one tensor for each of `variables`."""
        per_row = self.shape[0] * self.shape[2]
        sizes = [int(np.prod(v.shape)) // per_row for v in self.variables]
        result = []
        parts = tf.split(weights, sizes, axis=1)
        for part, v, (shape, order) in zip(parts, self.variables, self._forms):
            part = tf.reshape(part, [shape[axis] for axis in order])
            part = tf.transpose(part, np.argsort(order))
            result.append(tf.cast(tf.reshape(part, v.shape), v.dtype))
        return result
