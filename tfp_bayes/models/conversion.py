"""Copies a model layer by layer, replacing some, and carries the weights over."""

from collections.abc import Callable

import keras
import numpy as np

# Layers with a kernel that have variational twins, by the name that the twins' names start with.
WITH_KERNEL = {
    getattr(keras.layers, name): name
    for name in ("Dense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv2D", "Conv2DTranspose")
}


def check_graph(model: keras.Model) -> None:
    """Raises ValueError unless the model is functional or Sequential, and built."""
    if not model.built or not getattr(model, "inputs", None):
        raise ValueError(
            "Expected a functional or Sequential `model`, built. "
            f"Received: {model.name!r} of type {type(model).__name__}, which has no graph. "
            "Hint: start it with keras.Input, or build it from layers with keras.Model(inputs, "
            "outputs)."
        )


def leaves(model: keras.Model) -> list[keras.layers.Layer]:
    """Lists the layers of a model and of the models nested in it, each once, in graph order."""
    found = {}
    for layer in model.layers:
        for leaf in leaves(layer) if isinstance(layer, keras.Model) else [layer]:
            if not isinstance(leaf, keras.layers.InputLayer):
                found[id(leaf)] = leaf
    return list(found.values())


def convert(
    model: keras.Model,
    replace: Callable[[keras.layers.Layer], keras.layers.Layer | None],
    set_weights: Callable[[keras.layers.Layer, keras.layers.Layer], None],
) -> keras.Model:
    """Copies a functional or Sequential model with some of its layers replaced.

    Shared layers stay shared, nested models nested.

    Args:
        model: A built model; it is not changed.
        replace: From a layer to the one in its place, or None to copy it with its weights.
        set_weights: `set_weights(old, new)` for each replaced layer, once built.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: If the model has no graph to copy.
    """
    check_graph(model)
    copied, replaced = [], []

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        new = replace(layer)
        if new is None:
            new = type(layer).from_config(layer.get_config())
            copied.append((layer, new))
        else:
            replaced.append((layer, new))
        return new

    # As a plain functional model, because a subclass may have a constructor of its own.
    if isinstance(model, keras.Sequential):
        ends = model.inputs[0], model.outputs[0]
    else:
        ends = model.input, model.output
    plain = keras.Model(*ends, name=model.name)
    result = keras.models.clone_model(plain, clone_function=copy, recursive=True)
    for old, new in copied:
        new.set_weights(old.get_weights())
    for old, new in replaced:
        set_weights(old, new)
    return result


def count_types(layers: list[keras.layers.Layer]) -> str:
    """Describes layers as "Conv2D 3, Dense 1"."""
    names, counts = np.unique([type(layer).__name__ for layer in layers], return_counts=True)
    return ", ".join(f"{name} {count}" for name, count in zip(names, counts))
