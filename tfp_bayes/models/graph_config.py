"""Saving, loading and cloning of graph models with additional constructor arguments."""

import inspect
from typing import TYPE_CHECKING

import keras

from tfp_bayes._plumbing.keras_internals import has_history, is_functional_like

_ARGUMENTS = ("likelihood", "prior_scale", "num_samples")


if TYPE_CHECKING:
    from keras import Model as _Base  # the class that the mixin extends
else:
    _Base = object


class GraphConfig(_Base):
    """A mixin of `BayesianModel` that saves its graph and its constructor arguments."""

    def get_config(self) -> dict:
        """Return the graph of layers and the constructor arguments as plain JSON.

        Raises:
            ValueError: If a subclass with another constructor does not define `get_config`.
        """
        config = super().get_config()
        if _is_made_of_graph(type(self)):
            return {**config, **self._arguments()}
        if type(self).get_config is GraphConfig.get_config:
            raise ValueError(
                "Expected a model that can be rebuilt from its configuration. Received: "
                f"{type(self).__name__}, whose constructor differs from that of BayesianModel. "
                "Hint: define get_config, which returns the arguments of the constructor, and "
                "from_config, as keras.saving requires; or save only the weights."
            )
        return config

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> keras.Model:
        """Rebuild the model from `get_config()`."""
        if "layers" not in config:
            return cls(**config)
        own = {name: config[name] for name in _ARGUMENTS}
        graph = {name: value for name, value in config.items() if name not in own}
        model = keras.Model.from_config(graph, custom_objects=custom_objects)
        return cls(model.input, model.output, model.name, trainable=model.trainable, **own)

    def _arguments(self) -> dict:
        return {name: getattr(self, name) for name in _ARGUMENTS}

    # `keras.models.clone_model` runs the graph on new inputs and builds the copy from the output
    # tensors alone. Therefore these tensors carry the constructor arguments.

    def _run_through_graph(self, inputs, *args, **kwargs):
        outputs = super()._run_through_graph(inputs, *args, **kwargs)
        flat = keras.tree.flatten(outputs)
        if all(map(has_history, flat)):
            if not _is_made_of_graph(type(self)):
                raise ValueError(
                    "Expected a model whose constructor takes inputs and outputs to clone. "
                    f"Received: {type(self).__name__}, for which clone_model would copy the layers "
                    "but not the prior. Hint: type(model).from_config(model.get_config())."
                )
            for tensor in flat:
                tensor.cloned_arguments = self._arguments()
        return outputs


def cloned_arguments(outputs) -> dict:
    """Return the arguments of the model that `clone_model` is cloning, or {} in other calls."""
    return getattr(keras.tree.flatten(outputs)[0], "cloned_arguments", {})


def _is_made_of_graph(cls: type) -> bool:
    """Return whether a class takes no arguments but inputs, outputs, a name and `_ARGUMENTS`."""
    parameters = inspect.signature(cls).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {each.name for each in parameters if each.kind not in variadic}
    return is_functional_like(cls) and named <= {"inputs", "outputs", "name", *_ARGUMENTS}
