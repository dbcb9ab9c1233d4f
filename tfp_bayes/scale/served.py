"""A saved model, loaded once in each worker, that predicts rows of a pool."""

from pathlib import Path
from typing import Any

import numpy as np

from tfp_bayes._plumbing.model_files import model_files

Spec = tuple[tuple[int, ...], str]  # shape of one input, dtype


def files_of(path: str | Path) -> list[Path]:
    """Returns the folder of a SavedModel, or the files of "MODEL.keras" or "MODEL.keras+POST.npz".

    Raises:
        ValueError: If it is none of these. TensorFlow is not asked.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "saved_model.pb").exists():
            raise ValueError(
                f"Expected a SavedModel or a .keras file. Received: {path}, a folder without "
                'saved_model.pb. Hint: model.export("saved_models/cnn").'
            )
        return [folder.resolve()]
    return [each.resolve() for each in model_files(folder)]


def load(path: str, likelihood: str | None) -> Any:
    """Returns what has `predict_uncertainty` and, of a `.keras` file, `sample`.

    Args:
        path: See `files_of`.
        likelihood: What the outputs mean; None is what a `.keras` file says, and "categorical" for
            a SavedModel, which does not say.
    """
    if Path(path).is_dir():
        return ServedModel(path, likelihood or "categorical")
    from tfp_bayes.evaluation.sources import as_predictor

    predictor = as_predictor(path, "model")
    known = getattr(predictor, "likelihood", "categorical")
    if likelihood not in (None, known):
        raise ValueError(
            f"Expected the likelihood of the model, {known!r}. Received: likelihood="
            f"{likelihood!r}. Hint: leave it out; only a SavedModel does not say."
        )
    return predictor


class ServedModel:
    """A SavedModel written by `export_saved_model`, with the methods of a predictor.

    Args:
        path: Its folder.
        likelihood: What its outputs mean.

    Raises:
        ValueError: If it has no signature `predict_uncertainty` of one input, or its weights are
            not finite.
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
                f"Received: {path}, without. Hint: BayesianModel.export or export_saved_model "
                "writes one; keras.Model.export does not."
            )
        self._input = given[0]
        for variable in getattr(self._loaded, "variables", []):
            # A scalar may be NaN for what nobody knew when the model was exported.
            if variable.dtype.is_floating and variable.shape.rank and np.isnan(variable).any():
                raise ValueError(
                    f"Expected finite weights in {path}. Received: NaN in {variable.name}. "
                    "Hint: training diverged; lower the learning rate."
                )

    def predict_uncertainty(
        self, x: np.ndarray, num_samples: int, seed: int, batch_size: int | None = None
    ):
        """Returns the `Prediction` of inputs (N, ...); see `Predictor.predict_uncertainty`."""
        import tensorflow as tf

        from tfp_bayes._plumbing.seeds import as_seed
        from tfp_bayes.export.saved_model import SERVED_MEASURES
        from tfp_bayes.prediction import DEFAULT_BATCH_SIZE, Prediction, concatenate
        from tfp_bayes.prediction.likelihoods import get_likelihood

        likelihood = get_likelihood(self.likelihood)
        size, parts = batch_size or DEFAULT_BATCH_SIZE, []
        for start in range(0, len(x), size):
            batch = tf.cast(x[start : start + size], self._input.dtype)
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
            measures = {name: value.numpy() for name, value in measures.items()}
            parts.append(Prediction(**measures, likelihood=self.likelihood))
        prediction = concatenate(parts)
        likelihood.check(prediction.mean[np.isfinite(prediction.predictive_entropy)])
        return prediction
