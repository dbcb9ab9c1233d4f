"""The layers of a network that apply a linear map at each position, and their calls."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import flatten_layers
from tfp_bayes.inference.linear_layers import ConvLayer, DenseLayer, LinearLayer
from tfp_bayes.inference.structured_layers import (
    EinsumLayer,
    EmbeddingLayer,
    ScaleLayer,
    SeparableDepthwise,
    SeparablePointwise,
    einsum_axes,
)

L = keras.layers


class Found(NamedTuple):
    """The layers of a network whose weights get a covariance.

    Args:
        layers: The layers, in the order in which they run.
        num_positions: For each layer, the number of positions T over all its calls, given the
            sizes of the inputs.
        left: All other trainable variables.
    """

    layers: list[LinearLayer]
    num_positions: list[int]
    left: list[keras.Variable]


def find_linear_layers(model: keras.Model, run: Callable, spec: Any) -> Found:
    """Find the layers whose weights can have a Kronecker-factored covariance.

    Args:
        model: A built model of any kind.
        run: Function that calls the model on inputs.
        spec: Specification of the inputs for a single row, with all sizes known.
    """
    described = describe_layers(model)
    records = _trace(list({each.layer: None for each in described}), run, spec)
    owners: dict[int, int] = {}
    for leaf in _leaves(model):
        for v in leaf.variables:
            owners[id(v)] = owners.get(id(v), 0) + 1
    trainable = {id(v) for v in model.trainable_variables}
    own = {id(each): _is_trained_alone(each, owners, trainable) for each in described}
    kept = [each for each in described if each.layer in records and own[id(each)]]
    kept.sort(key=lambda each: list(records).index(each.layer))
    used = {id(v) for each in kept for v in each.variables}
    left = [v for v in model.trainable_variables if id(v) not in used]
    return Found(kept, [records[each.layer] for each in kept], left)


def describe_layers(model: keras.Model) -> list[LinearLayer]:
    """Return all layers of a model that are linear maps, including those that are never called."""
    return [each for leaf in _leaves(model) if leaf.built for each in _describe(leaf)]


@contextlib.contextmanager
def recorded(layers: list[keras.layers.Layer]) -> Iterator[dict]:
    """Record the input and the output before the activation of each call of the given layers.

    Yields:
        A dict that gets a list of pairs (input, output) for each layer that is called.
    """
    records: dict[keras.layers.Layer, list[tuple[tf.Tensor, tf.Tensor]]] = {}

    def noting(layer: keras.layers.Layer, call: Callable) -> Callable:
        def noted(x, *args, **kwargs):
            def note(z):
                records.setdefault(layer, []).append((x, z))
                return z

            activation = getattr(layer, "activation", None)
            if activation is None:
                return note(call(x, *args, **kwargs))
            layer.activation = lambda z: activation(note(z))
            try:
                return call(x, *args, **kwargs)
            finally:
                layer.activation = activation

        return noted

    for layer in layers:
        layer.call = noting(layer, layer.call)
    try:
        yield records
    finally:
        for layer in layers:
            del layer.call


def _trace(layers: list[keras.layers.Layer], run: Callable, spec: Any) -> dict:
    """Return the number of positions of each suitable layer, in the order of the calls."""
    found: dict[keras.layers.Layer, int] = {}

    def trace(inputs):
        found.clear()  # TensorFlow may trace again
        graph = tf.compat.v1.get_default_graph()
        with recorded(layers) as records:
            run(inputs)
        for layer, calls in records.items():
            outputs = [z for _, z in calls]
            # A layer inside another graph, such as a loop over time steps, runs an unknown number
            # of times. A layer whose output does not have one row per example mixes examples.
            is_known = all(z.graph is graph and z.shape.is_fully_defined() for z in outputs)
            if is_known and all(z.shape[0] == 1 for z in outputs):
                found[layer] = sum(int(np.prod(z.shape[1:-1])) for z in outputs)
        return tf.zeros([])

    tf.function(trace, autograph=False).get_concrete_function(spec)
    return found


def _leaves(model: keras.Model) -> list[keras.layers.Layer]:
    layers = {id(layer): layer for layer in flatten_layers(model)}  # shared layers come up twice
    return [layer for layer in layers.values() if len(flatten_layers(layer)) == 1]


def _is_trained_alone(each: LinearLayer, owners: dict[int, int], trainable: set[int]) -> bool:
    return all(owners[id(v)] == 1 and id(v) in trainable for v in each.variables)


def _describe(layer: keras.layers.Layer) -> list[LinearLayer]:
    """Return the linear maps of a layer of a supported Keras class, or an empty list."""
    kinds = [kind for kind in _KINDS if isinstance(layer, kind)]
    if not kinds or type(layer).call is not kinds[0].call or "call" in vars(layer):
        return []
    adapted = getattr(layer, "lora_enabled", False)
    if adapted or getattr(layer, "quantization_mode", None) is not None:
        return []
    return _KINDS[kinds[0]](layer)


def _dense(layer) -> list[LinearLayer]:
    return [DenseLayer(layer, layer.kernel, layer.bias)]


def _convolution(layer) -> list[LinearLayer]:
    if not _is_channels_last(layer) or (layer.rank == 3 and max(layer.dilation_rate) > 1):
        return []
    return [ConvLayer(layer, layer.kernel, getattr(layer, "bias", None))]


def _separable(layer) -> list[LinearLayer]:
    return (
        [SeparableDepthwise(layer), SeparablePointwise(layer)] if _is_channels_last(layer) else []
    )


def _einsum(layer) -> list[LinearLayer]:
    axes = einsum_axes(layer)
    return [] if axes is None else [EinsumLayer(layer, axes)]


def _scale(layer) -> list[LinearLayer]:
    is_plain = layer.axis in (-1, [-1]) and layer.gamma is not None and not layer.rms_scaling
    return [ScaleLayer(layer)] if is_plain else []


def _is_channels_last(layer) -> bool:
    return layer.data_format == "channels_last"


_KINDS: dict[Any, Callable[[Any], list[LinearLayer]]] = {
    L.Dense: _dense,
    L.EinsumDense: _einsum,
    L.Embedding: lambda layer: [EmbeddingLayer(layer)],
    L.Conv1D: _convolution,
    L.Conv2D: _convolution,
    L.Conv3D: _convolution,
    L.DepthwiseConv1D: _convolution,
    L.DepthwiseConv2D: _convolution,
    L.SeparableConv1D: _separable,
    L.SeparableConv2D: _separable,
    L.LayerNormalization: _scale,
}
