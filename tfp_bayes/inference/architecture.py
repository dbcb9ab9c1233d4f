"""A description of the function that a model computes, without the values of its weights."""

import json
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Settings that affect how a layer is found or trained, but not what it computes.
_IRRELEVANT = {"module", "registered_name", "trainable", "seed", "prior_scale", "initial_rate"}
_IRRELEVANT_ENDINGS = ("_initializer", "_regularizer", "_constraint", "_prior", "_config")
# Keys of a configuration whose values are names of layers.
_REFERENCES = {"name", "input_layers", "output_layers", "keras_history"}
# Attributes with the learned state of preprocessing layers. The state is not in a variable, or is
# a copy of one, so a draw of the variables does not change it.
_STATE = {
    keras.layers.Normalization: ("mean", "variance"),
    keras.layers.Discretization: ("bin_boundaries",),
    keras.layers.StringLookup: ("get_vocabulary", "idf_weights_const"),
    keras.layers.IntegerLookup: ("get_vocabulary", "idf_weights_const"),
    keras.layers.TextVectorization: ("get_vocabulary",),
}


def describe_architecture(model: keras.Model) -> list:
    """Describe a model's layers, their connections and their configurations.

    Two models with equal descriptions and equal weights compute the same function, regardless of
    the names of their layers and of how they were initialized or trained.

    Args:
        model: A built Keras model.

    Returns:
        The description as plain JSON.
    """
    layers = list(model._flatten_layers(include_self=True, recursive=True))
    numbers = {layer.name: i for i, layer in enumerate(layers)}
    described = [_describe_layer(layer, numbers) for layer in layers]
    return json.loads(json.dumps(described, default=_plain))


def find_difference(a: Any, b: Any, where: str = "model") -> str | None:
    """Return where two descriptions differ, or None if they are equal.

    Settings that only one description has are ignored, because releases of Keras add new ones.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = [(f"{where}.{key}", a[key], b[key]) for key in a if key in b]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(f"{where}[{i}]", *pair) for i, pair in enumerate(zip(a, b))]
    else:
        return None if a == b else f"{where}: {_short(a)} and {_short(b)}"
    differences = (find_difference(x, y, place) for place, x, y in pairs)
    return next((each for each in differences if each is not None), None)


def _describe_layer(layer: keras.layers.Layer, numbers: dict[str, int]) -> dict:
    try:
        config = layer.get_config()
    except NotImplementedError:  # a subclassed model; its layers are described separately
        config = None
    names = [name for kind in _STATE if isinstance(layer, kind) for name in _STATE[kind]]
    state = {name: getattr(layer, name, None) for name in names}
    return {
        "class": type(layer).__name__,
        "config": _relevant(config, numbers),
        "state": {name: each() if callable(each) else each for name, each in state.items()},
    }


def _relevant(config: Any, numbers: dict[str, int]) -> Any:
    if isinstance(config, list | tuple):
        return [_relevant(each, numbers) for each in config]
    if not isinstance(config, dict):
        return config
    if isinstance(config.get("layers"), list):  # a graph, with its own scope of names
        names = [layer["config"]["name"] for layer in config["layers"]]
        numbers = {**numbers, **{name: i for i, name in enumerate(names)}}
        # A model has the default of the process that loads it, and its layers have their own.
        config = {key: value for key, value in config.items() if key != "dtype"}
    return {
        key: _numbered(value, numbers) if key in _REFERENCES else _relevant(value, numbers)
        for key, value in config.items()
        if key not in _IRRELEVANT and not key.endswith(_IRRELEVANT_ENDINGS)
    }


def _numbered(references: Any, numbers: dict[str, int]) -> Any:
    """Replace names of layers, which differ between models, with their positions."""
    if isinstance(references, dict):
        return {key: _numbered(value, numbers) for key, value in references.items()}
    if isinstance(references, list | tuple):
        return [_numbered(each, numbers) for each in references]
    return numbers.get(references, references)


def _plain(value: Any) -> Any:
    """Convert values that are not plain JSON, such as a vocabulary in a NumPy array."""
    if isinstance(value, np.ndarray | np.generic | tf.Tensor):
        return np.asarray(value).tolist()
    return type(value).__name__


def _short(description: Any) -> str:
    text = json.dumps(description)
    return text if len(text) < 80 else text[:77] + "..."
