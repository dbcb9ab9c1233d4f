"""A SavedModel that carries the uncertainty and needs nothing but TensorFlow to serve it."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfp_bayes.export.decisions import Endpoint, decision_endpoint
from tfp_bayes.prediction import Predictor
from tfp_bayes.uncertainty import Conformal, SelectiveClassifier

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
# What TensorFlow and Keras write into the folder of a SavedModel.
_OF_A_SAVED_MODEL = {
    "assets",
    "assets.extra",
    "debug",
    "fingerprint.pb",
    "keras_metadata.pb",
    "saved_model.pb",
    "variables",
}


def export_saved_model(
    predictor: Predictor,
    filepath: str | Path,
    num_samples: int | None = None,
    verbose: bool = False,
    input_signature: Any = None,
    decisions: Sequence[Conformal | SelectiveClassifier] = (),
) -> None:
    """Writes a SavedModel with the predictive mean and the uncertainty as signatures.

    - `serve`, also `serving_default`: inputs -> posterior predictive mean of `num_samples`
      functions, equal to `BayesianModel.predict`.
    - `predict_uncertainty`: inputs, num_samples (int32 scalar), seed (int32 of shape (2,)) ->
      dictionary of mean, predictive_entropy, expected_entropy, mutual_information,
      epistemic_variance and aleatoric_variance, equal bit for bit to
      `predict_uncertainty(x, num_samples, seed)` on the same machine.

    - `sets`, `intervals` or `decide`, of `decisions`: inputs -> dictionary of `sets` (N, K) bool of
      a `Conformal`; of its `lower` and `upper` bounds (N, D) float64; or of `labels`, `trusted` and
      `uncertainty` (N,) of a `SelectiveClassifier`. They equal those of the object. Rows with NaN,
      which a `Conformal` refuses, have every class in their set and NaN as bounds.

    The number of rows is free in all. An existing SavedModel at `filepath` is replaced once the
    new one is complete; nothing else ever is.

    Args:
        predictor: The predictor of a functional or `Sequential` model with a single output.
        filepath: The folder to write.
        num_samples: S of the `serve` signature, see `Predictor.predict_uncertainty`.
        verbose: Whether Keras prints the signatures.
        input_signature: Shapes and dtypes of the inputs, as for `keras.Model.export`; None takes
            those of the model with any number of rows.
        decisions: At most one of each signature, fitted with this predictor or the model that it
            belongs to.

    Raises:
        ValueError: If a decision is another predictor's, or was fitted before the model changed;
            the model is subclassed or has several outputs; or something that is not a SavedModel
            is at `filepath`.

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
    check_single_output(model)
    num_samples = predictor.resolve_num_samples(num_samples)
    endpoints = _decision_endpoints(predictor, decisions)
    target = Path(filepath).resolve()  # what a link points to is replaced, not the link
    _check_replaceable(target)

    def serve(inputs):
        return predictor.stream_mean(inputs, num_samples, tf.constant(PREDICT_SEED))

    def predict_uncertainty(inputs, num_samples, seed):
        measures = predictor.stream(inputs, num_samples, seed)
        return {name: measures[name] for name in SERVED_MEASURES}

    if input_signature is None:
        input_signature = [model.inputs[0] if len(model.inputs) == 1 else model.input]
    inputs = [keras.tree.map_structure(_spec, each) for each in input_signature]
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, inputs)
    archive.add_endpoint(
        "predict_uncertainty",
        predict_uncertainty,
        [*inputs, tf.TensorSpec([], tf.int32, "num_samples"), tf.TensorSpec([2], tf.int32, "seed")],
    )
    for name, endpoint in endpoints.items():
        archive.add_endpoint(name, endpoint, inputs)
    _replace_folder(target, lambda folder: archive.write_out(folder, verbose=verbose))


def _decision_endpoints(
    predictor: Predictor, decisions: Sequence[Conformal | SelectiveClassifier]
) -> dict[str, Endpoint]:
    endpoints: dict[str, Endpoint] = {}
    for decision in decisions:
        name, endpoint = decision_endpoint(predictor, decision)
        if name in endpoints:
            raise ValueError(
                "Expected one decision of each kind in `decisions`. Received: several that answer "
                f"{name!r}. Hint: export a second SavedModel for the other."
            )
        endpoints[name] = endpoint
    return endpoints


def check_single_output(model: keras.Model) -> None:
    """Raises ValueError unless a model has known inputs and one output."""
    if not hasattr(model, "inputs") or len(model.outputs) != 1:
        raise ValueError(
            "Expected a functional or Sequential model with one output. "
            f"Received: model={model.name!r}. Hint: build it from keras.Input to outputs, and "
            "export a keras.Model for each output."
        )


def _spec(like: keras.KerasTensor | keras.InputSpec | tf.TensorSpec) -> tf.TensorSpec:
    name = getattr(like, "name", None)
    return tf.TensorSpec([None, *like.shape[1:]], like.dtype or keras.config.floatx(), name)


def _check_replaceable(target: Path) -> None:
    """Raises ValueError if something is there that is not a SavedModel, or more than one."""
    if not target.exists():
        return
    names = {path.name for path in target.iterdir()} if target.is_dir() else {target.name}
    is_saved_model = target.is_dir() and (not names or "saved_model.pb" in names)
    if not is_saved_model or names - _OF_A_SAVED_MODEL:
        raise ValueError(
            "Expected a new folder, or a SavedModel to replace, for `filepath`. Received: "
            f"filepath={str(target)!r}, "
            + (f"with {sorted(names - _OF_A_SAVED_MODEL)[:5]}. " if target.is_dir() else "a file. ")
            + "Hint: export into a folder of its own; nothing was changed."
        )


def _replace_folder(target: Path, write: Callable[[str], None]) -> None:
    """Writes a folder under a temporary name beside its own, then renames it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        write(str(new))
        _check_replaceable(target)  # as it is now
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
