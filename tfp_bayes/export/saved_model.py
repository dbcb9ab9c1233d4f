"""A SavedModel that carries the uncertainty and needs nothing but TensorFlow to serve it."""

import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from tfp_bayes.prediction import Predictor

# A model's `predict`, `evaluate` and served mean use the same functions every time.
PREDICT_SEED = (0, 0)
SERVED_MEASURES = (
    "mean",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "epistemic_variance",
    "aleatoric_variance",
)


def export_saved_model(
    predictor: Predictor,
    filepath: str | Path,
    num_samples: int | None = None,
    verbose: bool = False,
) -> None:
    """Writes a SavedModel with the predictive mean and the uncertainty as signatures.

    - `serve`, also `serving_default`: inputs -> posterior predictive mean of `num_samples`
      functions, equal to `BayesianModel.predict`.
    - `predict_uncertainty`: inputs, num_samples (int32 scalar), seed (int32 of shape (2,)) ->
      dictionary of mean, predictive_entropy, expected_entropy, mutual_information,
      epistemic_variance and aleatoric_variance, equal bit for bit to
      `predict_uncertainty(x, num_samples, seed)` on the same machine.

    The number of rows is free in both. An existing SavedModel at `filepath` is replaced once the
    new one is complete.

    Args:
        predictor: The predictor of a functional or `Sequential` model with a single output.
        filepath: The folder to write.
        num_samples: S of the `serve` signature, see `Predictor.predict_uncertainty`.
        verbose: Whether Keras prints the signatures.

    Raises:
        ValueError: If the model is subclassed or has several outputs.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,)), MCDropout(0.5), keras.layers.Dense(3, activation="softmax")])
    >>> export_saved_model(Predictor(model), tmp_path / "served")
    >>> served = tf.saved_model.load(tmp_path / "served")
    >>> result = served.predict_uncertainty(tf.ones((4, 2)), 10, [0, 0])
    >>> result["mutual_information"].shape
    TensorShape([4])
    """
    model = predictor.model
    if not hasattr(model, "inputs") or len(model.outputs) != 1:
        raise ValueError(
            "Expected a functional or Sequential model with one output. "
            f"Received: model={model.name!r}. Hint: build it from keras.Input to outputs, and "
            "export a keras.Model for each output."
        )
    num_samples = predictor.resolve_num_samples(num_samples)

    def serve(inputs):
        return predictor.stream_mean(inputs, num_samples, tf.constant(PREDICT_SEED))

    def predict_uncertainty(inputs, num_samples, seed):
        measures = predictor.stream(inputs, num_samples, seed)
        return {name: measures[name] for name in SERVED_MEASURES}

    single = len(model.inputs) == 1
    inputs = keras.tree.map_structure(_spec, model.inputs[0] if single else model.input)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, [inputs])
    archive.add_endpoint(
        "predict_uncertainty",
        predict_uncertainty,
        [inputs, tf.TensorSpec([], tf.int32, "num_samples"), tf.TensorSpec([2], tf.int32, "seed")],
    )
    _replace_folder(Path(filepath), lambda folder: archive.write_out(folder, verbose=verbose))


def _spec(tensor: keras.KerasTensor) -> tf.TensorSpec:
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, tensor.name)


def _replace_folder(target: Path, write) -> None:
    """Writes a folder under a temporary name beside its own, then renames it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        write(str(Path(scratch, "new")))
        if target.exists():
            target.rename(Path(scratch, "old"))
        Path(scratch, "new").rename(target)
