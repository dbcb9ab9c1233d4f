"""Saved models that predict the rows of a pool. Each worker loads its model once."""

from pathlib import Path
from typing import Any

import numpy as np

from tfp_bayes._plumbing.model_files import model_files

Spec = tuple[tuple[int, ...], str]  # shape of one input, dtype


def files_of(path: str | Path) -> list[Path]:
    """Return the folder of a SavedModel, or the files of "MODEL.keras" or "MODEL.keras+POST.npz".

    The check does not import TensorFlow.

    Raises:
        ValueError: If the path is none of these.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "saved_model.pb").exists():
            raise ValueError(
                f"Expected a SavedModel or a .keras file. Received: {path}, a folder without "
                'saved_model.pb. Hint: write one with model.export("saved_models/cnn").'
            )
        return [folder.resolve()]
    return [each.resolve() for each in model_files(folder)]


def load(path: str, likelihood: str | None) -> Any:
    """Load a saved model as an object with `predict_uncertainty`.

    Args:
        path: Path of the model, see `files_of`.
        likelihood: Meaning of the outputs. None means the likelihood that a `.keras` file states,
            and "categorical" for a SavedModel, which states none.
    """
    if Path(path).is_dir():
        return ServedModel(path, likelihood or "categorical")
    from tfp_bayes.evaluation.sources import as_predictor

    predictor = as_predictor(path, "model")
    known = getattr(predictor, "likelihood", "categorical")
    if likelihood not in (None, known):
        raise ValueError(
            f"Expected the likelihood of the model, {known!r}. Received: likelihood="
            f"{likelihood!r}. Hint: omit it; only a SavedModel needs it."
        )
    return predictor


class ServedModel:
    """Predictor for a SavedModel that `export_saved_model` wrote.

    Args:
        path: Folder of the SavedModel.
        likelihood: Meaning of its outputs.

    Raises:
        ValueError: If it has no signature `predict_uncertainty` with one input, or its weights
            are not finite.
    """

    def __init__(self, path: str, likelihood: str):
        import tensorflow as tf

        self.likelihood = likelihood
        self._loaded = tf.saved_model.load(path)
        self._function: Any = getattr(self._loaded, "predict_uncertainty", None)
        functions = getattr(self._function, "concrete_functions", [])
        given: Any = functions[0].structured_input_signature[0] if functions else ()
        if len(given) != 3 or not isinstance(given[0], tf.TensorSpec):
            raise ValueError(
                "Expected a SavedModel of one input with the signature predict_uncertainty. "
                f"Received: {path}, without it. Hint: write one with BayesianModel.export or "
                "export_saved_model; keras.Model.export does not add the signature."
            )
        self._input = given[0]
        for variable in getattr(self._loaded, "variables", []):
            # A scalar may be NaN if its value was unknown when the model was exported.
            if variable.dtype.is_floating and variable.shape.rank and np.isnan(variable).any():
                raise ValueError(
                    f"Expected finite weights in {path}. Received: NaN in {variable.name}. "
                    "Hint: training diverged; lower the learning rate."
                )

    def predict_uncertainty(
        self, x: np.ndarray, num_samples: int, seed: int, batch_size: int | None = None
    ):
        """Return the `Prediction` of inputs (N, ...), see `Predictor.predict_uncertainty`."""
        import tensorflow as tf

        from tfp_bayes._plumbing.seeds import as_seed
        from tfp_bayes.export.saved_model import SERVED_MEASURES
        from tfp_bayes.prediction import DEFAULT_BATCH_SIZE, Prediction, concatenate
        from tfp_bayes.prediction.finite import nan_unless
        from tfp_bayes.prediction.inputs import check_cast
        from tfp_bayes.prediction.likelihoods import get_likelihood

        dtype = self._input.dtype
        check_cast(x, dtype.name, self._input.name)
        # An integer input would turn NaN into a number.
        finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
        likelihood = get_likelihood(self.likelihood)
        size, parts = batch_size or DEFAULT_BATCH_SIZE, []
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            batch = tf.cast(x[rows], dtype)
            found = self._function(batch, tf.constant(num_samples), tf.constant(as_seed(seed)))
            # Earlier releases exported no variances.
            unknown = tf.fill(tf.shape(found["mean"]), tf.constant(np.nan, found["mean"].dtype))
            found = {name: found.get(name, unknown) for name in SERVED_MEASURES}
            confidence = likelihood.confidence(found["mean"])
            measures = {
                **found,
                "variation_ratio": 1 - confidence,
                "mean_std": tf.reduce_mean(tf.sqrt(found["epistemic_variance"]), axis=-1),
            }
            measures = {
                name: nan_unless(finite[rows], value).numpy() for name, value in measures.items()
            }
            parts.append(Prediction(**measures, likelihood=self.likelihood))
        prediction = concatenate(parts)
        likelihood.check(prediction.mean[np.isfinite(prediction.predictive_entropy)])
        return prediction
