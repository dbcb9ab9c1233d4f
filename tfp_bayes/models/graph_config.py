"""Saving, loading and cloning of graph models that have constructor arguments of their own."""

import inspect
from typing import TYPE_CHECKING

import keras

from tfp_bayes._plumbing.keras_internals import has_history, is_functional_like

_ARGUMENTS = ("likelihood", "prior_scale", "num_samples")


if TYPE_CHECKING:
    from keras import Model as _Base  # what the mixin is mixed into
else:
    _Base = object


class GraphConfig(_Base):
    """A mixin of `BayesianModel`: its configuration is its graph and its constructor arguments."""

    def get_config(self) -> dict:
        """Returns the graph of layers and the constructor arguments, plain JSON.

        Raises:
            ValueError: If a subclass with a constructor of its own does not say how to rebuild it.
        """
        config = super().get_config()
        if _is_made_of_graph(type(self)):
            return {**config, **self._arguments()}
        if type(self).get_config is GraphConfig.get_config:
            raise ValueError(
                "Expected a model whose configuration rebuilds it. Received: "
                f"{type(self).__name__}, whose constructor is not BayesianModel's. "
                "Hint: give the class get_config, which returns its own arguments, and "
                "from_config, as keras.saving asks; or save its weights only."
            )
        return config

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> keras.Model:
        """Rebuilds the model from `get_config()`."""
        if "layers" not in config:
            return cls(**config)
        own = {name: config[name] for name in _ARGUMENTS}
        graph = {name: value for name, value in config.items() if name not in own}
        model = keras.Model.from_config(graph, custom_objects=custom_objects)
        return cls(model.input, model.output, model.name, trainable=model.trainable, **own)

    def _arguments(self) -> dict:
        return {name: getattr(self, name) for name in _ARGUMENTS}

    # `keras.models.clone_model` runs the graph on new inputs, and makes the copy from the tensors
    # that come out and from nothing else. So they carry the arguments.

    def _run_through_graph(self, inputs, *args, **kwargs):
        outputs = super()._run_through_graph(inputs, *args, **kwargs)
        flat = keras.tree.flatten(outputs)
        if all(map(has_history, flat)):
            if not _is_made_of_graph(type(self)):
                raise ValueError(
                    "Expected a model that is made of inputs and outputs to clone. Received: "
                    f"{type(self).__name__}, of which clone_model would keep the layers but not "
                    "the prior. Hint: type(model).from_config(model.get_config())."
                )
            for tensor in flat:
                tensor.cloned_arguments = self._arguments()
        return outputs


def cloned_arguments(outputs) -> dict:
    """Returns the arguments of the model that `clone_model` is cloning, {} in a usual call."""
    return getattr(keras.tree.flatten(outputs)[0], "cloned_arguments", {})


def _is_made_of_graph(cls: type) -> bool:
    """Tells whether inputs, outputs and this file's arguments are all that a class is made of."""
    parameters = inspect.signature(cls).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {each.name for each in parameters if each.kind not in variadic}
    return is_functional_like(cls) and named <= {"inputs", "outputs", "name", *_ARGUMENTS}
