"""The one place that reaches into private parts of Keras; each has an assumption test."""

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
    """Returns the graph that a built model runs, None for a layer or a subclassed model."""
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        return model._functional
    if isinstance(model, Functional) and type(model).call is Functional.call:
        return model
    return None


def has_graph(model: keras.layers.Layer) -> bool:
    """Tells whether a layer is a built functional or Sequential model that runs its graph."""
    return graph_of(model) is not None


def graph_nodes(graph: keras.Function) -> list:
    """Lists the calls of operations in a graph, each after those it reads from."""
    depths = sorted(graph._nodes_by_depth, reverse=True)
    return [node for d in depths for node in graph._nodes_by_depth[d] if not node.is_input]


def run_graph(model: keras.Model, inputs, replace: Callable[[keras.Operation], Callable]) -> object:
    """Runs the graph of a functional model with each of its operations replaced.

    Args:
        model: A functional model.
        inputs: Tensors, symbolic or not, in the structure of the model's inputs.
        replace: Function of an operation that returns what is called in its place.

    Returns:
        Tensors in the structure of the model's outputs.
    """
    return Function._run_through_graph(model, inputs, operation_fn=replace)


def is_sum(operation: keras.Operation) -> bool:
    """Tells whether an operation is `keras.ops.mean` or `sum`, with their `axis` and `keepdims`."""
    return type(operation) in (Mean, Sum)


def standardize_inputs(graph: Functional, inputs) -> list:
    """Orders inputs given by name, casts them and adapts their rank, as the model's call does."""
    return graph._standardize_inputs(inputs)


def pack_outputs(graph: Functional, outputs: list):
    """Packs a flat list of outputs into the structure that the model returns."""
    return keras.tree.pack_sequence_as(graph._outputs_struct, outputs)


def copy_timestep_mask(layer: keras.layers.Layer, x, outputs) -> None:
    """Gives outputs the mask of time steps that calling `layer(x)` would give them."""
    mask = get_keras_mask(x)
    if mask is not None and layer.supports_masking:
        set_keras_mask(outputs, layer.compute_mask(x, mask))


def functional_constructor(init: Callable) -> Callable:
    """Decorates a constructor `(inputs, outputs, name, *, ...)` so that Keras saves the graph.

    Keras takes a class for a functional model by its constructor. Before 3.15 it compares what
    `inspect.getfullargspec` finds with what it finds for `(*args, **kwargs)`, since its own
    constructor is wrapped, and from 3.15 on it accepts that too.
    """

    @functools.wraps(init)
    def wrapper(*args, **kwargs):
        return init(*args, **kwargs)

    return wrapper


def is_functional_like(cls: type) -> bool:
    """Tells whether Keras makes copies of a functional model as `cls(inputs, outputs, name)`."""
    return functional_like_constructor(cls)


def input_ranks(layer: keras.layers.Layer) -> set[int]:
    """Returns the ranks of what a layer is called on in graphs."""
    return {len(x.shape) for node in layer._inbound_nodes for x in node.input_tensors}


def has_history(tensor) -> bool:
    """Tells whether a tensor is symbolic and was recorded by the operation that it comes from."""
    return isinstance(tensor, keras.KerasTensor) and hasattr(tensor, "_keras_history")


def input_layer(tensor: keras.KerasTensor) -> keras.layers.InputLayer:
    """Returns the layer that an input of a model comes from."""
    return tensor._keras_history.operation


def calls(model: keras.Model) -> list[tuple[keras.Operation, dict]]:
    """Lists what a functional or Sequential model calls: operations and keyword arguments."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    return [(node.operation, node.arguments.kwargs) for node in graph_nodes(graph)]


def flatten_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Lists a layer and all the layers inside it, as Keras walks them to collect weights."""
    return list(layer._flatten_layers(include_self=True, recursive=True))


def copy_operation(operation: keras.Operation) -> keras.Operation:
    """Copies a stateless operation (`x + y`, `keras.ops.relu`), whatever it was made with."""
    copy = object.__new__(type(operation))
    vars(copy).update(vars(operation), _inbound_nodes=[], _outbound_nodes=[])
    return copy


