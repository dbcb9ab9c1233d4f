"""Weights of ensemble members that share a kernel, multiplied by a rank-1 matrix per member."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import flatten_layers

# Arrays or variables for one weight, by name: a shared kernel and its factors, or M copies.
Parts = Mapping[str, Any]
SHARED, ROWS, COLUMNS, OWN = "shared", "rows", "columns", "own"


class FactorShapes(NamedTuple):
    """Shapes of the two factors of a kernel. Axes along which a factor is constant have size 1.

    Args:
        rows: Shape of r, the factor of the inputs.
        columns: Shape of s, the factor of the outputs.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]


def factor_shapes(model: keras.Model) -> dict[int, FactorShapes]:
    """Return the shapes of the factors of each trainable kernel of a model, by id(variable).

    Every variable with at least two axes that is not a bias counts as a kernel. Its last axis is
    the output axis and the axis before it the input axis, as in dense layers, convolutions,
    embeddings and recurrent layers; for `EinsumDense` the equation determines the axes.
    """
    shapes = {}
    for variable in model.trainable_variables:
        if len(variable.shape) > 1 and variable.name != "bias":
            last = len(variable.shape) - 1
            shapes[id(variable)] = _factor_shapes(variable.shape, [last - 1], [last])
    for layer in flatten_layers(model):
        if isinstance(layer, keras.layers.EinsumDense) and id(layer.kernel) in shapes:
            _, kernel, outputs = re.split(",|->", layer.equation.replace(" ", ""))
            columns = [axis for axis, letter in enumerate(kernel) if letter in outputs]
            rows = [axis for axis in range(len(kernel)) if axis not in columns]
            shapes[id(layer.kernel)] = _factor_shapes(layer.kernel.shape, rows, columns)
    return shapes


def _factor_shapes(shape: Sequence[int], rows: list[int], columns: list[int]) -> FactorShapes:
    def only(axes: list[int]) -> tuple[int, ...]:
        return tuple(size if axis in axes else 1 for axis, size in enumerate(shape))

    return FactorShapes(only(rows), only(columns))


def member_value(parts: Parts, index: tf.Tensor | int) -> tf.Tensor:
    """Return the value of a variable in member `index`: W * r * s, or the member's own copy."""
    tensors = {name: tf.convert_to_tensor(each) for name, each in parts.items()}
    if OWN in tensors:
        return tensors[OWN][index]
    return tensors[SHARED] * tensors[ROWS][index] * tensors[COLUMNS][index]


def mean_value(parts: Parts) -> tf.Tensor:
    """Return the mean over the members of the value of a variable."""
    tensors = {name: tf.convert_to_tensor(each) for name, each in parts.items()}
    if OWN in tensors:
        return tf.reduce_mean(tensors[OWN], axis=0)
    return tensors[SHARED] * tf.reduce_mean(tensors[ROWS] * tensors[COLUMNS], axis=0)
