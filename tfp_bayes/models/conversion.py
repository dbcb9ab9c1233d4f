"""Copy the graph of a model and replace some of its layers."""

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
    """A layer that replaces another. Fixed `training=` arguments of its calls are dropped.

    Attributes:
        layer: The new layer, not built.
        fill: Function that sets the weights of the new layer once it is built.
    """

    layer: keras.Layer
    fill: Callable[[], None]


def check_graph(model: keras.Model) -> None:
    """Raise ValueError unless the model is functional or Sequential, built, and runs its graph."""
    if not has_graph(model):
        raise ValueError(
            "Expected a built functional or Sequential `model` that does not override `call`. "
            f"Received: {model.name!r} of type {type(model).__name__}, which has no graph of "
            "layers or does not run it. Hint: start it with keras.Input, and build it from layers "
            "with keras.Model(inputs, outputs)."
        )


def walk(model: keras.Model, path: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Yield the layers of a model and of the models nested in it, in graph order.

    Yields:
        Pairs of a path ("nested/dense") and a layer. A layer that is used in several models is
        yielded once for each path.
    """
    for layer in model.layers:
        if has_graph(layer):
            yield from walk(layer, f"{path}{layer.name}/")
        elif not isinstance(layer, keras.layers.InputLayer):
            yield f"{path}{layer.name}", layer


def leaves(model: keras.Model) -> list[keras.Layer]:
    """List the layers that `walk` finds, without repetitions."""
    return list({id(layer): layer for _, layer in walk(model)}.values())


class GraphCopy:
    """A copy of a functional or Sequential model with some of its layers replaced.

    Layers are copied with all their state, and operations without change. Shared layers stay
    shared. Nested models stay nested, as plain functional or Sequential models. Every layer keeps
    its name and its `trainable` flag.

    Args:
        model: A model with a graph. It is not changed.
        replace: Function of a layer that returns its replacement, or None to copy the layer.

    Attributes:
        model: The copy, a plain functional or Sequential model, not compiled.

    Raises:
        ValueError: If the model has no graph, or a layer cannot be rebuilt from its configuration.
    """

    def __init__(self, model: keras.Model, replace: Callable[[keras.Layer], Replacement | None]):
        check_graph(model)
        self._replace = replace
        self._copies: dict[int, keras.Operation] = {}  # by the id of the original
        self._replaced: set[int] = set()
        self._fills: list[Callable[[], None]] = []  # called once every layer is built
        self.model = self._copy_model(model)
        self._copy_flags(model, self.model)
        self.fill()

    def fill(self) -> None:
        """Set all weights and states to the current ones of the original."""
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
        # Outer models first, because setting the flag of a model sets the flags of its layers.
        new.trainable = old.trainable
        for layer in old.layers:
            if has_graph(layer):
                self._copy_flags(layer, self._copies[id(layer)])
            elif id(layer) in self._copies:
                copy = self._copies[id(layer)]
                copy.trainable = layer.trainable
                _copy_frozen_weights(layer, copy)


def _copy_frozen_weights(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    """Freeze the weights that are frozen individually in `old`. `bias` also stands for `bias_loc`.

    Weights are matched by name, so layers that contain others are left alone.
    """
    if len(flatten_layers(old)) > 1:
        return
    frozen = {v.name.removesuffix("_loc") for v in old.weights if not v.trainable}
    for weight in new.weights:
        if any(weight.name == name or weight.name.startswith(f"{name}_") for name in frozen):
            weight.trainable = False


def _copy_input(tensor: keras.KerasTensor) -> keras.KerasTensor:
    layer = input_layer(tensor)
    return type(layer).from_config(layer.get_config()).output


def copy_layer(old: keras.Layer) -> keras.Layer:
    """Create a layer of the same class and configuration, without copying the weights."""
    try:
        if type(old) is keras.layers.Lambda:
            return copy_lambda(old)
        new = type(old).from_config(old.get_config())
        copy_tables(old, new)
    except Exception as error:
        raise ValueError(
            "Expected layers that can be rebuilt from their configuration. Received: "
            f"{old.name!r} of type {type(old).__name__}, which raised {type(error).__name__}: "
            f"{error} Hint: define get_config in its class, and register the class and its "
            "functions with keras.saving.register_keras_serializable."
        ) from error
    return new


def count_types(layers: list[keras.Layer]) -> str:
    """Describe layers by type and number, such as "Conv2D 3, Dense 1"."""
    names, counts = np.unique([type(layer).__name__ for layer in layers], return_counts=True)
    return ", ".join(f"{name} {count}" for name, count in zip(names, counts))
