"""The weights of a layer as matrices, the form that a Kronecker-factored covariance needs."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf


class Form(NamedTuple):
    """How to turn a variable into rows (G, ·, U) of matrices: reshape it, then transpose it.

    Args:
        shape: The shape to reshape to.
        order: The permutation of axes for the transpose that follows.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]


class WeightMatrices:
    """A kernel and an optional bias as matrices W (G, F, U), with the bias in the last row of each.

    Most layers have a single matrix, G = 1. Others have one for each group, head or channel.

    Args:
        variables: The kernel, followed by the bias if it has the same columns.
        forms: The `Form` of each variable.
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
        """Return the current W in float64."""
        num_groups, _, num_units = self.shape
        rows = [
            v.numpy().astype("float64").reshape(form.shape).transpose(form.order)
            for v, form in zip(self.variables, self._forms)
        ]
        return np.concatenate([r.reshape(num_groups, -1, num_units) for r in rows], axis=1)

    def join(self, values: Sequence[tf.Tensor]) -> tf.Tensor:
        """Build W from one tensor for each of `variables`."""
        num_groups, _, num_units = self.shape
        rows = [
            tf.transpose(tf.reshape(value, form.shape), form.order)
            for value, form in zip(values, self._forms)
        ]
        return tf.concat([tf.reshape(r, [num_groups, -1, num_units]) for r in rows], axis=1)

    def split(self, weights: tf.Tensor) -> list[tf.Tensor]:
        """Split W into one tensor for each of `variables`."""
        per_row = self.shape[0] * self.shape[2]
        sizes = [int(np.prod(v.shape)) // per_row for v in self.variables]
        result = []
        parts = tf.split(weights, sizes, axis=1)
        for part, v, (shape, order) in zip(parts, self.variables, self._forms):
            part = tf.reshape(part, [shape[axis] for axis in order])
            part = tf.transpose(part, np.argsort(order))
            result.append(tf.cast(tf.reshape(part, v.shape), v.dtype))
        return result
