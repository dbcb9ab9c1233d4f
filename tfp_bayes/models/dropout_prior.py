"""The Gaussian prior of kernels that are no random variables, and what dropout makes of it."""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import flatten_layers, graph_nodes, graph_of
from tfp_bayes.layers import MCGRU, MCLSTM, MCDropout, VariationalLayer

# Attributes of Keras' layers that hold kernels. The first two meet the layer's inputs.
_ON_INPUTS = ("kernel", "depthwise_kernel")
_KERNELS = (*_ON_INPUTS, "pointwise_kernel", "recurrent_kernel")

# What lets units that are 0 stay 0 without mixing them with others: layers and operations.
_TRANSPARENT = {
    *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "Relu", "Relu6", "LeakyRelu", "Elu"),
    *("Tanh", "Gelu", "Silu", "Selu", "Abs", "Identity", "Dropout", "Masking"),
    *("Flatten", "Reshape", "Permute", "RepeatVector", "Transpose", "Squeeze", "ExpandDims"),
    *("MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "MaxPool"),
    *("AveragePooling1D", "AveragePooling2D", "AveragePooling3D", "AveragePool"),
    *("GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D"),
    *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D"),
    *("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"),
    *("Cropping1D", "Cropping2D", "Cropping3D"),
    *("UpSampling1D", "UpSampling2D", "UpSampling3D"),
    *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
}


class Kernel(NamedTuple):
    """A kernel under a Gaussian prior.

    Args:
        value: The kernel as the layer uses it.
        owner: The model whose `prior_scale` s is the prior's standard deviation.
        keep: 1 - p, the probability that a unit of its input is kept by Monte Carlo dropout.
    """

    value: tf.Tensor
    owner: keras.Model
    keep: float


def gaussian_penalty(
    model: keras.layers.Layer, owner: keras.layers.Layer | None = None
) -> tf.Tensor:
    """Returns the sum over kernels of |W|^2 / (2 s^2 (1 - p)), a float32 scalar in nats.

    The KL divergence of dropout or a point estimate from a Gaussian prior, up to a constant. p is
    the rate of the `MCDropout` that a kernel's input has passed, 0 without; see `kernels`.

    Args:
        model: The model.
        owner: Only of kernels under the `prior_scale` of this model; None is all.

    Reference:
        Gal and Ghahramani 2016, equation 7, arXiv:1506.02142: kept units are scaled up here, so
        that their M is W / (1 - p), and (1 - p) |M|^2 this number.
    """
    terms = [
        tf.reduce_sum(tf.square(tf.cast(each.value, tf.float32)))
        / (2 * each.owner.prior_scale**2 * each.keep)
        for each in kernels(model)
        if owner in (None, each.owner)
    ]
    return tf.add_n(terms) if terms else tf.constant(0.0)


def has_prior_scale(model: keras.layers.Layer) -> bool:
    """Tells whether a model, or one inside it, has a `prior_scale`."""
    return any(_prior_scale(each) is not None for each in flatten_layers(model))


def kernels(model: keras.layers.Layer) -> list[Kernel]:
    """Lists the trainable kernels of a model that are under the `prior_scale` of a BayesianModel.

    Kernels are what layers hold as `kernel`, `depthwise_kernel`, `pointwise_kernel` and
    `recurrent_kernel`; of models in one another the innermost with a `prior_scale` counts, and
    each kernel once. Variational layers have priors of their own.

    Dropout is followed through the graph, into nested models too, as far as layers reshape, pool
    and activate, and `Concatenate` joins tensors of one rate. Where it is mixed with other units
    before it meets the kernel (sums, normalization) the kernel counts as without. A shared kernel
    takes the lowest rate that it meets.
    """
    owners = {}
    for outer in flatten_layers(model):  # from the outside in
        if _prior_scale(outer) is not None:
            owners.update(dict.fromkeys(map(id, flatten_layers(outer)), outer))
    if not owners:
        return []
    keeps = _Keeps()
    for each in flatten_layers(model):
        keeps.follow(each)
    found: dict[int, Kernel] = {}
    for layer in flatten_layers(model):
        if id(layer) not in owners or isinstance(layer, VariationalLayer):
            continue
        for name in _KERNELS:
            value = getattr(layer, name, None)
            if _is_trainable(value):
                keep = keeps.of(layer, name)
                found.setdefault(id(value), Kernel(value, owners[id(layer)], keep))
    return list(found.values())


def _prior_scale(layer: keras.layers.Layer) -> float | None:
    return layer.prior_scale if hasattr(layer, "prior_penalty") else None


def _is_trainable(value) -> bool:
    if isinstance(value, keras.Variable):
        return value.trainable
    return tf.is_tensor(value)  # a kernel with LoRA, whose factors are trained


class _Keeps:
    """The probability, for each layer, that a unit of its input was kept."""

    def __init__(self) -> None:
        self._on_inputs: dict[int, float] = {}
        self._on_states: dict[int, float] = {}
        self._followed: set[int] = set()

    def of(self, layer: keras.layers.Layer, name: str) -> float:
        """Returns the probability for what the kernel of this name meets."""
        known = {**dict.fromkeys(_ON_INPUTS, self._on_inputs), "recurrent_kernel": self._on_states}
        return known.get(name, {}).get(id(layer), 1.0)

    def follow(self, layer: keras.layers.Layer) -> None:
        """Follows dropout through the graph of a model, unless an outer one has led there."""
        graph = graph_of(layer)
        if graph is not None and id(graph) not in self._followed:
            self._run(graph, [1.0] * len(graph.inputs))

    def _run(self, graph: keras.Function, inputs: list[float]) -> list[float]:
        """Returns the probabilities of a graph's outputs, and notes those of its layers."""
        self._followed.add(id(graph))
        keep = {id(tensor): value for tensor, value in zip(graph.inputs, inputs)}
        for node in graph_nodes(graph):
            seen = [keep.get(id(tensor), 1.0) for tensor in node.input_tensors]
            results = self._apply(node.operation, seen, len(node.outputs))
            keep.update(zip(map(id, node.outputs), results))
        return [keep.get(id(tensor), 1.0) for tensor in graph.outputs]

    def _apply(self, operation, seen: list[float], num_outputs: int) -> list[float]:
        nested = graph_of(operation) if isinstance(operation, keras.layers.Layer) else None
        if nested is not None and len(nested.inputs) == len(seen):
            return self._run(nested, seen)
        result = 1.0
        if len(seen) == 1:
            self._note(operation, seen[0])
            if isinstance(operation, MCDropout):
                result = seen[0] * (1 - operation.rate)
            elif type(operation).__name__ in _TRANSPARENT:
                result = seen[0]
        elif type(operation).__name__ == "Concatenate" and len(set(seen)) == 1:
            result = seen[0]
        return [result] * num_outputs

    def _note(self, layer, keep: float, state: float = 1.0) -> None:
        """Notes what a layer meets, and those inside it that get its input."""
        if isinstance(layer, MCGRU | MCLSTM):
            keep, state = keep * (1 - layer.dropout), 1 - layer.recurrent_dropout
        self._on_inputs[id(layer)] = max(keep, self._on_inputs.get(id(layer), 0.0))
        self._on_states[id(layer)] = state
        for name in ("layer", "forward_layer", "backward_layer", "cell"):
            inner = getattr(layer, name, None)
            if isinstance(inner, keras.layers.Layer):
                self._note(inner, keep, state)
