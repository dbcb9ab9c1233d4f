"""More layers as linear maps: einsums, embeddings, separable convolutions, normalizations."""

import re
import string
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes.inference.linear_layers import ConvLayer, DenseLayer, LinearLayer
from tfp_bayes.inference.weight_matrices import Form


class _Axes(NamedTuple):
    """The axes of an einsum, one letter each, sorted by their role.

    Args:
        inputs: All axes of the input.
        kernel: All axes of the kernel.
        outputs: All axes of the output.
        groups: Axes of input, kernel and output. Each index has its own matrix.
        positions: Axes of input and output only, beginning with the batch axis.
        rows: Axes of input and kernel only.
        columns: Axes of kernel and output only.
    """

    inputs: str
    kernel: str
    outputs: str
    groups: str
    positions: str
    rows: str
    columns: str


class EinsumLayer(LinearLayer):
    """An EinsumDense layer, such as the projections of attention.

    Axes that occur in input, kernel and output have a separate matrix for each index. A bias is
    included only if its axes are exactly the kernel's axes that occur in the output.
    """

    def __init__(self, layer: keras.layers.EinsumDense, axes: _Axes):
        size = dict(zip(axes.kernel, layer.kernel.shape))
        num_groups, num_rows, num_units = (
            int(np.prod([size[axis] for axis in part]))
            for part in (axes.groups, axes.rows, axes.columns)
        )
        order = tuple(axes.kernel.index(a) for a in axes.groups + axes.rows + axes.columns)
        variables, forms = [layer.kernel], [Form(tuple(layer.kernel.shape), order)]
        of_bias = [axis for axis in axes.outputs if axis in (layer.bias_axes or "")]
        has_bias = layer.bias is not None and sorted(of_bias) == sorted(axes.groups + axes.columns)
        if has_bias and len(layer.bias.shape) == len(of_bias):
            order = tuple(of_bias.index(axis) for axis in axes.groups + axes.columns)
            variables, forms = [*variables, layer.bias], [*forms, Form(layer.bias.shape, order)]
        num_rows += len(variables) - 1
        super().__init__(layer, variables, forms, (num_groups, num_rows, num_units))
        self._axes = axes

    def inputs(self, x):
        """See `LinearLayer.inputs`."""
        a = self._arrange(x, self._axes.inputs, self._axes.rows)
        return tf.concat([a, tf.ones_like(a[..., :1])], -1) if len(self.variables) == 2 else a

    def outputs(self, z):
        """See `LinearLayer.outputs`."""
        return self._arrange(z, self._axes.outputs, self._axes.columns)

    def _arrange(self, x: tf.Tensor, given: str, last: str) -> tf.Tensor:
        """Rearrange a tensor to (G, N, T, last) in float64."""
        axes = self._axes
        x = tf.einsum(f"{given}->{axes.groups}{axes.positions}{last}", tf.cast(x, tf.float64))
        num_groups, num_last = len(axes.groups), len(last)
        shape = tf.shape(x)
        sizes = [int(np.prod(x.shape[:num_groups])), shape[num_groups]]
        last_size = int(np.prod(x.shape[len(x.shape) - num_last :]))
        static = x.shape[num_groups + 1 : len(x.shape) - num_last]
        known = static.is_fully_defined()
        middle = int(np.prod(static)) if known else -1
        return tf.reshape(x, [*sizes, middle, last_size])


def einsum_axes(layer: keras.layers.EinsumDense) -> _Axes | None:
    """Return the axes of a layer, or None if it does not apply a linear map at each position."""
    inputs, kernel, outputs = re.split(",|->", layer.equation.replace(" ", ""))
    rank = layer.input_spec.ndim
    if "..." in inputs + outputs:
        free = [axis for axis in string.ascii_letters if axis not in layer.equation]
        rest = "".join(free[: rank - len(inputs.replace("...", ""))])
        inputs, outputs = inputs.replace("...", rest), outputs.replace("...", rest)
    parts = (inputs, kernel, outputs)
    groups = "".join(a for a in kernel if a in inputs and a in outputs)
    positions = "".join(a for a in inputs if a in outputs and a not in kernel)
    rows = "".join(a for a in kernel if a in inputs and a not in outputs)
    columns = "".join(a for a in kernel if a in outputs and a not in inputs)
    is_map = (
        all(len(set(part)) == len(part) for part in parts)
        and len(groups + rows + columns) == len(kernel)
        and bool(positions)
        and inputs[0] == outputs[0] == positions[0]
    )
    return _Axes(*parts, groups, positions, rows, columns) if is_map else None


