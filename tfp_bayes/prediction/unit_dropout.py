"""Dropout of whole units at inference: masks multiply kernels; dropped units are not computed."""

import dataclasses
from collections import Counter

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import copy_timestep_mask
from tfp_bayes.layers import (
    MCConcreteDropout,
    MCConcreteSpatialDropout1D,
    MCConcreteSpatialDropout2D,
    MCDropout,
    MCSpatialDropout1D,
    MCSpatialDropout2D,
    MCSpatialDropout3D,
)

# Skipping fewer dropped units than this costs more time than it saves.
WORTH_SKIPPING = 16
# The number of computed units is rounded up to a multiple of this. The extra units have mask 0, so
# results do not change, and kernel libraries, which prepare for each new shape, see fewer shapes.
MULTIPLE = 4

_CONV = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_LEARNED = (MCConcreteDropout, MCConcreteSpatialDropout1D, MCConcreteSpatialDropout2D)
_SPATIAL = (MCSpatialDropout1D, MCSpatialDropout2D, MCSpatialDropout3D)
# The value assumed for a learned rate when a graph is built. If the graph depended on the current
# rate, a copy of the model with another graph could round differently.
_ASSUMED_RATE = 0.25
_POOLING = (
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)
_ELEMENTWISE = ("linear", "relu", "tanh", "sigmoid", "elu", "selu", "gelu", "silu", "softplus")


@dataclasses.dataclass(frozen=True, eq=False)
class UnitDropout:
    """A dropout of whole units whose mask is applied to the kernel of a later layer.

    Attributes:
        dropout: Dropout layer with one mask element per unit: a column of (N, F), or a map of
            (N, ..., C).
        units: Number of units.
        reader: Layer that applies the mask to the rows of its kernel. Between the dropout and
            the reader are only layers f that act on each unit separately, with f(m x) = m f(x)
            for m >= 0, such as ReLU and pooling.
        maker: Layer that computes these units, with only such layers in between, so that it can
            skip the dropped ones. None if there is no such layer.
    """

    dropout: MCDropout | MCConcreteDropout
    units: int
    reader: keras.Layer
    maker: keras.Layer | None

    @property
    def skips(self) -> bool:
        """Whether enough units are dropped to make skipping them worthwhile."""
        learned = isinstance(self.dropout, _LEARNED)
        rate = _ASSUMED_RATE if learned else self.dropout.rate
        return self.units * rate >= WORTH_SKIPPING


def find_unit_dropouts(nodes: list, outputs: list) -> list[UnitDropout]:
    """List the dropouts of a graph whose masks can be applied to a later kernel.

    Args:
        nodes: Nodes of the graph in topological order.
        outputs: Output tensors of the graph.
    """
    calls = Counter(id(node.operation) for node in nodes)
    readers: dict[int, list] = {}
    for node in nodes:
        for x in node.input_tensors:
            readers.setdefault(id(x), []).append(node)
    for x in outputs:
        readers.setdefault(id(x), []).append(None)
    made_by = {id(x): node for node in nodes for x in node.outputs}

    def only_reader(node):
        found = readers.get(id(node.outputs[0]), [])
        return found[0] if len(found) == 1 and found[0] is not None else None

    def is_single(node) -> bool:
        once = node is not None and calls[id(node.operation)] == 1
        return once and len(node.input_tensors) == len(node.outputs) == 1

    def find_reader(node):
        node = only_reader(node)
        while is_single(node) and _waits_behind(node.operation):
            node = only_reader(node)
        return node if is_single(node) and _is_linear(node.operation) else None

    def find_maker(node):
        while True:
            node = made_by.get(id(node.input_tensors[0]))
            if not is_single(node) or only_reader(node) is None:
                return None
            if _is_linear(node.operation) and _acts_elementwise(node.operation):
                return node.operation
            # The units after Flatten are not the units of the layer before it.
            flattens = type(node.operation) is keras.layers.Flatten
            if flattens or not _waits_behind(node.operation):
                return None

    found = []
    for node in nodes:
        if is_single(node) and _drops_units(node.operation, node.outputs[0]):
            reader = find_reader(node)
            if reader is not None:
                units = node.outputs[0].shape[-1]
                found.append(UnitDropout(node.operation, units, reader.operation, find_maker(node)))
    return found


def _drops_units(layer, x: keras.KerasTensor) -> bool:
    if type(layer) in _LEARNED:
        return getattr(layer, "data_format", "channels_last") == "channels_last"
    if type(layer) is MCDropout:
        return layer.rate > 0 and layer.noise_shape is None and len(x.shape) == 2
    return type(layer) in _SPATIAL and layer.rate > 0 and layer.data_format == "channels_last"


def _waits_behind(layer) -> bool:
    """Return whether a mask of units can be applied after this layer instead of before it."""
    kind = type(layer)
    if kind is keras.layers.ReLU:
        return layer.max_value is None and layer.threshold == 0
    if kind is keras.layers.Activation:
        return layer.activation in (keras.activations.linear, keras.activations.relu)
    if kind in _POOLING or kind is keras.layers.Flatten:
        return layer.data_format == "channels_last"
    return False