def copy_lambda(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    """Copies a Lambda layer with its function as it is, which its configuration may not hold."""
    return type(layer)(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        **keras.layers.Layer.get_config(layer),
    )


def num_dropout_masks(cell: keras.layers.Layer) -> int | None:
    """Returns how many masks a recurrent cell wants, one for each gate; None for a single one."""
    return getattr(cell, "dropout_mask_count", None)


def set_dropout_masks(cell: keras.layers.Layer, of_inputs, of_state) -> None:
    """Gives a recurrent cell its masks for the next sequence, which it draws itself otherwise.

    Args:
        cell: A Keras LSTM or GRU cell.
        of_inputs: A mask (B, F) or (1, F), or a list of `num_dropout_masks`; None without dropout.
        of_state: Likewise (B, units), for the recurrent state.
    """
    cell._dropout_mask = of_inputs
    cell._recurrent_dropout_mask = of_state


def requested_weights(layer: keras.layers.Layer, input_shape: tuple) -> dict[str, tuple]:
    """Builds a layer without any weights, and returns those that it asked for.

    Args:
        layer: Not built yet.
        input_shape: Argument of its `build`.

    Returns:
        Pairs of a shape and an initializer, by the name of the weight.
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
    """Lets a recurrent cell compute with the given tensors, which it forgets in the end.

    Args:
        cell: A Keras LSTM or GRU cell, built without weights.
        **weights: Its `kernel`, `recurrent_kernel` and `bias`.
    """
    try:
        for name, value in weights.items():
            setattr(cell, name, value)
        yield
    finally:
        for name in weights:
            setattr(cell, name, None)


# What a Keras attention layer projects with, in its own order; gates are an option.
_PROJECTIONS = ("_query_dense", "_key_dense", "_gate_dense", "_value_dense", "_output_dense")


def replace_projections(
    attention: keras.layers.MultiHeadAttention,
    make: Callable[[keras.layers.EinsumDense], keras.layers.Layer],
) -> None:
    """Replaces what an attention layer projects with, in `build`.

    Args:
        attention: Its projections are built, and it is about to be.
        make: Function of a built projection that returns its built replacement.
    """
    for name in _PROJECTIONS:
        if hasattr(attention, name):
            _replace_sublayer(attention, name, make(getattr(attention, name)))


def replace_attention_dropout(
    attention: keras.layers.MultiHeadAttention, dropout: keras.layers.Layer
) -> None:
    """Replaces the dropout of the weights of an attention layer, in `build`."""
    _replace_sublayer(attention, "_dropout_layer", dropout)


def _replace_sublayer(layer: keras.layers.Layer, name: str, new: keras.layers.Layer) -> None:
    layer._tracker.untrack(getattr(layer, name))
    setattr(layer, name, new)


def current_call():
    """Returns what stands for the outermost call of a layer that is in progress, None outside."""
    return get_global_attribute("current_call_ctx")


def is_training_call() -> bool:
    """Tells whether the outermost call in progress has training=True."""
    return bool(getattr(current_call(), "training", None))


def timestep_mask(tensor) -> tf.Tensor | None:
    """Returns the mask of time steps that a tensor carries."""
    return get_keras_mask(tensor)


def set_timestep_mask(tensor, mask: tf.Tensor | None) -> None:
    """Lets a tensor carry a mask of time steps."""
    set_keras_mask(tensor, mask)


class CompiledLosses(CompileLoss):
    """Keras' compiled loss, in which something else is called in the place of each loss.

    Keras still assigns targets, outputs and sample weights to losses, and tracks each loss's mean
    where there are several.

    Args:
        compiled: The loss that `compile` has made.
        substitute: From a loss and its weight (None is 1) to what is called with the targets,
            the output and the sample weight of one output, and returns a mean.
    """

    def __init__(self, compiled: CompileLoss, substitute: Callable):
        super().__init__(
            compiled._user_loss, compiled._user_loss_weights, output_names=compiled.output_names
        )
        self._substitute = substitute

    def build(self, y_true, y_pred) -> None:
        """Resolves the losses for the structure of the outputs."""
        super().build(y_true, y_pred)
        for i, each in enumerate(losses := self._flat_losses):
            losses[i] = each._replace(loss=self._substitute(each.loss, each.loss_weights))


def compiled_loss(model: keras.Model) -> CompileLoss | None:
    """Returns the loss that `compile` has made, None if it was given none."""
    return model._compile_loss


def set_compiled_loss(model: keras.Model, loss: CompileLoss) -> None:
    """Replaces the loss that `compile` has made, whose trackers the model shows."""
    model._compile_loss = loss


class _ViewedMetrics(MetricsList):
    """The metrics of one output, each of which sees a view of it."""

    def __init__(self, metrics: MetricsList, view: Callable):
        super().__init__(metrics.metrics, output_name=metrics.output_name)
        self.view = view

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        for metric in self.metrics:
            seen = self.view(metric, y_true, y_pred)
            metric.update_state(*seen, sample_weight=sample_weight)


def view_metrics(model: keras.Model, y, y_pred, views: list[Callable | None]) -> None:
    """Lets the compiled metrics see views of targets and outputs.

    Args:
        model: A compiled model.
        y: Targets.
        y_pred: Outputs.
        views: For each output, in the order of `keras.tree.flatten`, from a metric, targets and
            output to what its `update_state` is given; None leaves it as it is.
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
