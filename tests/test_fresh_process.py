"""Tests that saved models load in a process that has imported only Keras and this library."""

import subprocess
import sys

import keras
import numpy as np
import pytest

import tfp_bayes
from tfp_bayes import layers

LOAD = """
import json, sys
import numpy as np
{imports}
assert "tfp_bayes.active" not in sys.modules
folder = sys.argv[1]
for name in sys.argv[2:]:
    model = keras.models.load_model(f"{{folder}}/{{name}}.keras")
    stored = np.load(f"{{folder}}/{{name}}.npz")
    prediction = tfp_bayes.Predictor(model).predict_uncertainty(stored["x"], 5, seed=1)
    np.testing.assert_array_equal(prediction.mean, stored["mean"])
print("equal")
"""


def mixed():
    """Return a plain Keras model with layers, a prior and a posterior of this library."""
    inputs = keras.Input((8, 3))
    x = layers.Conv1DFlipout(4, 3, kernel_prior="scale_mixture")(inputs)
    x = keras.layers.Flatten()(layers.MCSpatialDropout1D(0.5)(x))
    x = layers.DenseReparameterization(4, kernel_posterior="low_rank_normal")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))


MODELS = {
    "mixed": mixed,
    "network": lambda: tfp_bayes.BayesianMLP((8, 3), 3, hidden_units=(4,), seed=0),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    x = np.random.default_rng(0).normal(size=(4, 8, 3)).astype("float32")
    for name, make in MODELS.items():
        model = make()
        model.compile("adam", "sparse_categorical_crossentropy")
        model.save(folder / f"{name}.keras")
        mean = tfp_bayes.Predictor(model).predict_uncertainty(x, 5, seed=1).mean
        np.savez(folder / f"{name}.npz", x=x, mean=mean)
    return folder


@pytest.mark.parametrize("imports", ["import keras, tfp_bayes", "import tfp_bayes, keras"])
def test_loads_by_value(saved, imports):
    done = subprocess.run(
        [sys.executable, "-c", LOAD.format(imports=imports), str(saved), *MODELS],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "equal\n", done.stderr
