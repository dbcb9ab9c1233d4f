"""The check that a model computes the same outputs each time it is asked."""

import keras
import tensorflow as tf

from tfp_bayes._plumbing.keras_internals import calls, flatten_layers, has_graph
from tfp_bayes.layers import stochastic_layers

# Parts of the names of TensorFlow operations that draw random numbers.
_RANDOM_OPS = ("Random", "Multinomial", "TruncatedNormal", "Rng")


def check_deterministic(model: keras.Model) -> None:
    """Raises ValueError if something in a plain model is random at inference.

    Args:
        model: A model with a graph.

    Raises:
        ValueError: With the names of the layers.
    """
    names = [layer.name for layer in stochastic_layers(model)]
    if not names and _may_be_random(model):
        names = _random_scopes(model)
    if names:
        raise ValueError(
            "Expected layers that have a plain twin, or are not random at inference. "
            f"Received: {model.name!r} with random {names}. Hint: take them out of the model, or "
            "make them return their mean with training=False and call them without training=True."
        )


def _may_be_random(model: keras.Model) -> bool:
    """Tells whether layers are not Keras' own, or Keras' own are told to train at inference."""
    for layer in flatten_layers(model):
        own = type(layer).__module__.startswith(("keras.", "tfp_bayes."))
        if not own or isinstance(layer, keras.layers.Lambda):
            return True
        if has_graph(layer) and any(kwargs.get("training") for _, kwargs in calls(layer)):
            return True
    return False


def _random_scopes(model: keras.Model) -> list[str]:
    """Traces a model as it is at inference, and lists the layers that draw random numbers."""
    specs = [tf.TensorSpec(each.shape, each.dtype) for each in model.inputs]
    inference = tf.function(lambda inputs: model(inputs, training=False), autograph=False)
    inputs = keras.tree.pack_sequence_as(model.input, specs)
    graph = inference.get_concrete_function(inputs).graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    scopes = [
        node.name.split("/")[:-1] for node in nodes if any(word in node.op for word in _RANDOM_OPS)
    ]
    names = {layer.name for layer in flatten_layers(model)}
    return sorted({_innermost(scope, names) for scope in scopes})


def _innermost(scope: list[str], names: set[str]) -> str:
    """Returns the name of the innermost layer that a node of a graph is in."""
    for part in reversed(scope):
        for name in (part, part.rpartition("_")[0]):  # TensorFlow may add a number
            if name in names:
                return name
    return "/".join(scope)
