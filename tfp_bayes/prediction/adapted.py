"""State of preprocessing layers that is not in variables, so graphs contain it as constants."""

from typing import Any

import keras
import numpy as np

from tfp_bayes._plumbing.keras_internals import flatten_layers


class AdaptedStates:
    """The states of a model's preprocessing layers at the last look.

    Graphs must be traced again if they change: after `adapt`, `set_vocabulary` or `load_weights`,
    which Keras does not notice.

    Args:
        model: A model.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._known = _states(model)

    def have_changed(self) -> bool:
        """Return whether the states have changed since the last look."""
        before, self._known = self._known, _states(self._model)
        return before != self._known


def update_constants(model: keras.Model) -> None:
    """Make `Normalization` layers compute with their weights before a model is traced.

    They compute with constants, which belong to earlier weights after `set_weights`.
    """
    for layer in flatten_layers(model):
        if not isinstance(layer, keras.layers.Normalization) or not layer.built:
            continue
        if layer.input_mean is not None:
            continue  # the constants are arguments of the layer
        pairs = ((layer.mean, layer.adapt_mean), (layer.variance, layer.adapt_variance))
        for constant, weight in pairs:
            known = np.ravel(constant)
            if not np.array_equal(known, np.ravel(weight.numpy()).astype(known.dtype)):
                layer.finalize_state()
                break


def _states(model: keras.Model) -> list[Any]:
    """Return what graphs contain of preprocessing layers, to compare by equality."""
    update_constants(model)
    states: list[Any] = []
    for layer in flatten_layers(model):
        if isinstance(layer, keras.layers.Normalization) and layer.built:
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
