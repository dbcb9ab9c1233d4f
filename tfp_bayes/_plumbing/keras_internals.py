"""The one place that reaches into private parts of Keras; each has an assumption test."""

from collections.abc import Callable

import keras
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.ops.function import Function


def has_graph(model: keras.layers.Layer) -> bool:
    """Tells whether a layer is a built functional or Sequential model that runs its graph."""
    if isinstance(model, keras.Sequential):
        return type(model).call is keras.Sequential.call and model._functional is not None
    return isinstance(model, Functional) and type(model).call is Functional.call


def run_graph(model: keras.Model, inputs, replace: Callable[[keras.Operation], Callable]) -> object:
    """Runs the graph of a functional model with each of its operations replaced.

    Args:
        model: A functional model.
        inputs: Tensors, symbolic or not, in the structure of the model's inputs.
        replace: From an operation of the graph to what is called in its place.

    Returns:
        Tensors in the structure of the model's outputs.
    """
    return Function._run_through_graph(model, inputs, operation_fn=replace)


def is_functional_like(cls: type) -> bool:
    """Tells whether Keras makes copies of a functional model as `cls(inputs, outputs, name)`."""
    return functional_like_constructor(cls)


def has_history(tensor) -> bool:
    """Tells whether a tensor is symbolic and was recorded by the operation that it comes from."""
    return isinstance(tensor, keras.KerasTensor) and hasattr(tensor, "_keras_history")


def input_layer(tensor: keras.KerasTensor) -> keras.layers.InputLayer:
    """Returns the layer that an input of a model comes from."""
    return tensor._keras_history.operation


def calls(model: keras.Model) -> list[tuple[keras.Operation, dict]]:
    """Lists what a functional or Sequential model calls: operations and keyword arguments."""
    graph = model._functional if isinstance(model, keras.Sequential) else model
    nodes = [node for depth in graph._nodes_by_depth.values() for node in depth]
    return [(node.operation, node.arguments.kwargs) for node in nodes if not node.is_input]


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
