"""Splits a model where randomness enters: a prefix to run once, a suffix to run per sample."""

from collections import Counter
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from keras.src.models.functional import Functional  # Keras does not export the class

from tfp_bayes.layers import MCDropout, stochastic_layers


class SplitModel:
    """A model as `suffix(prefix(inputs))`, equal to `model(inputs, training=False)`.

    Everything that no random number or random weight can reach is in the prefix. Works on any
    graph of layers (`Sequential` or functional, with skips, several inputs and outputs); a
    subclassed model has no graph to read and is all suffix.

    Args:
        model: A built Keras model.
        random_weights: Variables that are random too, beside the stochastic layers.
    """

    def __init__(self, model: keras.Model, random_weights: Sequence[keras.Variable] = ()):
        self.model = model
        self._random_weights = {id(variable) for variable in random_weights}
        if not model.built:
            raise ValueError(
                f"Expected a built `model`. Received: {model.name!r} without weights. "
                "Hint: start it with keras.Input, or call it once on a batch."
            )
        self._graph = _graph(model)
        if self._graph is not None:
            boundary = self._boundary()
            self._prefix = keras.Function(self._graph.inputs, boundary)
            self._suffix = keras.Function(boundary, self._graph.outputs)
            self._fused = _dropout_before_dense(self._suffix)

    def prefix(self, inputs):
        """Runs the deterministic part on a batch of the model's inputs (any structure)."""
        if self._graph is None:
            return inputs
        # Orders dict inputs and casts them, as the model's own call does.
        return self._prefix(self._graph._standardize_inputs(inputs))

    def suffix(self, values, scope: keras.StatelessScope):
        """Runs the random part, inside `scope`; returns outputs in the model's structure."""
        if self._graph is None:
            return self.model(values, training=False)
        outputs = self._suffix._run_through_graph(values, lambda op: self._operation(op, scope))
        return keras.tree.pack_sequence_as(self._graph._outputs_struct, outputs)

    def _operation(self, operation, scope: keras.StatelessScope) -> Callable:
        if operation in self._fused.values():
            return lambda x, **_: x  # its mask goes onto the kernel of the next layer
        if operation in self._fused:
            return lambda x, **_: _masked_dense(self._fused[operation], operation, x, scope)
        return operation

    def _boundary(self) -> list[keras.KerasTensor]:
        """Lists the deterministic tensors that random operations, or the outputs, read."""
        random, needed = set(), []
        for node in _nodes(self._graph):
            _refuse_forced_noise(node)
            reads_random = any(id(x) in random for x in node.input_tensors)
            if reads_random or self._is_random(node.operation):
                random.update(id(x) for x in node.outputs)
                needed.extend(node.input_tensors)
        needed.extend(self._graph.outputs)
        return list({id(x): x for x in needed if id(x) not in random}.values())

    def _is_random(self, operation) -> bool:
        if not isinstance(operation, keras.Layer):
            return False
        return bool(stochastic_layers(operation)) or any(
            id(variable) in self._random_weights for variable in operation.trainable_variables
        )


def _graph(model: keras.Model) -> Functional | None:
    """Returns the graph that the model runs, None for a subclassed model."""
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        return model._functional
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    return None


def _nodes(graph: keras.Function) -> list:
    """Lists the calls of operations in a graph, each after those it reads from."""
    depths = sorted(graph._nodes_by_depth, reverse=True)
    return [node for d in depths for node in graph._nodes_by_depth[d] if not node.is_input]


def _refuse_forced_noise(node) -> None:
    """Refuses `keras.layers.Dropout(0.5)(x, training=True)`: its noise would not be a sample's."""
    layer = node.operation
    if node.arguments.kwargs.get("training") and hasattr(layer, "seed_generator"):
        raise ValueError(
            f"Expected noise from stochastic layers. Received: layer {layer.name!r} of type "
            f"{type(layer).__name__}, called with training=True. Hint: replace it by "
            "tfp_bayes.layers.MCDropout, which needs no training=True."
        )


def _dropout_before_dense(graph: keras.Function) -> dict[keras.layers.Dense, MCDropout]:
    """Maps each Dense to the dropout whose only reader it is, where the data are vectors (N, F)."""
    nodes = _nodes(graph)
    calls = Counter(id(node.operation) for node in nodes)
    readers = Counter(id(x) for node in nodes for x in node.input_tensors)
    readers.update(id(x) for x in graph.outputs)
    made_by = {id(x): node.operation for node in nodes for x in node.outputs}

    def fusible(dense, dropout, x) -> bool:
        return (
            type(dense) is keras.layers.Dense
            and type(dropout) is MCDropout
            and calls[id(dense)] == calls[id(dropout)] == readers[id(x)] == 1
            and dropout.rate > 0
            and dropout.noise_shape is None
            and len(x.shape) == 2
            and isinstance(dense.kernel, keras.Variable)  # neither quantized nor LoRA
        )

    return {
        node.operation: made_by[id(x)]
        for node in nodes
        for x in node.input_tensors
        if fusible(node.operation, made_by.get(id(x)), x)
    }


def _masked_dense(
    dropout: MCDropout, dense: keras.layers.Dense, x: tf.Tensor, scope: keras.StatelessScope
) -> tf.Tensor:
    """Computes dense(dropout(x)) with the mask on the rows of the kernel.

    At inference the mask is one for the batch, so (x * m) W = x (m W): multiplying the (F, K)
    kernel costs less than multiplying the (N, F) activations once N > K, and it is the kernel
    that is random in the posterior which dropout stands for.
    """
    mask = dropout.draw_mask([dense.kernel.shape[0], 1])  # (F, 1)
    scope.add_update((dense.kernel, dense.kernel * tf.cast(mask, dense.kernel.dtype)))
    return dense(x)
