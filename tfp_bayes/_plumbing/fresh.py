"""New initial weights for an existing model, except for weights that `fit` does not train."""

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfp_bayes._plumbing.keras_internals import flatten_layers


def fresh_values(model: keras.Model, seed: int, own_seeds: bool = True) -> list[np.ndarray]:
    """Return new initial values for `model.variables`, in their order.

    Weights and seed states of training noise get the values that they would have after
    `keras.utils.set_random_seed(seed)` and building the model. These keep their values: frozen
    layers, such as pretrained features; layers with state adapted to data, such as
    `keras.layers.Normalization`; and the `given_weights` of a layer, such as arrays of a prior.

    Args:
        model: A built model with `get_config`.
        seed: Integer.
        own_seeds: Whether to respect the seeds in the model's configuration: those of an
            initializer, a layer or a whole network. What they determine is then the same for
            every `seed`. Members of an ensemble need False.

    Raises:
        ValueError: If the configuration does not describe the model.
    """
    config = model.get_config()
    if not own_seeds:
        config = _without_seeds(config)
    with seeded(seed):
        other = type(model).from_config(config)
        if len(other.variables) < len(model.variables):  # a subclass that a call builds
            other.build_from_config(model.get_build_config() or {})
    shapes, fresh = ([(v.shape, v.dtype) for v in each.variables] for each in (model, other))
    if shapes != fresh:
        raise ValueError(
            "Expected a `model` that its configuration describes, to make new initial weights. "
            f"Received: model={model.name!r} of type {type(model).__name__}, whose from_config "
            f"makes {len(fresh)} variables of {len(shapes)}, or others. Hint: return all arguments "
            "of the constructor from get_config, and build all layers in `build` or `call`."
        )
    kept = _kept(model)
    return [
        variable.numpy() if id(variable) in kept else new.numpy()
        for variable, new in zip(model.variables, other.variables, strict=True)
    ]


def constant_values(model: keras.Model) -> list[np.ndarray | None] | None:
    """Return the `fresh_values` of a model whose trainable weights are never trained.

    Entries of variables that keep their values are None, and so are those of trainable weights and
    of the states of training noise, which are not used. The result is None if the value of another
    weight depends on the seed.
    """
    weights = {id(v) for v in model.non_trainable_weights} - _kept(model)
    values: list[np.ndarray | None] = []
    for variable, one, other in zip(model.variables, *(fresh_values(model, s) for s in (0, 1))):
        if id(variable) not in weights:
            values.append(None)
        elif np.array_equal(one, other, equal_nan=True):
            values.append(one)
        else:
            return None
    return values


def _kept(model: keras.Model) -> set[int]:
    """Return the identities of the variables that keep their values, see `fresh_values`."""
    return {
        id(variable)
        for layer in flatten_layers(model)
        for variable in (
            layer.weights
            if not layer.trainable or hasattr(layer, "adapt")
            else getattr(layer, "given_weights", ())
        )
    }


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the initializers and layers that are made in the context without their own seed."""
    # Keras draws their seeds from Python's generator.
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def initialize(model: keras.Model, seed: int, own_seeds: bool = True) -> None:
    """Reset a model to new initial weights and noise in place, see `fresh_values`."""
    assign_values(model.variables, fresh_values(model, seed, own_seeds))


def assign_values(variables: Sequence[keras.Variable], values: Sequence[np.ndarray]) -> None:
    """Assign one value to each variable."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


@contextlib.contextmanager
def fresh_optimizer(model: keras.Model) -> Iterator[None]:
    """Reset the optimizer of a compiled model to its state before training, on entry and exit."""
    values = fresh_optimizer_values(model)
    assign_values(model.optimizer.variables, values)
    try:
        yield
    finally:
        assign_values(model.optimizer.variables, values)


def fresh_optimizer_values(model: keras.Model) -> list[np.ndarray]:
    """Return the values that `model.optimizer.variables` have before the first step.

    The learning rate is the current one.

    Args:
        model: A compiled model.
    """
    build_optimizer(model)
    unused = type(model.optimizer).from_config(model.optimizer.get_config())
    unused.build(model.trainable_variables)
    return [variable.numpy() for variable in unused.variables]


def build_optimizer(model: keras.Model) -> None:
    """Build the optimizer of a compiled model, unless it is built.

    Building it twice would duplicate some variables of the optimizer of mixed precision.
    """
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def _without_seeds(config: Any) -> Any:
    """Return the configuration with every seed set to None."""
    if isinstance(config, dict):
        return {k: None if k == "seed" else _without_seeds(v) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_without_seeds(each) for each in config)
    return config
