"""Check that a model is deterministic at inference."""

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import calls, flatten_layers, has_graph
from tfp_bayes._plumbing.random_operations import is_random
from tfp_bayes.layers import stochastic_layers


def check_deterministic(model: keras.Model) -> None:
    """Raise ValueError if any part of a model is random at inference.

    Args:
        model: A model with a graph.

    Raises:
        ValueError: If a layer is random. The message names the layers.
    """
    names = [layer.name for layer in stochastic_layers(model)]
    if not names and _may_be_random(model):
        names = _random_scopes(model)
    if names:
        raise ValueError(
            "Expected layers that have a plain twin or are not random at inference. "
            f"Received: {model.name!r} with the random layers {names}. Hint: remove them from the "
            "model, or let them return their mean with training=False, and do not call them with "
            "training=True."
        )


def _may_be_random(model: keras.Model) -> bool:
    """Return whether a model has layers of other packages, Lambdas, or training=True in calls."""
    for layer in flatten_layers(model):
        own = type(layer).__module__.startswith(("keras.", "tfp_bayes."))
        if not own or isinstance(layer, keras.layers.Lambda):
            return True
        if has_graph(layer) and any(kwargs.get("training") for _, kwargs in calls(layer)):
            return True
    return False


def _random_scopes(model: keras.Model) -> list[str]:
    """Trace a model in inference mode, and list the layers that draw random numbers."""
    specs = [tf.TensorSpec(each.shape, each.dtype) for each in model.inputs]
    inference = tf.function(lambda inputs: model(inputs, training=False), autograph=False)
    inputs = keras.tree.pack_sequence_as(model.input, specs)
    graph = inference.get_concrete_function(inputs).graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    scopes = [node.name.split("/")[:-1] for node in nodes if is_random(node.op)]
    names = {layer.name for layer in flatten_layers(model)}
    return sorted({_innermost(scope, names) for scope in scopes})


def _innermost(scope: list[str], names: set[str]) -> str:
    """Return the name of the innermost layer that contains a node of a graph."""
    for part in reversed(scope):
        for name in (part, part.rpartition("_")[0]):  # TensorFlow may append a number
            if name in names:
                return name
    return "/".join(scope)
