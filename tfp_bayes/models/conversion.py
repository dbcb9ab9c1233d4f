"""A copy of a model's graph, in which some layers are replaced."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np

from tfp_bayes._plumbing.keras_internals import (
    copy_lambda,
    copy_operation,
    flatten_layers,
    has_graph,
    input_layer,
    run_graph,
)
from tfp_bayes.models.layer_state import copy_state, copy_tables


class Replacement(NamedTuple):
    """A layer that takes the place of another, and is never called with a fixed `training=`.

    Attributes:
        layer: The new layer, not built.
        fill: Sets its weights, once it is built.
    """

    layer: keras.Layer
    fill: Callable[[], None]


def check_graph(model: keras.Model) -> None:
    """Raises ValueError unless the model is functional or Sequential, built, and runs its graph."""
    if not has_graph(model):
        raise ValueError(
            "Expected a functional or Sequential `model`, built, whose `call` is Keras' own. "
            f"Received: {model.name!r} of type {type(model).__name__}, which has no graph of "
            "layers or does not run it. Hint: start it with keras.Input, and build it from layers "
            "with keras.Model(inputs, outputs)."
        )


def walk(model: keras.Model, path: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Yields the layers of a model and of the models nested in it, in graph order.

    Yields:
        Pairs of a path ("nested/dense") and a layer, once for each place that a layer has.
    """
    for layer in model.layers:
        if has_graph(layer):
            yield from walk(layer, f"{path}{layer.name}/")
        elif not isinstance(layer, keras.layers.InputLayer):
            yield f"{path}{layer.name}", layer


def leaves(model: keras.Model) -> list[keras.Layer]:
    """Lists the layers that `walk` finds, each once."""
    return list({id(layer): layer for _, layer in walk(model)}.values())


class GraphCopy:
    """A copy of a functional or Sequential model with some of its layers replaced.

    Operations are copied as they are and layers with all their state; shared layers stay shared,
    nested models nested (as plain functional or Sequential ones), and every layer keeps its name
    and its `trainable` flag.

    Args:
        model: A model with a graph; it is not changed.
        replace: Function of a layer that returns its replacement, or None to copy it.

    Attributes:
        model: The copy, a plain functional or Sequential model, not compiled.

    Raises:
        ValueError: If the model has no graph, or a layer cannot be made from its configuration.
    """

    def __init__(self, model: keras.Model, replace: Callable[[keras.Layer], Replacement | None]):
        check_graph(model)
        self._replace = replace
        self._copies: dict[int, keras.Operation] = {}  # by the id of the original
        self._replaced: set[int] = set()
        self._fills: list[Callable[[], None]] = []  # wait until every layer is built
        self.model = self._copy_model(model)
        self._copy_flags(model, self.model)
        self.fill()

    def fill(self) -> None:
        """Sets all weights and states to what those of the original are now."""
        for fill in self._fills:
            fill()

    def _copy_model(self, model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential):
            inputs = _copy_input(model.inputs[0])
            return keras.Sequential([inputs, *map(self._copy, model.layers)], name=model.name)
        inputs = keras.tree.map_structure(_copy_input, model.input)
        return keras.Model(inputs, run_graph(model, inputs, self._callable), name=model.name)

    def _callable(self, old: keras.Operation) -> Callable:
        new = self._copy(old)
        if id(old) not in self._replaced:
            return new
        return lambda *args, training=None, **kwargs: new(*args, **kwargs)

    def _copy(self, old: keras.Operation) -> keras.Operation:
        if id(old) not in self._copies:
            self._copies[id(old)] = self._new(old)
        return self._copies[id(old)]

    def _new(self, old: keras.Operation) -> keras.Operation:
        if not isinstance(old, keras.Layer):
            return copy_operation(old)
        if has_graph(old):
            return self._copy_model(old)
        replacement = self._replace(old)
        if replacement is not None:
            self._replaced.add(id(old))
            self._fills.append(replacement.fill)
            return replacement.layer
        new = copy_layer(old)
        self._fills.append(lambda: copy_state(old, new))
        return new

    def _copy_flags(self, old: keras.Model, new: keras.Model) -> None:
        # From the outside in, because a model's flag sets those of its layers.
        new.trainable = old.trainable
        for layer in old.layers:
            if has_graph(layer):
                self._copy_flags(layer, self._copies[id(layer)])
            elif id(layer) in self._copies:
                copy = self._copies[id(layer)]
                copy.trainable = layer.trainable
                _copy_frozen_weights(layer, copy)


def _copy_frozen_weights(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Freezes the weights of a trainable layer that are frozen one by one, `bias` as `bias_loc`."""
    if len(flatten_layers(old)) > 1:
        return  # names are not unique among the layers inside
    frozen = {v.name.removesuffix("_loc") for v in old.weights if not v.trainable}
    for weight in new.weights:
        if any(weight.name == name or weight.name.startswith(f"{name}_") for name in frozen):
            weight.trainable = False


def _copy_input(tensor: keras.KerasTensor) -> keras.KerasTensor:
    layer = input_layer(tensor)
    return type(layer).from_config(layer.get_config()).output


def copy_layer(old: keras.Layer) -> keras.Layer:
    """Makes a layer of the same class and configuration, without its weights."""
    try:
        if type(old) is keras.layers.Lambda:
            return copy_lambda(old)
        new = type(old).from_config(old.get_config())
        copy_tables(old, new)
    except Exception as error:
        raise ValueError(
            "Expected layers that their own configuration rebuilds. Received: "
            f"{old.name!r} of type {type(old).__name__}, where {type(error).__name__}: {error} "
            "Hint: give its class get_config, and register the class and its functions with "
            "keras.saving.register_keras_serializable."
        ) from error
    return new


def count_types(layers: list[keras.Layer]) -> str:
    """Describes layers as "Conv2D 3, Dense 1"."""
    names, counts = np.unique([type(layer).__name__ for layer in layers], return_counts=True)
    return ", ".join(f"{name} {count}" for name, count in zip(names, counts))
