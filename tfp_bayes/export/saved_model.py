"""Export to a SavedModel with predictive uncertainty, which is served by TensorFlow alone."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfp_bayes.export.decisions import Endpoint, decision_endpoint
from tfp_bayes.prediction import Predictor
from tfp_bayes.prediction.adapted import update_constants
from tfp_bayes.prediction.posterior import check_posterior
from tfp_bayes.uncertainty import Conformal, SelectiveClassifier

# `predict`, `evaluate` and the served mean of a model all use the functions of this seed.
PREDICT_SEED = (0, 0)
SERVED_MEASURES = (
    "mean",
    "predictive_entropy",
    "expected_entropy",
    "mutual_information",
    "epistemic_variance",
    "aleatoric_variance",
)
# Names that TensorFlow and Keras write into the folder of a SavedModel.
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
    """Write a SavedModel with the predictive mean and the uncertainty as signatures.

    - `serve`, also named `serving_default`: inputs -> posterior predictive mean of `num_samples`
      functions, equal to `BayesianModel.predict`.
    - `predict_uncertainty`: inputs, num_samples (int32 scalar), seed (int32 of shape (2,)) ->
      dictionary of mean, predictive_entropy, expected_entropy, mutual_information,
      epistemic_variance and aleatoric_variance, equal bit for bit to
      `predict_uncertainty(x, num_samples, seed)` on the same machine.
    - `sets`, `intervals` and `decide`, if `decisions` has them: inputs -> dictionary. `sets` has
      the sets (N, K) bool of a `Conformal`, `intervals` the `lower` and `upper` bounds (N, D)
      float64 of a `Conformal`, and `decide` the `labels`, `trusted` and `uncertainty` (N,) of a
      `SelectiveClassifier`. All equal the results of the object. For rows with NaN, which a
      `Conformal` refuses, sets contain every class and bounds are NaN.

    All signatures accept any number of rows. An existing SavedModel at `filepath` is replaced once
    the new one is complete. Other files are never replaced.

    Args:
        predictor: Predictor of a functional or `Sequential` model with a single output.
        filepath: Folder of the SavedModel.
        num_samples: Number of samples S of the `serve` signature, see
            `Predictor.predict_uncertainty`.
        verbose: Whether Keras prints the signatures.
        input_signature: Shapes and dtypes of the inputs, as for `keras.Model.export`. None uses
            those of the model, with any number of rows.
        decisions: Fitted decisions, at most one per signature. They were fitted with this predictor
            or the model that it belongs to.

    Raises:
        ValueError: If a decision belongs to another predictor or was fitted before the model
            changed, the model is subclassed or has several outputs, or `filepath` exists and is
            not a SavedModel.

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
    if predictor.posterior is not None:
        check_posterior(predictor.posterior, model, predictor.linearize)
    update_constants(model)
    num_samples = predictor.resolve_num_samples(num_samples)
    endpoints = _decision_endpoints(predictor, decisions)
    target = Path(filepath).resolve()  # replaces the target of a link, not the link itself
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
    for name, endpoint in {"serve": serve, **endpoints}.items():
        _add_endpoint(archive, name, endpoint, inputs)
    of_draws = [tf.TensorSpec([], tf.int32, "num_samples"), tf.TensorSpec([2], tf.int32, "seed")]
    predict_uncertainty = _traced(predict_uncertainty, inputs + of_draws)
    archive.add_endpoint(
        "predict_uncertainty",
        lambda inputs, num_samples, seed: predict_uncertainty(inputs, num_samples, seed),
        inputs + of_draws,
    )
    _replace_folder(target, lambda folder: archive.write_out(folder, verbose=verbose))


def _add_endpoint(
    archive: keras.export.ExportArchive, name: str, endpoint: Endpoint, inputs: list
) -> None:
    traced = _traced(endpoint, inputs)
    archive.add_endpoint(name, lambda inputs: traced(inputs), inputs)


def _traced(function: Callable[..., Any], signature: list) -> Callable[..., Any]:
    """Trace a function once. Keras traces each endpoint twice, which is then only a call of it."""
    return tf.function(function, autograph=False).get_concrete_function(*signature)


def _decision_endpoints(
    predictor: Predictor, decisions: Sequence[Conformal | SelectiveClassifier]
) -> dict[str, Endpoint]:
    endpoints: dict[str, Endpoint] = {}
    for decision in decisions:
        name, endpoint = decision_endpoint(predictor, decision)
        if name in endpoints:
            raise ValueError(
                "Expected at most one decision of each kind in `decisions`. Received: several for "
                f"the signature {name!r}. Hint: export a SavedModel for each of them."
            )
        endpoints[name] = endpoint
    return endpoints


def check_single_output(model: keras.Model) -> None:
    """Raise ValueError unless a model has known inputs and one output."""
    if not hasattr(model, "inputs") or len(model.outputs) != 1:
        raise ValueError(
            "Expected a functional or Sequential model with one output. "
            f"Received: model={model.name!r}. Hint: build it with keras.Model(inputs, output), one "
            "model for each output."
        )


def _spec(like: keras.KerasTensor | keras.InputSpec | tf.TensorSpec) -> tf.TensorSpec:
    name = getattr(like, "name", None)
    return tf.TensorSpec([None, *like.shape[1:]], like.dtype or keras.config.floatx(), name)


def _check_replaceable(target: Path) -> None:
    """Raise ValueError if the path exists and is anything but a SavedModel."""
    if not target.exists():
        return
    names = {path.name for path in target.iterdir()} if target.is_dir() else {target.name}
    is_saved_model = target.is_dir() and (not names or "saved_model.pb" in names)
    if not is_saved_model or names - _OF_A_SAVED_MODEL:
        raise ValueError(
            "Expected a new folder, or a SavedModel to replace, for `filepath`. Received: "
            f"filepath={str(target)!r}, "
            + (f"with {sorted(names - _OF_A_SAVED_MODEL)[:5]}. " if target.is_dir() else "a file. ")
            + "Hint: export into a new folder. Nothing was changed."
        )


def _replace_folder(target: Path, write: Callable[[str], None]) -> None:
    """Write a folder under a temporary name next to the target, then rename it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        new, old = Path(scratch, "new"), Path(scratch, "old")
        write(str(new))
        _check_replaceable(target)  # again, since it may have changed during the export
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
