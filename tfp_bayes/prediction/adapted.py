"""State of preprocessing layers that is not in variables, so graphs contain it as constants."""

from typing import Any

import keras
import numpy as np

from tfp_bayes._plumbing.keras_internals import flatten_layers


def adapted_states(model: keras.Model) -> list[Any]:
    """Return what graphs of a model contain of its preprocessing layers, to compare by equality.

    A graph must be traced again if it changes, which Keras does not notice: after `adapt`,
    `set_vocabulary` or `load_weights`.

    `Normalization` computes constants from its weights. They are computed again if they do not
    belong to the weights, as after `set_weights`.
    """
    states: list[Any] = []
    for layer in flatten_layers(model):
        if isinstance(layer, keras.layers.Normalization) and layer.built:
            update_constants(layer)
            states += [np.asarray(each).tobytes() for each in (layer.mean, layer.variance)]
        elif isinstance(layer, keras.layers.Discretization):
            states.append(str(layer.bin_boundaries))
        elif hasattr(layer, "lookup_table"):
            weights = getattr(layer, "idf_weights_const", None)
            states += [
                layer.lookup_table,
                None if weights is None else np.asarray(weights).tobytes(),
            ]
    return states


class AdaptedStates:
    """The states of a model's preprocessing layers at the last look.

    Args:
        model: A model.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._known = adapted_states(model)

    def have_changed(self) -> bool:
        """Return whether the states have changed since the last look."""
        before, self._known = self._known, adapted_states(self._model)
        return before != self._known


def update_constants(layer: keras.layers.Normalization) -> None:
    """Compute the constants of a layer from its weights again, if they are those of others."""
    if layer.input_mean is not None:
        return
    pairs = ((layer.mean, layer.adapt_mean), (layer.variance, layer.adapt_variance))
    for constant, weight in pairs:
        known = np.ravel(constant)
        if not np.array_equal(known, np.ravel(weight.numpy()).astype(known.dtype)):
            layer.finalize_state()
            return