class EmbeddingLayer(LinearLayer):
    """An Embedding, which maps one-hot vectors a. They are stored as indices (1, N, T, 1)."""

    def __init__(self, layer: keras.layers.Embedding):
        shape = (1, *layer.embeddings.shape)
        super().__init__(layer, [layer.embeddings], [Form(shape, (0, 1, 2))], shape)

    def inputs(self, x):
        """See `LinearLayer.inputs`."""
        return tf.reshape(tf.cast(x, tf.int32), [1, tf.shape(x)[0], -1, 1])

    def outputs(self, z):
        """See `LinearLayer.outputs`."""
        return tf.cast(tf.reshape(z, [1, tf.shape(z)[0], -1, z.shape[-1]]), tf.float64)

    def numbers_per_row(self, num_positions, is_diagonal):
        """See `LinearLayer.numbers_per_row`."""
        return num_positions * max(self.shape[2], is_diagonal * num_positions)

    def largest_factor(self):
        """Return the number of units, because the other factor is diagonal."""
        return self.shape[2]

    def gram(self, a):
        """Return how often each index occurs (1, F), which is the diagonal of sum a a^T."""
        index = tf.reshape(a, [-1])
        return tf.math.unsorted_segment_sum(
            tf.ones(tf.shape(index), tf.float64), index, self.shape[1]
        )[None]

    def squares(self, a, g):
        """See `LinearLayer.squares`."""
        index = a[0, :, :, 0]
        same = tf.cast(index[:, :, None] == index[:, None], tf.float64)  # (N, T, T)
        derivatives = tf.matmul(same, g[0])  # for the index at each position, with repetitions
        squares = tf.square(derivatives) / tf.reduce_sum(same, axis=2)[..., None]
        rows = tf.reshape(squares, [-1, self.shape[2]])
        return tf.math.unsorted_segment_sum(rows, tf.reshape(index, [-1]), self.shape[1])[None]


class ScaleLayer(LinearLayer):
    """Scale and offset of a normalization over channels, as a matrix (2, 1) for each channel."""

    def __init__(self, layer: keras.layers.Layer):
        variables = [v for v in (layer.gamma, getattr(layer, "beta", None)) if v is not None]
        num_channels = variables[0].shape[0]
        forms = [Form((num_channels, 1, 1), (0, 1, 2))] * len(variables)
        super().__init__(layer, variables, forms, (num_channels, len(variables), 1))

    def inputs(self, x):
        """Return the normalized values before scaling, and a 1 if there is an offset."""
        state = [(v, tf.ones(v.shape, v.dtype)) for v in self.variables[:1]]
        state += [(v, tf.zeros(v.shape, v.dtype)) for v in self.variables[1:]]
        with keras.StatelessScope(state):
            a = self.outputs(type(self.layer).call(self.layer, x))
        return tf.concat([a, tf.ones_like(a)], -1) if len(self.variables) == 2 else a

    def outputs(self, z):
        """See `LinearLayer.outputs`."""
        z = tf.reshape(z, [tf.shape(z)[0], -1, self.shape[0]])
        return tf.cast(tf.transpose(z, [2, 0, 1])[..., None], tf.float64)


class SeparableDepthwise(ConvLayer):
    """The depthwise kernel of a separable convolution."""

    def __init__(self, layer: keras.layers.Layer):
        super().__init__(layer, layer.depthwise_kernel, None)

    def outputs(self, z):
        """Return gradients in the input of the pointwise kernel, given those in its output."""
        kernel = tf.cast(tf.convert_to_tensor(self.layer.pointwise_kernel), z.dtype)
        kernel = tf.reshape(kernel, kernel.shape[-2:])
        return super().outputs(tf.einsum("...u,cu->...c", z, kernel))


class SeparablePointwise(DenseLayer):
    """The pointwise kernel and the bias of a separable convolution."""

    def __init__(self, layer: keras.layers.Layer):
        super().__init__(layer, layer.pointwise_kernel, getattr(layer, "bias", None))

    def inputs(self, x):
        """See `LinearLayer.inputs`."""
        layer = self.layer
        kernel = tf.cast(tf.convert_to_tensor(layer.depthwise_kernel), x.dtype)
        x = keras.ops.depthwise_conv(
            x, kernel, layer.strides, layer.padding, layer.data_format, layer.dilation_rate
        )
        return super().inputs(x)
