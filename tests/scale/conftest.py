"""A small model and a pool, shared by all tests in a process."""

import keras
import numpy as np
import pytest

import tfp_bayes

NUM_ROWS = 230


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A classifier as a .keras file and as a SavedModel, and a pool with two non-finite rows."""
    folder = tmp_path_factory.mktemp("pool")
    inputs = keras.Input((4,))
    hidden = tfp_bayes.layers.MCDropout(0.5)(keras.layers.Dense(16, "relu")(inputs))
    outputs = keras.layers.Dense(3, activation="softmax")(hidden)
    model = tfp_bayes.BayesianModel(inputs, outputs)
    model.save(folder / "model.keras")
    model.export(folder / "served")
    rng = np.random.default_rng(0)
    x = 3 * rng.normal(size=(NUM_ROWS, 4)).astype("float32")
    x[7], x[200, 1] = np.nan, np.inf
    x[50] = x[10]  # a tie
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", rng.integers(0, 3, NUM_ROWS))
    return folder
