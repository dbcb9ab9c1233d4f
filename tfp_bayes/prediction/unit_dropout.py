"""Dropout of whole units at inference: masks go onto kernels, dropped units are not computed."""

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

# Leaving out fewer units than this costs more than it saves.
WORTH_SKIPPING = 16
# Kept units are filled up to a multiple of this by dropped ones, whose mask is 0 anyway: a kernel
# library prepares itself for each new shape, and there should not be many.
MULTIPLE = 4

_CONV = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_LEARNED = (MCConcreteDropout, MCConcreteSpatialDropout1D, MCConcreteSpatialDropout2D)
_SPATIAL = (MCSpatialDropout1D, MCSpatialDropout2D, MCSpatialDropout3D)
# What a rate that is learned counts as where a graph is made, which later rates are to leave as
# it is: a graph that followed the rate would round differently in a copy of the model.
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
    """A dropout of whole units whose mask waits for the layer that reads it.

    Attributes:
        dropout: Has one mask element a unit: a column of (N, F) or a map of (N, ..., C).
        units: Number of units.
        reader: Takes the mask onto the rows of its kernel. Between the two are only layers f of
            each unit alone with f(m x) = m f(x) for m >= 0, such as ReLU and pooling.
        maker: The layer whose units these are, with only such layers between, so that it need
            not compute those that are dropped; None if there is no such layer.
    """

    dropout: MCDropout | MCConcreteDropout
    units: int
    reader: keras.Layer
    maker: keras.Layer | None

    @property
    def skips(self) -> bool:
        """Whether enough units are dropped to be worth leaving out."""
        learned = isinstance(self.dropout, _LEARNED)
        rate = _ASSUMED_RATE if learned else self.dropout.rate
        return self.units * rate >= WORTH_SKIPPING


def find_unit_dropouts(nodes: list, outputs: list) -> list[UnitDropout]:
    """Lists the dropouts of a graph whose masks can wait.

    Args:
        nodes: Nodes of the graph, each after those it reads from.
        outputs: Tensors of the graph that somebody else reads.
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
            # Flattened maps are not units of the layer that made them.
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
    """Whether a mask of units may be applied after this layer instead of before."""
    kind = type(layer)
    if kind is keras.layers.ReLU:
        return layer.max_value is None and layer.threshold == 0
    if kind is keras.layers.Activation:
        return layer.activation in (keras.activations.linear, keras.activations.relu)
    if kind in _POOLING or kind is keras.layers.Flatten:
        return layer.data_format == "channels_last"
    return False


def _is_linear(layer) -> bool:
    """Whether `_apply` computes what calling the layer would, with any kernel in its place."""
    if type(layer) in _CONV:
        known = layer.groups == 1 and layer.data_format == "channels_last"
        # A causal convolution pads in its `call`; TensorFlow's dilated ones need to know the
        # number of channels beforehand.
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
    """Runs the makers and readers of `UnitDropout`s, with the masks of one draw.

    Args:
        dropouts: With at most one for each reader and for each maker.
        kernels: Kernels of the makers that need not compute all their units, from `output_first`.

    Attributes:
        layers: Those that `run` runs.
    """

    def __init__(self, dropouts: list[UnitDropout], kernels: dict[keras.Layer, tf.Tensor]):
        self._read_by = {each.reader: each for each in dropouts}
        self._made_by = {each.maker: each for each in dropouts if each.maker in kernels}
        self._kernels = kernels
        self._drawn: dict[UnitDropout, tuple[tf.Tensor, tf.Tensor]] = {}
        self.layers = {*self._read_by, *self._made_by}

    def run(self, layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
        """Computes `layer(dropout(x))`, only those units of it that are not dropped in turn."""
        kernel, bias = self._some_outputs(layer)
        some_inputs = x
        if layer in self._read_by:
            some_inputs, kernel = self._masked_inputs(layer, x, kernel)
        outputs = _apply(layer, some_inputs, kernel, bias)
        copy_timestep_mask(layer, x, outputs)
        return outputs

    def _some_outputs(self, layer: keras.Layer) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Returns the weights of the units that are computed."""
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
        """Returns the inputs, and the kernel with the mask on its rows, which may be fewer."""
        dropout = self._read_by[layer]
        mask, kept = self._draw(dropout)
        is_conv = type(layer) in _CONV
        lacks = dropout.maker in self._kernels  # x, which was made without dropped units
        num_outputs = tf.shape(kernel)[-1]
        # Flattened maps have several rows of the kernel for each unit.
        kernel = tf.reshape(kernel, [-1, dropout.units, num_outputs])
        if is_conv and dropout.skips and not lacks:
            x, lacks = tf.gather(x, kept, axis=-1), True
        if lacks:
            mask, kernel = tf.gather(mask, kept), tf.gather(kernel, kept, axis=1)
        kernel *= tf.cast(mask, kernel.dtype)[:, None]
        rows = [*layer.kernel_size, tf.shape(mask)[0]] if is_conv else [-1]
        return x, tf.reshape(kernel, [*rows, num_outputs])

    def _draw(self, dropout: UnitDropout) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a mask (C,) and the units to compute, all those kept and some that are not."""
        if dropout not in self._drawn:
            mask = dropout.dropout.draw_mask([dropout.units])
            count = tf.math.count_nonzero(mask, dtype="int32")
            size = tf.maximum(-(-count // MULTIPLE), 1) * MULTIPLE
            order = tf.argsort(mask, direction="DESCENDING", stable=True)
            self._drawn[dropout] = mask, order[:size]
        return self._drawn[dropout]


def output_first(kernel: tf.Tensor) -> tf.Tensor:
    """Moves the axis of outputs to the front, from where `tf.gather` is several times faster."""
    rank = len(kernel.shape)
    return tf.transpose(kernel, [rank - 1, *range(rank - 1)])


def _output_last(kernel: tf.Tensor) -> tf.Tensor:
    return tf.transpose(kernel, [*range(1, len(kernel.shape)), 0])


def _apply(layer: keras.Layer, x: tf.Tensor, kernel: tf.Tensor, bias) -> tf.Tensor:
    """Calls a Dense or convolution with other weights, which may be fewer."""
    x, kernel = (tf.cast(each, layer.compute_dtype) for each in (x, kernel))
    is_conv = type(layer) in _CONV
    outputs = layer.convolution_op(x, kernel) if is_conv else keras.ops.matmul(x, kernel)
    if bias is not None:
        outputs += tf.cast(bias, layer.compute_dtype)
    return outputs if layer.activation is None else layer.activation(outputs)
