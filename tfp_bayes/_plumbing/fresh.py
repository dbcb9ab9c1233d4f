"""New initial weights for a model that exists, without touching what it did not learn in `fit`."""

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfp_bayes._plumbing.keras_internals import flatten_layers


def fresh_values(model: keras.Model, seed: int, own_seeds: bool = True) -> list[np.ndarray]:
    """Returns new initial values for `model.variables`, in their order.

    Weights and the states of training noise are those that `keras.utils.set_random_seed(seed)` and
    building the model would give. Frozen layers keep their values, as pretrained features must,
    and so do layers with a state that was adapted to data, such as `keras.layers.Normalization`,
    and `given_weights` of a layer, such as the arrays of a prior.

    Args:
        model: A built model with `get_config`.
        seed: Integer.
        own_seeds: Whether seeds that the model was configured with hold, of an initializer, a
            layer or a whole network: what they decide is then the same for every `seed`, which
            members of an ensemble must not be.
    """
    config = model.get_config()
    if not own_seeds:
        config = _without_seeds(config)
    with seeded(seed):
        other = type(model).from_config(config)
    kept = {
        id(variable)
        for layer in flatten_layers(model)
        for variable in (
            layer.weights
            if not layer.trainable or hasattr(layer, "adapt")
            else getattr(layer, "given_weights", ())
        )
    }
    return [
        variable.numpy() if id(variable) in kept else new.numpy()
        for variable, new in zip(model.variables, other.variables, strict=True)
    ]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds initializers and layers without a seed of their own that are made inside."""
    # Keras draws their seeds from Python's generator.
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def initialize(model: keras.Model, seed: int, own_seeds: bool = True) -> None:
    """Gives a model new initial weights and noise in place, see `fresh_values`."""
    assign_values(model.variables, fresh_values(model, seed, own_seeds))


def assign_values(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    """Assigns one value to each variable."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


@contextlib.contextmanager
def fresh_optimizer(model: keras.Model) -> Iterator[None]:
    """Lets the optimizer of a compiled model start anew, and leaves it as if it had not trained."""
    values = fresh_optimizer_values(model)
    assign_values(model.optimizer.variables, values)
    try:
        yield
    finally:
        assign_values(model.optimizer.variables, values)


def fresh_optimizer_values(model: keras.Model) -> list[np.ndarray]:
    """Returns values for `model.optimizer.variables` as if it had not taken a step.

    The learning rate is the one that it has now.

    Args:
        model: Compiled.
    """
    build_optimizer(model)
    unused = type(model.optimizer).from_config(model.optimizer.get_config())
    unused.build(model.trainable_variables)
    return [variable.numpy() for variable in unused.variables]


def build_optimizer(model: keras.Model) -> None:
    """Gives the optimizer of a compiled model its variables, if it has none yet.

    The one of mixed precision would get some of them twice.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def _without_seeds(config: Any) -> Any:
    """Returns a configuration whose seeds are None."""
    if isinstance(config, dict):
        return {k: None if k == "seed" else _without_seeds(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_without_seeds(each) for each in config)
    return config
