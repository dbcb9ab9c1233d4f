"""Wrap an exported SavedModel as an MLflow model that returns measures of uncertainty.

    pip install mlflow-skinny pandas tensorflow
    python mlflow_model.py saved_models/mnist_mc_dropout mlflow_models/mnist

`mlflow.pyfunc.load_model("mlflow_models/mnist").predict(images, params={"seed": 0})` returns a
DataFrame with one row per image. Its columns are `mean_0` to `mean_9`, `mutual_information` and the
other measures. MLflow stores this file as the code of the model, without pickle, and runs it when
the model is loaded. Loading needs TensorFlow, but neither Keras nor tfp_bayes.
"""

import argparse
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import tensorflow as tf
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

_ROWS = 256  # rows per batch; results do not depend on it
_PARAMS = {"num_samples": 100, "seed": 0}


class UncertainModel(mlflow.pyfunc.PythonModel):
    """A model that returns the output of `predict_uncertainty` as a table."""

    def load_context(self, context) -> None:
        """Loads the SavedModel; called by MLflow."""
        self._loaded = tf.saved_model.load(context.artifacts["saved_model"])
        self._call = self._loaded.signatures["predict_uncertainty"]

    def predict(self, context, model_input, params=None) -> pd.DataFrame:
        """Returns the measures of each row.

        Args:
            context: Context passed by MLflow; not used.
            model_input: Array of rows, or a dictionary of arrays by input name.
            params: `num_samples` and `seed`; the same values give the same numbers.
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
    """Returns the specification of each input except num_samples and seed."""
    specs = call.structured_input_signature[1]
    return {name: spec for name, spec in specs.items() if name not in _PARAMS}


def in_order(measures) -> list[str]:
    """Returns the names of the measures, with the mean first."""
    return sorted(measures, key=lambda name: (name != "mean", name))


def columns_of(name: str, shape: tuple[int, ...]) -> list[str]:
    """Returns the column names of a measure with several numbers per row."""
    if len(shape) > 1:
        raise ValueError(
            "Expected a model with one class, or a fixed number of targets, per row. "
            f"Received: {name} of shape {('N', *shape)}. Hint: a table has no place for pixels."
        )
    return [f"{name}_{k}" for k in range(shape[0])]


def signature_of(saved_model: Path) -> ModelSignature:
    """Returns the MLflow signature: input tensors, output columns of floats, parameters."""
    loaded = tf.saved_model.load(saved_model)
    call = loaded.signatures["predict_uncertainty"]
    specs = inputs_of(call)
    tensors = [
        TensorSpec(
            np.dtype(spec.dtype.as_numpy_dtype if spec.dtype != tf.string else "str"),
            [-1, *(n or -1 for n in spec.shape[1:])],
            name if len(specs) > 1 else None,  # a single input is an array, not a dictionary
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
        saved_model: Folder written by `model.export`.
        path: Folder to write.
        input_example: Some rows for MLflow to store with the model.
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

mlflow.models.set_model(UncertainModel())  # MLflow looks for this when it runs this file