def _is_linear(layer) -> bool:
    """Return whether `_apply` computes the same as calling the layer, for any kernel."""
    if type(layer) in _CONV:
        known = layer.groups == 1 and layer.data_format == "channels_last"
        # A causal convolution pads in its `call`. TensorFlow's dilated convolutions require a
        # static number of channels.
        known = known and layer.padding != "causal" and set(layer.dilation_rate) == {1}
    else:
        known = type(layer) is keras.layers.Dense
    if not known or "call" in vars(layer) or isinstance(layer.activation, keras.Layer):
        return False
    changed = layer.lora_enabled or getattr(layer, "quantization_mode", None) is not None
    return not changed and isinstance(layer.kernel, keras.Variable)


def _acts_elementwise(layer) -> bool:
    return layer.activation in [getattr(keras.activations, name) for name in _ELEMENTWISE]


class KernelMasks:
    """Runner of the makers and readers of `UnitDropout`s, with the masks of one draw.

    Args:
        dropouts: Dropouts, at most one for each reader and for each maker.
        kernels: Kernels, from `output_first`, of the makers that skip dropped units.

    Attributes:
        layers: Layers that must be called by `run`.
    """

    def __init__(self, dropouts: list[UnitDropout], kernels: dict[keras.Layer, tf.Tensor]):
        self._read_by = {each.reader: each for each in dropouts}
        self._made_by = {each.maker: each for each in dropouts if each.maker in kernels}
        self._kernels = kernels
        self._drawn: dict[UnitDropout, tuple[tf.Tensor, tf.Tensor]] = {}
        self.layers = {*self._read_by, *self._made_by}

    def run(self, layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
        """Compute `layer(dropout(x))`, without the units that the next dropout drops."""
        kernel, bias = self._some_outputs(layer)
        some_inputs = x
        if layer in self._read_by:
            some_inputs, kernel = self._masked_inputs(layer, x, kernel)
        outputs = _apply(layer, some_inputs, kernel, bias)
        copy_timestep_mask(layer, x, outputs)
        return outputs

    def _some_outputs(self, layer: keras.Layer) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Return kernel and bias of the computed units."""
        if layer not in self._made_by:
            return tf.convert_to_tensor(layer.kernel), layer.bias
        _, kept = self._draw(self._made_by[layer])
        kernel = _output_last(tf.gather(self._kernels[layer], kept))
        if layer.bias is None:
            return kernel, None
        return kernel, tf.gather(tf.convert_to_tensor(layer.bias), kept)

    def _masked_inputs(
        self, layer: keras.Layer, x: tf.Tensor, kernel: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return inputs and masked kernel, both possibly without the dropped units."""
        dropout = self._read_by[layer]
        mask, kept = self._draw(dropout)
        is_conv = type(layer) in _CONV
        lacks = dropout.maker in self._kernels  # whether x lacks the dropped units
        num_outputs = tf.shape(kernel)[-1]
        # After Flatten, the kernel has several rows for each unit.
        kernel = tf.reshape(kernel, [-1, dropout.units, num_outputs])
        if is_conv and dropout.skips and not lacks:
            x, lacks = tf.gather(x, kept, axis=-1), True
        if lacks:
            mask, kernel = tf.gather(mask, kept), tf.gather(kernel, kept, axis=1)
        kernel *= tf.cast(mask, kernel.dtype)[:, None]
        rows = [*layer.kernel_size, tf.shape(mask)[0]] if is_conv else [-1]
        return x, tf.reshape(kernel, [*rows, num_outputs])

    def _draw(self, dropout: UnitDropout) -> tuple[tf.Tensor, tf.Tensor]:
        """Return a mask (C,) and the units to compute: all kept units, and a few dropped ones."""
        if dropout not in self._drawn:
            mask = dropout.dropout.draw_mask([dropout.units])
            count = tf.math.count_nonzero(mask, dtype="int32")
            size = tf.maximum(-(-count // MULTIPLE), 1) * MULTIPLE
            order = tf.argsort(mask, direction="DESCENDING", stable=True)
            self._drawn[dropout] = mask, order[:size]
        return self._drawn[dropout]


def output_first(kernel: tf.Tensor) -> tf.Tensor:
    """Move the axis of outputs to the front, where `tf.gather` is several times faster."""
    rank = len(kernel.shape)
    return tf.transpose(kernel, [rank - 1, *range(rank - 1)])


def _output_last(kernel: tf.Tensor) -> tf.Tensor:
    return tf.transpose(kernel, [*range(1, len(kernel.shape)), 0])


def _apply(layer: keras.Layer, x: tf.Tensor, kernel: tf.Tensor, bias) -> tf.Tensor:
    """Apply a Dense or convolutional layer with the given weights, which may be fewer."""
    x, kernel = (tf.cast(each, layer.compute_dtype) for each in (x, kernel))
    is_conv = type(layer) in _CONV
    outputs = layer.convolution_op(x, kernel) if is_conv else keras.ops.matmul(x, kernel)
    if bias is not None:
        outputs += tf.cast(bias, layer.compute_dtype)
    return outputs if layer.activation is None else layer.activation(outputs)
