"""New initial weights for a model that exists, without touching what it did not learn in `fit`."""

import random

import keras
import numpy as np

from tfp_bayes._plumbing.keras_internals import flatten_layers


def fresh_values(model: keras.Model, seed: int) -> list[np.ndarray]:
    """Returns new initial values for `model.variables`, in their order.

    Weights and the states of training noise are those that `keras.utils.set_random_seed(seed)` and
    building the model would give. Frozen layers keep their values, as pretrained features must,
    and so do layers with a state that was adapted to data, such as `keras.layers.Normalization`.

    Args:
        model: A built model with `get_config`.
        seed: Integer.
    """
    # Keras draws the seeds of unseeded initializers and layers from Python's generator.
    state = random.getstate()
    random.seed(seed)
    try:
        other = type(model).from_config(model.get_config())
    finally:
        random.setstate(state)
    kept = {
        id(variable)
        for layer in flatten_layers(model)
        if not layer.trainable or hasattr(layer, "adapt")
        for variable in layer.weights
    }
    return [
        variable.numpy() if id(variable) in kept else new.numpy()
        for variable, new in zip(model.variables, other.variables, strict=True)
    ]


def initialize(model: keras.Model, seed: int) -> None:
    """Gives a model new initial weights and noise in place, see `fresh_values`."""
    for variable, value in zip(model.variables, fresh_values(model, seed), strict=True):
        variable.assign(value)


def fresh_optimizer_values(model: keras.Model) -> list[np.ndarray]:
    """Returns values for `model.optimizer.variables` as if it had not taken a step.

    The learning rate is the one that it has now.

    Args:
        model: Compiled.
    """
    model.optimizer.build(model.trainable_variables)
    unused = type(model.optimizer).from_config(model.optimizer.get_config())
    unused.build(model.trainable_variables)
    return [variable.numpy() for variable in unused.variables]
