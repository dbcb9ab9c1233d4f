"""Access to private parts of Keras. Each one used here has an assumption test."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.ops.function import Function
from keras.src.ops.numpy import Mean, Sum
from keras.src.trainers.compile_utils import CompileLoss, MetricsList


def graph_of(model: keras.layers.Layer) -> Functional | None:
    """Return the graph that a built model runs, or None for a layer or a subclassed model."""
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        return model._functional
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    return None


def has_graph(model: keras.layers.Layer) -> bool:
    """Return whether a layer is a built functional or Sequential model with Keras' own `call`."""
    return graph_of(model) is not None


def graph_nodes(graph: keras.Function) -> list:
    """List the calls of operations in a graph, in topological order."""
    depths = sorted(graph._nodes_by_depth, reverse=True)
    return [node for d in depths for node in graph._nodes_by_depth[d] if not node.is_input]


def run_graph(model: keras.Model, inputs, replace: Callable[[keras.Operation], Callable]) -> object:
    """Run the graph of a functional model with each of its operations replaced.

    Args:
        model: A functional model.
        inputs: Tensors, symbolic or not, in the structure of the model's inputs.
        replace: Function that takes an operation and returns the callable to run in its place.

    Returns:
        Tensors in the structure of the model's outputs.
    """
    return Function._run_through_graph(model, inputs, operation_fn=replace)


def is_sum(operation: keras.Operation) -> bool:
    """Return whether an operation is `keras.ops.mean` or `sum`, with `axis` and `keepdims`."""
    return type(operation) in (Mean, Sum)


def standardize_inputs(graph: Functional, inputs) -> list:
    """Sort inputs given by name, cast them and adapt their rank, as the model's call does."""
    return graph._standardize_inputs(inputs)


def pack_outputs(graph: Functional, outputs: list):
    """Pack a flat list of outputs into the structure of the model's outputs."""
    return keras.tree.pack_sequence_as(graph._outputs_struct, outputs)


def copy_timestep_mask(layer: keras.layers.Layer, x, outputs) -> None:
    """Set the time step mask of outputs that calling `layer(x)` would set."""
    mask = get_keras_mask(x)
    if mask is not None and layer.supports_masking:
        set_keras_mask(outputs, layer.compute_mask(x, mask))


def functional_constructor(init: Callable) -> Callable:
    """Decorate a constructor `(inputs, outputs, name, *, ...)` so that Keras saves the graph.

    Keras recognizes a functional model by its constructor's signature. Keras' own constructor is
    wrapped, so before 3.15 Keras requires the `inspect.getfullargspec` of
    `(*args, **kwargs)`. Since 3.15 it also accepts other signatures.
    """

    @functools.wraps(init)
    def wrapper(*args, **kwargs):
        return init(*args, **kwargs)

    return wrapper


def is_functional_like(cls: type) -> bool:
    """Return whether Keras copies a functional model as `cls(inputs, outputs, name)`."""
    return functional_like_constructor(cls)


def input_ranks(layer: keras.layers.Layer) -> set[int]:
    """Return the ranks of the tensors that a layer is called on in graphs."""
    return {len(x.shape) for node in layer._inbound_nodes for x in node.input_tensors}


def has_history(tensor) -> bool:
    """Return whether a tensor is symbolic and records the operation that made it."""
    return isinstance(tensor, keras.KerasTensor) and hasattr(tensor, "_keras_history")


def input_layer(tensor: keras.KerasTensor) -> keras.layers.InputLayer:
    """Return the layer that an input of a model comes from."""
    return tensor._keras_history.operation


def calls(model: keras.Model) -> list[tuple[keras.Operation, dict]]:
    """List the operations that a functional or Sequential model calls, with keyword arguments."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return [(node.operation, node.arguments.kwargs) for node in graph_nodes(graph)]


def flatten_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """List a layer and all layers inside it, in the order in which Keras collects weights."""
    return list(layer._flatten_layers(include_self=True, recursive=True))


def copy_operation(operation: keras.Operation) -> keras.Operation:
    """Copy a stateless operation (`x + y`, `keras.ops.relu`) with all its arguments."""
    copy = object.__new__(type(operation))
    vars(copy).update(vars(operation), _inbound_nodes=[], _outbound_nodes=[])
    return copy


def copy_lambda(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    """Copy a Lambda layer, sharing its function, which its configuration may not contain."""
    return type(layer)(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        **keras.layers.Layer.get_config(layer),
    )


def num_dropout_masks(cell: keras.layers.Layer) -> int | None:
    """Return a recurrent cell's number of dropout masks, one per gate, or None for one mask."""
    return getattr(cell, "dropout_mask_count", None)


def set_dropout_masks(cell: keras.layers.Layer, of_inputs, of_state) -> None:
    """Set the masks of a recurrent cell for the next sequence. Otherwise the cell draws its own.

    Args:
        cell: A Keras LSTM or GRU cell.
        of_inputs: A mask (B, F) or (1, F) of the inputs, or a list of `num_dropout_masks` masks.
            None means no dropout.
        of_state: The same for the recurrent state, with shape (B, units) or (1, units).
    """
    cell._dropout_mask = of_inputs
    cell._recurrent_dropout_mask = of_state


def requested_weights(layer: keras.layers.Layer, input_shape: tuple) -> dict[str, tuple]:
    """Build a layer without creating weights, and return the weights that it requested.

    Args:
        layer: A layer that is not built.
        input_shape: Argument of its `build`.

    Returns:
        Dictionary of weight names to pairs of a shape and an initializer.
    """
    requests = {}

    def record(*, name: str, shape: tuple, initializer, **_) -> None:
        requests[name] = (tuple(shape), initializer)

    layer.add_weight = record
    try:
        layer.build(input_shape)
    finally:
        del layer.add_weight
    return requests


