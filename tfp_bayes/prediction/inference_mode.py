"""Runs a model in inference mode: nothing is remembered, no noise but that of stochastic layers."""

import inspect
from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import flatten_layers, graph_nodes, graph_of
from tfp_bayes.layers import StochasticLayer

# Operations that draw from TensorFlow's own state, or from that of a tf.random.Generator.
_RANDOM_OPERATIONS = ("Random", "Normal", "Uniform", "Multinomial", "Rng")


def refuse_forced_training(model: keras.Model) -> None:
    """Refuses `layer(x, training=True)` anywhere in the graphs of a model.

    Its noise would not be a sample's, and its batch statistics would make a row's answer depend
    on other rows. Layers that train by default, such as Keras' augmentations, are fine: they are
    run with `training=False`.

    Raises:
        ValueError: With the name of the layer.
    """
    for each in flatten_layers(model):
        graph = graph_of(each)
        for node in [] if graph is None else graph_nodes(graph):
            if _is_forced(node):
                layer = node.operation
                if isinstance(layer, StochasticLayer):
                    hint = "leave training=True out; it is random at inference anyway"
                else:
                    hint = (
                        "leave training=True out; for noise at inference use "
                        "tfp_bayes.layers.MCDropout, which needs none"
                    )
                raise ValueError(
                    "Expected layers whose mode follows the model's. Received: layer "
                    f"{layer.name!r} of type {type(layer).__name__}, called with training=True. "
                    f"Hint: {hint}."
                )


def _is_forced(node) -> bool:
    layer = node.operation
    if not node.arguments.kwargs.get("training") or not isinstance(layer, keras.Layer):
        return False
    parameter = inspect.signature(layer.call).parameters.get("training")
    if parameter is None:
        return len(flatten_layers(layer)) > 1  # it passes its mode on to the layers inside
    return parameter.default is not True


def run_isolated(model: keras.Model, function: Callable, values, state: Iterable[tuple] = ()):
    """Returns `function(values)`, a part of a model, run without a trace in the model.

    Args:
        model: The model.
        function: Runs some of its layers with `training=False`.
        values: Its argument.
        state: Pairs of a variable of the model and the tensor to use in its place: weights, and
            the seeds of stochastic layers.

    Raises:
        ValueError: If the result depends on other random numbers, or a layer is in training mode
            nevertheless, as in a subclassed model that calls it with `training=True`. Both are
            known only while a graph is traced.
    """
    state = list(state)
    given = {id(variable) for variable, _ in state}
    seeds = [v for v in model.variables if is_seed(v) and id(v) not in given]
    state += [(v, tf.zeros(v.shape, v.dtype)) for v in seeds]
    num_operations = 0 if tf.executing_eagerly() else len(_operations())
    with keras.StatelessScope(state) as scope:
        before = dict(scope.state_mapping)
        outputs = function(values)
    changed = {key for key, value in scope.state_mapping.items() if value is not before.get(key)}
    _refuse_training_mode(model, changed)
    if changed - {id(v) for v in model.variables}:
        raise _foreign_noise("a seed generator that no layer owns")
    if not tf.executing_eagerly():
        for variable in seeds:
            if _reaches(before[id(variable)], outputs):
                raise _foreign_noise(_name_of_owner(model, variable))
        for operation in _operations()[num_operations:]:
            stateful = operation.op_def is not None and operation.op_def.is_stateful
            if stateful and any(name in operation.type for name in _RANDOM_OPERATIONS):
                raise _foreign_noise(f"TensorFlow operation {operation.name!r}")
    return outputs


def _refuse_training_mode(model: keras.Model, changed: set[int]) -> None:
    # A counter of calls (an integer) changes no answer; moving averages are those of training.
    for variable in model.non_trainable_weights:
        if id(variable) in changed and keras.backend.is_float_dtype(variable.dtype):
            raise ValueError(
                f"Expected layers in inference mode. Received: {_name_of_owner(model, variable)}, "
                f"which updates {variable.name!r}. Hint: do not call it with training=True."
            )


def _foreign_noise(source: str) -> ValueError:
    return ValueError(
        f"Expected noise from stochastic layers alone. Received: {source}, which is random in "
        "inference mode. Hint: replace it by tfp_bayes.layers.MCDropout, or derive the layer from "
        "tfp_bayes.layers.StochasticLayer and draw with its draw_seed()."
    )


def is_seed(variable: keras.Variable) -> bool:
    """Tells whether a variable is the state of a random generator of Keras."""
    return variable.name == "seed_generator_state"


def _name_of_owner(model: keras.Model, variable: keras.Variable) -> str:
    """Describes the innermost layer that has a variable."""
    owners = [
        layer for layer in flatten_layers(model) if any(v is variable for v in layer.variables)
    ]
    owner = min(owners, key=lambda layer: len(flatten_layers(layer)))
    return f"layer {owner.name!r} of type {type(owner).__name__}"


def _operations() -> list[tf.Operation]:
    return tf.compat.v1.get_default_graph().get_operations()


def _reaches(source: tf.Tensor, outputs) -> bool:
    """Returns whether any of the outputs is computed from a tensor of the same graph."""
    targets = {x.ref() for x in keras.tree.flatten(outputs) if tf.is_tensor(x)}
    todo, seen = [source], set()
    while todo:
        tensor = todo.pop()
        if tensor.ref() in targets:
            return True
        if tensor.ref() not in seen:
            seen.add(tensor.ref())
            todo += [x for operation in tensor.consumers() for x in operation.outputs]
    return False
