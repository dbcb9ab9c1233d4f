"""Split of a model into a deterministic prefix to run once and a suffix to run per sample."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import (
    graph_nodes,
    graph_of,
    pack_outputs,
    run_graph,
    set_timestep_mask,
    standardize_inputs,
    timestep_mask,
)
from tfp_bayes.layers import stochastic_layers
from tfp_bayes.prediction.reductions import has_sums, row_by_row
from tfp_bayes.prediction.unit_dropout import KernelMasks, find_unit_dropouts, output_first


class Shared(NamedTuple):
    """Values that all samples of a batch share, for a model with a graph.

    Attributes:
        values: Tensors at the boundary between prefix and suffix.
        timesteps: Time step mask of each tensor, or None.
        kernels: Kernels of the layers that a sample computes for some units only.
    """

    values: list[tf.Tensor]
    timesteps: list
    kernels: dict


def tensors_of(shared) -> list[tf.Tensor]:
    """List the tensors in the result of `SplitModel.prefix` that depend on the inputs."""
    return keras.tree.flatten(shared.values if isinstance(shared, Shared) else shared)


class SplitModel:
    """A model as `suffix(prefix(inputs))`, equal to `model(inputs, training=False)`.

    The prefix contains everything that does not depend on random numbers or random weights. It
    also contains layers that depend only on the mask of a `UnitDropout`, because that mask is
    applied to the next kernel. The split works on any graph of layers (`Sequential` or
    functional, with skips, several inputs and outputs). A subclassed model has no graph, so all
    of it is suffix.

    Args:
        model: A built Keras model.
        random_weights: Variables that are random in addition to the stochastic layers.
        masks_on_kernels: Whether masks of whole units are applied to the next kernel. False
            applies them where the model does.
    """

    def __init__(
        self,
        model: keras.Model,
        random_weights: Sequence[keras.Variable] = (),
        masks_on_kernels: bool = True,
    ):
        self.model = model
        self._random_weights = {id(variable) for variable in random_weights}
        if not model.built:
            raise ValueError(
                f"Expected a built `model`. Received: {model.name!r} without weights. "
                "Hint: begin the model with keras.Input, or call it once on a batch."
            )
        self._graph = graph_of(model)
        if self._graph is not None:
            self._dropouts = []
            if masks_on_kernels:
                self._dropouts = find_unit_dropouts(graph_nodes(self._graph), self._graph.outputs)
            boundary = self._boundary(self._graph)
            self._prefix = keras.Function(self._graph.inputs, boundary)
            self._suffix = keras.Function(boundary, self._graph.outputs)

    def prefix(self, inputs):
        """Run the part that all samples share on a batch of inputs, in any structure."""
        if self._graph is None:
            return inputs
        # Sort the inputs of a dictionary and cast them, as the model's own call does.
        inputs = standardize_inputs(self._graph, inputs)
        values = keras.tree.flatten(run_graph(self._prefix, inputs, self._without_masks))
        kernels = {maker: output_first(maker.kernel) for maker in self._makers()}
        return Shared(values, [timestep_mask(each) for each in values], kernels)

    def suffix(self, values):
        """Run the random part, and return outputs in the model's structure."""
        if self._graph is None:
            return self.model(values, training=False)
        values, timesteps, kernels = values
        # Attention removes the masks from its inputs, but the next sample needs them again.
        for value, mask in zip(values, timesteps):
            set_timestep_mask(value, mask)
        masks = KernelMasks(self._dropouts, kernels)

        def operation(layer):
            if layer in masks.layers:
                return lambda x, **_: masks.run(layer, x)
            return self._without_masks(layer)

        outputs = run_graph(self._suffix, values, operation)
        return pack_outputs(self._graph, keras.tree.flatten(outputs))

    def _without_masks(self, operation) -> Callable:
        return (lambda x, **_: x) if self._waits(operation) else _inference(operation)

    def _waits(self, operation) -> bool:
        return any(operation is each.dropout for each in self._dropouts)

    def _makers(self) -> list[keras.Layer]:
        """List the layers with fixed weights that each sample computes for some units only."""
        makers = [each.maker for each in self._dropouts if each.maker and each.skips]
        return [
            maker
            for maker in makers
            if maker in self._suffix.operations and not self._has_random_weights(maker)
        ]

    def _boundary(self, graph: keras.Function) -> list[keras.KerasTensor]:
        """List the deterministic tensors that are outputs or inputs of random operations."""
        random: set[int] = set()
        needed: list[keras.KerasTensor] = []
        readers = {each.reader for each in self._dropouts}
        for node in graph_nodes(graph):
            reads_random = any(id(x) in random for x in node.input_tensors)
            if reads_random or node.operation in readers or self._is_random(node.operation):
                random.update(id(x) for x in node.outputs)
                needed.extend(node.input_tensors)
        needed.extend(graph.outputs)
        return list({id(x): x for x in needed if id(x) not in random}.values())

    def _is_random(self, operation) -> bool:
        if not isinstance(operation, keras.Layer):
            return False
        if self._waits(operation):
            return False  # its reader is random instead
        return bool(stochastic_layers(operation)) or self._has_random_weights(operation)

    def _has_random_weights(self, layer: keras.Layer) -> bool:
        return any(id(variable) in self._random_weights for variable in layer.variables)


def check_ranks(outputs) -> None:
    """Raise ValueError if an output of a model has no axis besides that of the examples."""
    for p in keras.tree.flatten(outputs):
        if p.shape.rank is not None and p.shape.rank < 2:
            raise ValueError(
                "Expected outputs (N, ..., K) with one row per example. "
                f"Received: outputs of shape {tuple(p.shape)}. "
                "Hint: keep the last axis, (N, 1) for a single number."
            )


def _run_inside(model: keras.Model, inputs, training: bool | None = None, mask=None, **_):
    """Call a model inside another model, with each of its operations in inference mode."""
    graph = graph_of(model)
    inputs = standardize_inputs(graph, inputs)
    if mask is not None:
        for x, each in zip(inputs, keras.tree.flatten(mask)):
            set_timestep_mask(x, each)
    outputs = run_graph(graph, inputs, _inference)
    return pack_outputs(graph, keras.tree.flatten(outputs))


def _inference(operation) -> Callable:
    """Return a function that runs an operation in inference mode, overriding the graph's mode."""
    replacement = row_by_row(operation)
    if replacement is not None:
        return replacement
    if not isinstance(operation, keras.Layer):
        return operation
    if has_sums(operation):
        return functools.partial(_run_inside, operation)
    # Layers without the argument `training` pass it to the layers inside.
    return lambda *args, **kwargs: operation(*args, **{**kwargs, "training": False})
