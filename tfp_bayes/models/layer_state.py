"""Copy learned state between layers of the same configuration."""

import tempfile

import keras
import numpy as np

from tfp_bayes._plumbing.keras_internals import flatten_layers


def copy_tables(old: keras.Layer, new: keras.Layer) -> None:
    """Copy vocabularies, which determine shapes and so must be set before the first call."""
    for a, b in zip(flatten_layers(old), flatten_layers(new)):
        if hasattr(a, "load_assets"):
            _reload_own_variables(a, b)
            with tempfile.TemporaryDirectory() as folder:
                a.save_assets(folder)
                b.load_assets(folder)


def copy_state(old: keras.Layer, new: keras.Layer) -> None:
    """Copy weights, states of random generators, statistics and `trainable` flags.

    Args:
        old: A built layer.
        new: A built layer of the same class and configuration.

    Raises:
        ValueError: If the layers have different weights or inner layers.
    """
    for a, b in zip(flatten_layers(old), flatten_layers(new), strict=True):
        b.trainable = a.trainable
        # Some layers use values computed from their weights, as Normalization does.
        if type(a).load_own_variables is not keras.Layer.load_own_variables:
            _reload_own_variables(a, b)
    for a, b in zip(_by_name(old), _by_name(new), strict=True):
        b.assign(a)
        b.trainable = a.trainable


def _by_name(layer: keras.Layer) -> list[keras.Variable]:
    # Quantizing a built layer changes the order of its variables.
    return sorted(layer.variables, key=lambda variable: variable.name)


def _reload_own_variables(old: keras.Layer, new: keras.Layer) -> None:
    store: dict[str, np.ndarray | keras.Variable] = {}
    old.save_own_variables(store)
    new.load_own_variables({name: np.asarray(value) for name, value in store.items()})
