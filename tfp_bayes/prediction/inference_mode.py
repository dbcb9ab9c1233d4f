"""Inference mode: a model changes no state, and only stochastic layers draw random numbers."""

import inspect
from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import flatten_layers, graph_nodes, graph_of
from tfp_bayes._plumbing.random_operations import is_random
from tfp_bayes.layers import StochasticLayer


def refuse_forced_training(model: keras.Model) -> None:
    """Raise ValueError if a graph of the model calls `layer(x, training=True)`.

    Such noise would not belong to a posterior sample, and batch statistics would make the
    prediction of a row depend on other rows. Layers whose `training` is True by default, such as
    Keras' augmentations, are allowed: they are run with `training=False`.

    Raises:
        ValueError: If there is such a call. The error names the layer.
    """
    for each in flatten_layers(model):
        graph = graph_of(each)
        for node in [] if graph is None else graph_nodes(graph):
            if _is_forced(node):
                layer = node.operation
                if isinstance(layer, StochasticLayer):
                    hint = "omit training=True; the layer is random at inference anyway"
                else:
                    hint = (
                        "omit training=True; for noise at inference use "
                        "tfp_bayes.layers.MCDropout, which does not need it"
                    )
                raise ValueError(
                    "Expected layers that follow the mode of the model. Received: layer "
                    f"{layer.name!r} of type {type(layer).__name__}, called with training=True. "
                    f"Hint: {hint}."
                )


def _is_forced(node) -> bool:
    layer = node.operation
    if not node.arguments.kwargs.get("training") or not isinstance(layer, keras.Layer):
        return False
    parameter = inspect.signature(layer.call).parameters.get("training")
    if parameter is None:
        return len(flatten_layers(layer)) > 1  # the layer passes its mode to the layers inside
    return parameter.default is not True


def run_isolated(model: keras.Model, function: Callable, values, state: Iterable[tuple] = ()):
    """Return `function(values)`, a part of a model, without changing the model's state.

    Args:
        model: Model that the part belongs to.
        function: Function that runs layers of the model with `training=False`.
        values: Argument of the function.
        state: Pairs of a variable of the model and a tensor to use instead: weights, and the
            seeds of stochastic layers.

    Raises:
        ValueError: If the result depends on other random numbers, most of which are found only
            while a graph is traced, or a layer updates its statistics, as in a subclassed model
            that calls it with `training=True`.
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
            # Stateful ones draw from the state of TensorFlow or of a tf.random.Generator.
            stateful = operation.op_def is not None and operation.op_def.is_stateful
            if stateful and is_random(operation.type):
                raise _foreign_noise(f"TensorFlow operation {operation.name!r}")
    return outputs


def _refuse_training_mode(model: keras.Model, changed: set[int]) -> None:
    # An integer, such as a counter of calls, is harmless. A float is a moving average, which
    # only training updates.
    for variable in model.non_trainable_weights:
        if id(variable) in changed and keras.backend.is_float_dtype(variable.dtype):
            raise ValueError(
                f"Expected layers in inference mode. Received: {_name_of_owner(model, variable)}, "
                f"which updates {variable.name!r}. Hint: do not call the layer with training=True."
            )


def _foreign_noise(source: str) -> ValueError:
    return ValueError(
        f"Expected noise only from stochastic layers. Received: {source}, which is random in "
        "inference mode. Hint: replace it by tfp_bayes.layers.MCDropout, or subclass "
        "tfp_bayes.layers.StochasticLayer and draw with its draw_seed()."
    )


def is_seed(variable: keras.Variable) -> bool:
    """Return whether a variable is the state of a Keras seed generator."""
    return variable.name == "seed_generator_state"


def _name_of_owner(model: keras.Model, variable: keras.Variable) -> str:
    """Describe the innermost layer that owns a variable."""
    owners = [
        layer for layer in flatten_layers(model) if any(v is variable for v in layer.variables)
    ]
    owner = min(owners, key=lambda layer: len(flatten_layers(layer)))
    return f"layer {owner.name!r} of type {type(owner).__name__}"


def _operations() -> list[tf.Operation]:
    return tf.compat.v1.get_default_graph().get_operations()


def _reaches(source: tf.Tensor, outputs) -> bool:
    """Return whether any output depends on a tensor of the same graph."""
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
