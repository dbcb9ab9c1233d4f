"""An exported SavedModel as an MLflow model whose columns are measures of uncertainty.

    pip install mlflow-skinny pandas tensorflow
    python mlflow_model.py saved_models/mnist_mc_dropout mlflow_models/mnist

`mlflow.pyfunc.load_model("mlflow_models/mnist").predict(images, params={"seed": 0})` is a DataFrame
with a row for each image: `mean_0` to `mean_9`, `mutual_information` and the other measures. MLflow
keeps this file as the model's code, without pickle, and runs it where the model is loaded; that
takes TensorFlow, but neither Keras nor tfp_bayes.
"""

import argparse
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import tensorflow as tf
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

_ROWS = 256  # of a batch; the answer does not depend on it
_PARAMS = {"num_samples": 100, "seed": 0}


class UncertainModel(mlflow.pyfunc.PythonModel):
    """The signature `predict_uncertainty` of a SavedModel, as a table."""

    def load_context(self, context) -> None:
        """Loads the SavedModel; MLflow calls it."""
        self._loaded = tf.saved_model.load(context.artifacts["saved_model"])
        self._call = self._loaded.signatures["predict_uncertainty"]

    def predict(self, context, model_input, params=None) -> pd.DataFrame:
        """Returns the measures of each row.

        Args:
            context: MLflow's.
            model_input: Rows as an array, or arrays by the names of the inputs.
            params: `num_samples` and `seed`; with the same, rows get the same numbers.
        """
        params = {**_PARAMS, **(params or {})}
        if params["num_samples"] < 1:
            raise ValueError(
                "Expected at least 1 for `num_samples`. "
                f"Received: num_samples={params['num_samples']}. Hint: 100."
            )
        specs = inputs_of(self._call)
        if not isinstance(model_input, dict):
            model_input = dict.fromkeys(specs, model_input)
        inputs = {k: np.asarray(model_input[k]) for k in specs}
        rows = len(next(iter(inputs.values())))
        tables = [
            self._table({k: x[start : start + _ROWS] for k, x in inputs.items()}, specs, params)
            for start in range(0, max(rows, 1), _ROWS)
        ]
        return pd.concat(tables, ignore_index=True)

    def _table(self, inputs, specs, params) -> pd.DataFrame:
        measures = self._call(
            **{name: tf.constant(x, specs[name].dtype) for name, x in inputs.items()},
            num_samples=tf.constant(params["num_samples"], tf.int32),
            seed=tf.constant([params["seed"], 0], tf.int32),
        )
        columns = {}
        for name in in_order(measures):
            values = measures[name].numpy()
            names = [name] if values.ndim == 1 else columns_of(name, values.shape[1:])
            columns.update(zip(names, values.reshape(len(values), len(names)).T))
        return pd.DataFrame(columns)


def inputs_of(call) -> dict[str, tf.TensorSpec]:
    """Returns the specification of each input but num_samples and seed."""
    specs = call.structured_input_signature[1]
    return {name: spec for name, spec in specs.items() if name not in _PARAMS}


def in_order(measures) -> list[str]:
    """Returns the names of the measures, the mean first."""
    return sorted(measures, key=lambda name: (name != "mean", name))


def columns_of(name: str, shape: tuple[int, ...]) -> list[str]:
    """Returns the names of the columns of a measure that has several numbers a row."""
    if len(shape) > 1:
        raise ValueError(
            "Expected a model with one class, or as many targets, a row. "
            f"Received: {name} of shape {('N', *shape)}. Hint: maps of pixels make no table."
        )
    return [f"{name}_{k}" for k in range(shape[0])]


def signature_of(saved_model: Path) -> ModelSignature:
    """Returns MLflow's signature: tensors in, columns of float out, num_samples and seed."""
    loaded = tf.saved_model.load(saved_model)
    call = loaded.signatures["predict_uncertainty"]
    specs = inputs_of(call)
    tensors = [
        TensorSpec(
            np.dtype(spec.dtype.as_numpy_dtype if spec.dtype != tf.string else "str"),
            [-1, *(n or -1 for n in spec.shape[1:])],
            name if len(specs) > 1 else None,  # a single one is an array, not a dictionary
        )
        for name, spec in specs.items()
    ]
    columns = []
    for name in in_order(call.structured_outputs):
        spec = call.structured_outputs[name]
        names = [name] if spec.shape.rank == 1 else columns_of(name, tuple(spec.shape[1:]))
        columns += [ColSpec("float", column) for column in names]
    params = [ParamSpec(name, "integer", default) for name, default in _PARAMS.items()]
    return ModelSignature(Schema(tensors), Schema(columns), ParamSchema(params))


def save(saved_model: str | Path, path: str | Path, input_example=None) -> None:
    """Writes an MLflow model; `mlflow.pyfunc.log_model` takes the same arguments.

    Args:
        saved_model: Folder that `model.export` wrote.
        path: Folder to write.
        input_example: Some rows, which MLflow keeps beside the model.
    """
    mlflow.pyfunc.save_model(
        path,
        python_model=__file__,
        artifacts={"saved_model": str(saved_model)},
        signature=signature_of(Path(saved_model)),
        input_example=input_example,
        pip_requirements=["mlflow-skinny", "pandas", f"tensorflow=={tf.__version__}"],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("saved_model", type=Path, help="folder that model.export wrote")
    parser.add_argument("path", type=Path, help="folder to write")
    options = parser.parse_args()
    save(options.saved_model, options.path)
    print(f"Wrote {options.path}")

mlflow.models.set_model(UncertainModel())  # what MLflow finds when it runs this file
