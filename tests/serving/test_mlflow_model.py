"""Test the MLflow example: save here, load in a process with only MLflow and TensorFlow."""

import pickle
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from networks import mlp, vectors

import tfp_bayes
from tfp_bayes.layers import MCDropout, NormalParameters

pytest.importorskip("mlflow")
pytest.importorskip("pandas")
pytestmark = pytest.mark.filterwarnings("ignore:.*Add type hints")
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "examples" / "serving"))

X = vectors(600)  # three batches
CODES = np.arange(12).reshape(6, 2).astype("uint8")

LOAD = """
import pickle, sys
sys.modules["tfp_bayes"] = sys.modules["keras"] = None  # importing either is an error
import mlflow
folder = sys.argv[1]
answers = {}
for name, inputs in pickle.load(open(folder + "/inputs", "rb")).items():
    model = mlflow.pyfunc.load_model(f"{folder}/{name}")
    answers[name] = model.predict(inputs, params={"num_samples": 4, "seed": 7})
    answers[name + " as usual"] = model.predict(inputs)
    answers[name + " example"] = model.predict(model.input_example)
    answers[name + " schema"] = model.metadata.get_output_schema().input_names()
    for params in ({"num_samples": 0}, {"seed": "x"}):
        try:
            model.predict(inputs, params=params)
        except Exception as error:
            answers[f"{name} {params}"] = str(error)
try:
    model.predict(inputs.astype("float64"))
except Exception as error:
    answers["float64"] = str(error)
pickle.dump(answers, open(folder + "/answers", "wb"))
"""


def classifier():
    inputs = keras.Input((5,), name="x")
    return tfp_bayes.BayesianModel(inputs, mlp()(inputs)), X


def regression():
    """A model with named inputs, numbers and codes, for two real targets."""
    size, codes = keras.Input((5,), name="size"), keras.Input((2,), dtype="uint8", name="codes")
    x = keras.layers.Concatenate()([size, keras.layers.Rescaling(1 / 12)(codes)])
    outputs = NormalParameters()(keras.layers.Dense(4)(MCDropout(0.3)(x)))
    inputs = {"size": size, "codes": codes}
    model = tfp_bayes.BayesianModel(inputs, outputs, likelihood="normal")
    return model, {"size": X[:6], "codes": CODES}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Returns the models with their inputs, and the results of the other process."""
    import mlflow_model

    folder = tmp_path_factory.mktemp("mlflow")
    models = {"regression": regression(), "classifier": classifier()}
    for name, (model, x) in models.items():
        model.export(folder / f"{name}_exported")
        mlflow_model.save(
            folder / f"{name}_exported", folder / name, keras.tree.map_structure(lambda a: a[:2], x)
        )
    with (folder / "inputs").open("wb") as file:
        pickle.dump({name: x for name, (_, x) in models.items()}, file)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with (folder / "answers").open("rb") as file:
        return models, pickle.load(file)


@pytest.mark.parametrize("name", ["classifier", "regression"])
def test_columns_are_the_measures(name, loaded):
    models, answers = loaded
    model, x = models[name]
    for key, settings in ((name, {"num_samples": 4, "seed": 7}), (f"{name} as usual", {"seed": 0})):
        expected = model.predict_uncertainty(x, **settings)
        table = answers[key]
        assert list(table.columns)[:2] == ["mean_0", "mean_1"]
        size = expected.mean.shape[-1]
        for measure in ("mean", "epistemic_variance", "aleatoric_variance"):
            columns = table[[f"{measure}_{k}" for k in range(size)]]
            np.testing.assert_array_equal(columns, getattr(expected, measure), err_msg=measure)
        for measure in ("predictive_entropy", "expected_entropy", "mutual_information"):
            np.testing.assert_array_equal(table[measure], getattr(expected, measure))
        assert table.shape[1] == 3 * size + 3
    assert answers[f"{name} example"].shape == (2, 3 * size + 3)
    assert answers[f"{name} schema"] == list(table.columns)


def test_what_is_refused(loaded):
    _, answers = loaded
    assert "Received: num_samples=0" in answers["classifier {'num_samples': 0}"]
    assert "'seed'" in answers["classifier {'seed': 'x'}"]
    assert "float64" in answers["float64"]


def test_maps_of_pixels_make_no_table():
    import mlflow_model

    with pytest.raises(ValueError, match=r"mean of shape \('N', 8, 8, 3\)"):
        mlflow_model.columns_of("mean", (8, 8, 3))
