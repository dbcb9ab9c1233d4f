"""Layers that apply a linear map at each position, with their inputs and outputs as matrices."""

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes.inference.weight_matrices import Form, WeightMatrices


class LinearLayer(WeightMatrices):
    """A layer that applies a linear map at each position.

    It maps inputs a (G, N, T, F), which include a 1 for the bias, to outputs z (G, N, T, U) before
    the activation: z = a W in each of G groups and at each of T positions, where W is (G, F, U). A
    Dense layer on vectors has G = T = 1. If a layer is called several times, the positions of all
    calls count together.

    Args:
        layer: Built Keras layer.
        variables: See `WeightMatrices`.
        forms: See `WeightMatrices`.
        shape: See `WeightMatrices`.
    """

    def __init__(self, layer: keras.layers.Layer, variables, forms, shape):
        super().__init__(variables, forms, shape)
        self.layer = layer

    def inputs(self, x: tf.Tensor) -> tf.Tensor:
        """Return the matrices a (G, N, T, F) in float64 from the input of one call."""
        raise NotImplementedError

    def outputs(self, z: tf.Tensor) -> tf.Tensor:
        """Return the output of one call, or its gradient, as (G, N, T, U) in float64."""
        raise NotImplementedError

    def numbers_per_row(self, num_positions: int, is_diagonal: bool) -> int:
        """Return how many numbers must be held in memory for each example."""
        num_groups, *sizes = self.shape
        is_product = is_diagonal and num_positions > 1
        return num_groups * max(num_positions * max(sizes), is_product * int(np.prod(sizes)))

    def largest_factor(self) -> int:
        """Return the size of the larger Kronecker factor."""
        return max(self.shape[1:])

    def gram(self, a: tf.Tensor) -> tf.Tensor:
        """Return the sum of a a^T over examples and positions (G, F, F), or its diagonal."""
        rows = tf.reshape(a, [self.shape[0], -1, self.shape[1]])
        return tf.matmul(rows, rows, transpose_a=True)

    def curvature(self, g: tf.Tensor) -> tf.Tensor:
        """Return the sum over examples of the mean over positions of g g^T, (G, U, U)."""
        rows = tf.reshape(g, [self.shape[0], -1, self.shape[2]])
        return tf.matmul(rows, rows, transpose_a=True) / tf.cast(tf.shape(g)[2], g.dtype)

    def squares(self, a: tf.Tensor, g: tf.Tensor) -> tf.Tensor:
        """Return the sum over examples of the squared derivatives with respect to W, (G, F, U)."""
        if a.shape[2] == 1:  # the square of a product is the product of squares
            return tf.matmul(tf.square(a[:, :, 0]), tf.square(g[:, :, 0]), transpose_a=True)
        return tf.reduce_sum(tf.square(tf.matmul(a, g, transpose_a=True)), axis=1)


class DenseLayer(LinearLayer):
    """A Dense layer.

    Args:
        layer: Built Keras layer.
        kernel: Kernel (..., F, U), whose other axes have size 1.
        bias: Bias (U,), or None.
    """

    def __init__(self, layer: keras.layers.Layer, kernel: keras.Variable, bias):
        num_features, num_units = kernel.shape[-2:]
        form = Form((1, num_features, num_units), (0, 1, 2))
        variables, forms = _with_bias(kernel, bias, form)
        shape = (1, num_features + len(variables) - 1, num_units)
        super().__init__(layer, variables, forms, shape)

    def inputs(self, x):
        """See `LinearLayer.inputs`."""
        x = tf.reshape(x, [1, tf.shape(x)[0], _num_positions(x), x.shape[-1]])
        return _with_ones(tf.cast(x, tf.float64), len(self.variables) == 2)

    def outputs(self, z):
        """See `LinearLayer.outputs`."""
        z = tf.reshape(z, [1, tf.shape(z)[0], _num_positions(z), z.shape[-1]])
        return tf.cast(z, tf.float64)


class ConvLayer(LinearLayer):
    """A convolution over one to three axes, channels last, with one matrix per group of channels.

    Args:
        layer: Built Keras layer. A depthwise convolution has a group for each input channel.
        kernel: Kernel (..., channels of a group, all units), or (..., C, units of a group) if the
            convolution is depthwise.
        bias: Bias (all units,), or None.
    """

    def __init__(self, layer: keras.layers.Layer, kernel: keras.Variable, bias):
        is_depthwise = hasattr(layer, "depth_multiplier")
        num_groups = kernel.shape[-2] if is_depthwise else layer.groups
        num_units = kernel.shape[-1] if is_depthwise else kernel.shape[-1] // num_groups
        num_features = int(np.prod(kernel.shape)) // (num_groups * num_units)
        form = Form((num_features, num_groups, num_units), (1, 0, 2))
        variables, forms = _with_bias(kernel, bias, form)
        shape = (num_groups, num_features + len(variables) - 1, num_units)
        super().__init__(layer, variables, forms, shape)

    def inputs(self, x):
        """See `LinearLayer.inputs`."""
        patches = _patches(self.layer, x)
        size = int(np.prod(self.layer.kernel_size))
        num_groups, num_channels = self.shape[0], x.shape[-1] // self.shape[0]
        leading = [tf.shape(x)[0], _num_positions(patches)]
        split = tf.reshape(patches, [*leading, size, num_groups, num_channels])
        a = tf.reshape(
            tf.transpose(split, [3, 0, 1, 2, 4]), [num_groups, *leading, size * num_channels]
        )
        return _with_ones(tf.cast(a, tf.float64), len(self.variables) == 2)

    def outputs(self, z):
        """See `LinearLayer.outputs`."""
        num_groups, _, num_units = self.shape
        split = tf.reshape(z, [tf.shape(z)[0], _num_positions(z), num_groups, num_units])
        return tf.cast(tf.transpose(split, [2, 0, 1, 3]), tf.float64)


def _with_bias(kernel, bias, form: Form) -> tuple[list[keras.Variable], list[Form]]:
    """Return the kernel, the bias if there is one, and their forms."""
    if bias is None:
        return [kernel], [form]
    shape = tuple(1 if axis == form.order[1] else n for axis, n in enumerate(form.shape))
    return [kernel, bias], [form, Form(shape, form.order)]


def _with_ones(a: tf.Tensor, has_bias: bool) -> tf.Tensor:
    return tf.concat([a, tf.ones_like(a[..., :1])], axis=-1) if has_bias else a


def _num_positions(x: tf.Tensor) -> tf.Tensor | int:
    """Return the product of all sizes but the first and the last, as an int if it is static."""
    if x.shape[1:-1].is_fully_defined():
        return int(np.prod(x.shape[1:-1]))
    return tf.reduce_prod(tf.shape(x)[1:-1])


def _patches(layer: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """Return patches (N, ..., size C), with their values in the order of the kernel's rows."""
    padding, rank = layer.padding.upper(), layer.rank
    if padding == "CAUSAL":
        missing = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        x, padding = tf.pad(x, [[0, 0], [missing, 0], [0, 0]]), "VALID"
    sizes, strides = [1, *layer.kernel_size, 1], [1, *layer.strides, 1]
    if rank == 3:
        return tf.raw_ops.ExtractVolumePatches(
            input=x, ksizes=sizes, strides=strides, padding=padding
        )
    rates = [1, *layer.dilation_rate, 1]
    if rank == 1:  # an image of height 1
        x = x[:, None]
        sizes, strides, rates = ([1, *each] for each in (sizes, strides, rates))
    return tf.image.extract_patches(x, sizes, strides, rates, padding)
