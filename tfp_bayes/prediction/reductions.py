"""Sums over positions that are bit-equal for a row at any place in a batch.

TensorFlow sums over axes before the channels in blocks of channels. A block that extends from one
row into the next is summed in another order: with 10 channels, the result of a row in a batch
differs by 6e-8 from that of the row alone. Sums over the last axes use the same order for every
row. So, for predictions, the axes of global average pooling, `keras.ops.mean` and `keras.ops.sum`
are moved to the end.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import graph_of, is_sum, timestep_mask

_POOLING = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)


def row_by_row(operation: keras.Operation) -> Callable | None:
    """Return the function to call in place of an operation, or None if none is needed."""
    if type(operation) in _POOLING and operation.data_format == "channels_last":
        return lambda x, mask=None, **_: _pool(operation, x, mask)
    if is_sum(operation) and operation.axis is not None:
        return lambda x: _reduce(operation, x)
    return None


def has_sums(model: keras.layers.Layer) -> bool:
    """Return whether the graph of a model, or of a model inside, has an operation to replace."""
    graph = graph_of(model)
    return graph is not None and any(
        row_by_row(each) is not None or has_sums(each) for each in graph.operations
    )


def _pool(layer: keras.Layer, x: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Apply global average pooling to (B, ..., C), by Keras' own layer for channels first."""
    first = type(layer)(
        data_format="channels_first", keepdims=layer.keepdims, dtype=layer.dtype_policy
    )
    mask = timestep_mask(x) if mask is None else mask
    masked = {"mask": mask} if layer.supports_masking and mask is not None else {}
    pooled = first(keras.ops.moveaxis(x, -1, 1), **masked)
    return keras.ops.moveaxis(pooled, 1, -1) if layer.keepdims else pooled


def _reduce(operation: keras.Operation, x: tf.Tensor) -> tf.Tensor:
    """Apply a mean or sum. If it includes the rows, or its axes are the last, do not reorder."""
    axes = sorted(axis % x.shape.rank for axis in operation.axis)
    if axes[0] == 0 or axes == list(range(axes[0], x.shape.rank)):
        return operation(x)
    reduced = type(operation)(_trailing(axes))(_innermost(x, axes))
    return keras.ops.expand_dims(reduced, axes) if operation.keepdims else reduced


def _innermost(x: tf.Tensor, axes: list[int]) -> tf.Tensor:
    """Move the given axes to the end."""
    kept = [axis for axis in range(x.shape.rank) if axis not in axes]
    return tf.transpose(x, kept + axes)


def _trailing(axes: list[int]) -> list[int]:
    return list(range(-len(axes), 0))
