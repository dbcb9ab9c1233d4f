"""The last layer of a classifier, and the features that the rest of the network computes."""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import flatten_layers, graph_nodes, graph_of
from tfp_bayes.inference.features import Features
from tfp_bayes.layers import stochastic_layers
from tfp_bayes.prediction.adapted import update_constants
from tfp_bayes.prediction.finite import FiniteWeights
from tfp_bayes.prediction.inference_mode import refuse_forced_training


class LastLayer:
    """The final Dense layer with a softmax of a classifier, as a linear map of features.

    Args:
        model: A built functional or Sequential model.

    Attributes:
        layer: The Dense layer.
        network: The model from its inputs to the features (N, F) that enter the Dense layer.
        variables: The layer's kernel and its bias if it has one, trainable or not.
        weights: The layer's weights (F, K) in float64, with the bias as the last row.
        offset: What LoRA adds to the kernel, (F, K) in float64. Subtract it from `weights` to get
            the values for `variables`.

    Raises:
        ValueError: If the model does not end in such a layer, is random, or has non-finite
            weights.
    """

    def __init__(self, model: keras.Model):
        graph = _graph(model)
        node = _last_node(model, graph)
        self.layer = node.operation
        _check_activation(model, self.layer)
        _check_use(model, node)
        refuse_forced_training(model)
        update_constants(model)
        FiniteWeights(model.weights).check()
        features = node.input_tensors[0]
        self.network = keras.Model(graph.input, features)
        self._features = Features(self.network)
        stored = next(v for v in self.layer.variables if v.name == "kernel")
        bias = [] if self.layer.bias is None else [self.layer.bias]
        self.variables = [stored, *bias]
        self.weights = self.read_weights()
        self.offset = np.zeros_like(self.weights)
        self.offset[: stored.shape[0]] = _array(self.layer.kernel) - _array(stored)

    def read_weights(self) -> np.ndarray:
        """Return the layer's current weights (F, K) in float64."""
        bias = [] if self.layer.bias is None else [self.layer.bias]
        return np.concatenate([np.atleast_2d(_array(v)) for v in [self.layer.kernel, *bias]])

    def split(self, weights: tf.Tensor) -> list[tf.Tensor]:
        """Split weights (F, K) into one tensor for each of `variables`."""
        weights = weights - self.offset
        parts = [weights] if len(self.variables) == 1 else [weights[:-1], weights[-1]]
        return [tf.cast(part, v.dtype) for part, v in zip(parts, self.variables)]

    def features(self, x) -> Iterator[np.ndarray]:
        """Yield the features (B, F) that enter the layer, in float64, with a 1 for the bias.

        Rows with non-finite inputs are NaN.

        Args:
            x: Arrays or a dataset, see `batches`.
        """
        return (phi for phi, _ in self.labelled_features(x, None))

    def labelled_features(self, x, y) -> Iterator[tuple[np.ndarray, object]]:
        """Yield the same features as `features`, each with the batch's targets unchanged."""
        has_bias = len(self.variables) == 2
        for phi, targets in self._features(x, y):
            yield np.pad(phi, ((0, 0), (0, has_bias)), constant_values=1.0), targets


def _graph(model: keras.Model) -> keras.Function:
    """Return the graph of a functional or Sequential model."""
    graph = graph_of(model)
    if graph is None:
        raise ValueError(
            "Expected a built functional or Sequential `model`. Received: "
            f"{getattr(model, 'name', model)!r} of type {type(model).__name__}, whose last layer "
            "is unknown. Hint: use keras.Model(inputs, outputs); Ensemble works with any model."
        )
    return graph


def _last_node(model: keras.Model, graph: keras.Function):
    """Return the call of the layer that computes the model's only output."""
    if len(graph.outputs) != 1:
        raise ValueError(
            f"Expected a `model` with one output. Received: model={model.name!r} with "
            f"{len(graph.outputs)}. Hint: use keras.Model(model.input, model.outputs[0])."
        )
    makers = [n for n in graph_nodes(graph) if any(x is graph.outputs[0] for x in n.outputs)]
    if not makers:
        raise ValueError(
            f"Expected a `model` with a layer. Received: model={model.name!r}, which returns its "
            "input. Hint: end it with keras.layers.Dense(num_classes, 'softmax')."
        )
    return makers[0]


def _check_activation(model: keras.Model, layer: keras.Operation) -> None:
    """Refuse a layer whose output is not the softmax of a linear function of its weights."""
    is_dense = isinstance(layer, keras.layers.Dense) and type(layer).call is keras.layers.Dense.call
    if is_dense and layer.activation is keras.activations.softmax:
        return
    hint = "put the softmax into the Dense layer, as keras.layers.Dense(num_classes, 'softmax')"
    if isinstance(layer, keras.Model):
        hint = "build one graph, keras.Model(inputs, outputs), whose last layer is the Dense layer"
    elif is_dense and layer.activation is keras.activations.sigmoid and layer.units == 1:
        hint = (
            "for two classes, copy its kernel w and bias b into the columns [0, w] and [0, b] of a "
            "Dense(2, 'softmax'), which is the same function"
        )
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    raise ValueError(
        "Expected a `model` whose output comes from a Dense with a softmax. Received: "
        f"model={model.name!r}, whose output comes from {layer.name!r} of type "
        f"{type(layer).__name__}{f' with activation {name!r}' if is_dense else ''}. Hint: {hint}."
    )


def _check_use(model: keras.Model, node) -> None:
    """Refuse a layer for which a normal distribution over its weights (F, K) is not enough."""
    layer, shape = node.operation, node.outputs[0].shape
    random = stochastic_layers(model)
    if random:
        raise ValueError(
            "Expected a `model` without stochastic layers. Received: "
            f"{[each.name for each in random]}. Hint: pass to_deterministic(model)."
        )
    if layer.quantization_mode is not None:
        received = f"is quantized to {layer.quantization_mode}"
        hint = "fit the posterior before model.quantize()"
    elif layer.units < 2:
        received = "has one class, whose probability is always 1"
        hint = "use Dense(2, 'softmax')"
    elif len(shape) != 2:
        received = f"has outputs of shape {shape}, several for each example"
        hint = "pool or flatten before it; Ensemble and MCDropout work with outputs of any shape"
    elif _num_calls(model, layer) > 1 or _shares_weights(model, layer):
        received = "is used more than once, so the outputs are not linear in its weights"
        hint = "end the model with a Dense layer that is not used elsewhere"
    else:
        return
    raise ValueError(
        "Expected a `model` that ends in a Dense layer with outputs (N, K) and is used once. "
        f"Received: layer {layer.name!r}, which {received}. Hint: {hint}."
    )


def _num_calls(model: keras.Model, layer: keras.Layer) -> int:
    graphs = {id(g): g for g in map(graph_of, flatten_layers(model)) if g is not None}
    return sum(node.operation is layer for g in graphs.values() for node in graph_nodes(g))


def _shares_weights(model: keras.Model, layer: keras.Layer) -> bool:
    own = {id(v) for v in layer.variables}
    others = [each for each in flatten_layers(model) if layer not in flatten_layers(each)]
    return any(id(v) in own for each in others for v in each.variables)


def _array(values) -> np.ndarray:
    return keras.ops.convert_to_numpy(values).astype("float64")