@contextlib.contextmanager
def cell_with_weights(cell: keras.layers.Layer, **weights) -> Iterator[None]:
    """Use the given tensors as weights of a recurrent cell inside the context.

    Args:
        cell: A Keras LSTM or GRU cell, built without weights.
        **weights: Tensors for its `kernel`, `recurrent_kernel` and `bias`.
    """
    try:
        for name, value in weights.items():
            setattr(cell, name, value)
        yield
    finally:
        for name in weights:
            setattr(cell, name, None)


# The projections of a Keras attention layer, in its own order. The gate is optional.
_PROJECTIONS = ("_query_dense", "_key_dense", "_gate_dense", "_value_dense", "_output_dense")


def replace_projections(
    attention: keras.layers.MultiHeadAttention,
    make: Callable[[keras.layers.EinsumDense], keras.layers.Layer],
) -> None:
    """Replace the projections of an attention layer while it is being built.

    Args:
        attention: An attention layer whose projections are built already.
        make: Function that takes a built projection and returns its built replacement.
    """
    for name in _PROJECTIONS:
        if hasattr(attention, name):
            _replace_sublayer(attention, name, make(getattr(attention, name)))


def replace_attention_dropout(
    attention: keras.layers.MultiHeadAttention, dropout: keras.layers.Layer
) -> None:
    """Replace the dropout layer of the attention weights while an attention layer is built."""
    _replace_sublayer(attention, "_dropout_layer", dropout)


def _replace_sublayer(layer: keras.layers.Layer, name: str, new: keras.layers.Layer) -> None:
    layer._tracker.untrack(getattr(layer, name))
    setattr(layer, name, new)


def current_call():
    """Return Keras' context of the outermost layer call in progress, or None outside any call."""
    return get_global_attribute("current_call_ctx")


def is_training_call() -> bool:
    """Return whether the outermost call in progress has training=True."""
    return bool(getattr(current_call(), "training", None))


def timestep_mask(tensor) -> tf.Tensor | None:
    """Return the time step mask of a tensor, if it has one."""
    return get_keras_mask(tensor)


def set_timestep_mask(tensor, mask: tf.Tensor | None) -> None:
    """Set the time step mask of a tensor."""
    set_keras_mask(tensor, mask)


class CompiledLosses(CompileLoss):
    """Keras' compiled loss, with another function called in place of each loss.

    Keras still assigns targets, outputs and sample weights to losses, and tracks the mean of each
    loss if there are several.

    Args:
        compiled: The loss that `compile` made.
        substitute: Function that takes a loss and its weight (None means 1) and returns the
            function to call instead. That function takes targets, output and sample weight of
            one output and returns a mean.
    """

    def __init__(self, compiled: CompileLoss, substitute: Callable):
        super().__init__(
            compiled._user_loss, compiled._user_loss_weights, output_names=compiled.output_names
        )
        self._substitute = substitute

    def build(self, y_true, y_pred) -> None:
        """Assign the losses to the outputs."""
        super().build(y_true, y_pred)
        for i, each in enumerate(losses := self._flat_losses):
            losses[i] = each._replace(loss=self._substitute(each.loss, each.loss_weights))


def compiled_loss(model: keras.Model) -> CompileLoss | None:
    """Return the loss that `compile` made, or None if the model has no loss."""
    return model._compile_loss


def set_compiled_loss(model: keras.Model, loss: CompileLoss) -> None:
    """Replace the loss that `compile` made. The model reports the trackers of the new loss."""
    model._compile_loss = loss


def build_losses_and_metrics(model: Functional, y) -> None:
    """Create what `compile` was given by name, and its variables, unless they exist already.

    Args:
        model: A compiled functional model.
        y: Targets, or their specifications. Only their ranks and last dimensions matter. Nothing
            happens if these are unknown or the structure is not that of the outputs.
    """
    shapes = [getattr(each, "shape", None) for each in keras.tree.flatten(y)]
    are_known = all(getattr(shape, "rank", shape) is not None for shape in shapes)
    if not are_known or len(shapes) != len(model.outputs):
        return
    for compiled in (model._compile_loss, model._compile_metrics):
        if compiled is not None and not compiled.built:
            compiled.build(y, pack_outputs(model, model.outputs))


class _ViewedMetrics(MetricsList):
    """The metrics of one output, each of which receives a view of the targets and the output."""

    def __init__(self, metrics: MetricsList, view: Callable):
        super().__init__(metrics.metrics, output_name=metrics.output_name)
        self.view = view

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        for metric in self.metrics:
            seen = self.view(metric, y_true, y_pred)
            metric.update_state(*seen, sample_weight=sample_weight)


def view_metrics(model: keras.Model, y, y_pred, views: list[Callable | None]) -> None:
    """Make the compiled metrics receive views of targets and outputs.

    Args:
        model: A compiled model.
        y: Targets.
        y_pred: Outputs.
        views: One function per output, in the order of `keras.tree.flatten`. It takes a metric,
            targets and output, and returns the arguments of the metric's `update_state`. None
            leaves the metrics of that output unchanged.
    """
    compiled = model._compile_metrics
    if compiled is None:
        return
    if not compiled.built:
        compiled.build(y, y_pred)
    in_order = compiled._flatten_y(keras.tree.pack_sequence_as(y_pred, views))
    for lists in (compiled._flat_metrics, compiled._flat_weighted_metrics):
        for i, (metrics, view) in enumerate(zip(lists, in_order)):
            if metrics and view is not None and not isinstance(metrics, _ViewedMetrics):
                lists[i] = _ViewedMetrics(metrics, view)
