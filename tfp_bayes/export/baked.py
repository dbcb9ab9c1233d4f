"""Export to LiteRT or ONNX Runtime, with predictive uncertainty."""

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing.files import write_atomically
from tfp_bayes._plumbing.keras_internals import flatten_layers
from tfp_bayes._plumbing.probabilities import SMALLEST_PROBABILITY
from tfp_bayes._plumbing.seeds import as_seed
from tfp_bayes.export.functions import draw_functions, example_shape
from tfp_bayes.export.runtimes import RUNTIMES, Runtime, check_installed
from tfp_bayes.export.saved_model import SERVED_MEASURES, check_single_output
from tfp_bayes.prediction import Predictor
from tfp_bayes.prediction.adapted import update_constants
from tfp_bayes.prediction.calibration import calibration_of
from tfp_bayes.prediction.finite import nan_unless
from tfp_bayes.prediction.likelihoods import (
    Bernoulli,
    Likelihood,
    Normal,
    clip_below_zero,
    get_likelihood,
)

# Fewer than the 100 samples of predictions, because a phone computes each function in turn, and
# random weights are stored for each.
DEFAULT_NUM_FUNCTIONS = 10
_HINT = (
    "replace the layer (recurrent layers need unroll=True for LiteRT), or export with "
    'format="tf_saved_model", which supports every model'
)
_TOLERANCE = 1e-4  # far above rounding errors, below the error of a wrong operation


def export_baked(
    predictor: Predictor,
    filepath: str | Path,
    format: str,
    num_samples: int | None = None,
    seed: int | tuple[int, int] | None = 0,
    int8: bool = False,
    verbose: bool = False,
    input_signature: Any = None,
) -> None:
    """Write a file for phones or other runtimes, with the predictive mean and its uncertainty.

    Neither runtime has random operations. Therefore S functions are drawn during export, with the
    seeds of `predict_uncertainty`, and the file holds their masks and weights as constants. Its
    outputs are `mean`, `predictive_entropy`, `expected_entropy`, `mutual_information`,
    `epistemic_variance` and `aleatoric_variance`. Up to rounding, they equal those of
    `predict_uncertainty(x, num_samples, seed)`, for any number of rows. Rows with NaN or infinity
    get NaN.

    Everything that the functions share is stored once. With dropout, the size of the file hardly
    depends on S. Random weights of layers and of posteriors are stored S times. Before the file is
    written, its outputs for a few rows of noise are compared with those of the predictor, and a
    file with different outputs is refused.

    Args:
        predictor: Predictor of a functional or `Sequential` model with a single output.
        filepath: Path of the file, ending in ".tflite" or ".onnx". An existing file is replaced.
        format: "litert" (extra `litert`) or "onnx" (extra `onnx`).
        num_samples: Number of samples S. None uses each draw of a finite posterior once, and 10
            samples otherwise.
        seed: As in `Predictor.predict_uncertainty`.
        int8: Whether to round the weights of large layers to 8 bits, for LiteRT only. The file is
            then a quarter of the size, and probabilities change slightly. Measure the effect on
            your data.
        verbose: Whether to print the size of the file.
        input_signature: Shapes and dtypes of the inputs, as for `keras.Model.export`. None uses
            those of the model. The number of rows is always free.

    Raises:
        ImportError: If a package of the extra is not installed.
        ValueError: If the model is subclassed, calibrated by isotonic regression, in half
            precision or has several outputs, an input has a free size that noise depends on, the
            runtime lacks an operation of a layer, or its outputs differ from those of the model.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((2,), name="x"), MCDropout(0.5), keras.layers.Dense(3, "softmax")])
    >>> export_baked(Predictor(model), tmp_path / "model.tflite", "litert")
    >>> from ai_edge_litert.interpreter import Interpreter
    >>> run = Interpreter(str(tmp_path / "model.tflite")).get_signature_runner()
    >>> run(x=np.ones((4, 2), "float32"))["mutual_information"].shape
    (4,)
    """
    runtime = _runtime(format, Path(filepath), int8)
    check_installed(format)
    model = predictor.model
    check_single_output(model)
    update_constants(model)
    if num_samples is None and getattr(predictor.posterior, "num_draws", None) is None:
        num_samples = DEFAULT_NUM_FUNCTIONS if predictor.is_random else 1
    num_samples, theta_seed = predictor.resolve_num_samples(num_samples), as_seed(seed)
    _refuse_half_precision(model)
    calibration = _log_linear(predictor)
    structure = model.inputs[0] if len(model.inputs) == 1 else model.input
    if input_signature is not None:
        structure = input_signature[0]
    specs = _specs(keras.tree.flatten(structure), format)
    functions = draw_functions(
        predictor, specs, structure, num_samples, theta_seed, replaces_softplus=format == "litert"
    )
    likelihood = get_likelihood(*predictor.likelihood_names(1))

    def answer(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        named = {spec.name: x for spec, x in zip(specs, inputs)}
        samples = tf.stack([tf.cast(p, tf.float32) for p in functions.outputs(named)])
        finite = [_finite_rows(x) for x in inputs if x.dtype.is_floating]
        return _measures(samples, likelihood, finite, calibration)

    function = tf.function(answer, input_signature=specs, autograph=False)
    for rounded in (False, True) if int8 else (False,):  # full precision checks the operations
        content = _convert(function, runtime, rounded, model)
        _check_answer(
            content, runtime, predictor, specs, structure, num_samples, theta_seed, rounded
        )
    write_atomically(Path(filepath), lambda file: file.write(content))
    if verbose:
        print(f"Saved {num_samples} functions, {len(content):,} bytes, at {filepath}")


def _runtime(format: str, path: Path, int8: bool) -> Runtime:
    if format not in RUNTIMES:
        raise ValueError(
            f"Expected one of {sorted(RUNTIMES)} for `format`. Received: format={format!r}. "
            "Hint: use export_saved_model for a SavedModel."
        )
    runtime = RUNTIMES[format]
    if path.suffix != runtime.ending or path.is_dir():
        raise ValueError(
            f"Expected the path of a file ending in {runtime.ending!r} for `filepath`. "
            f"Received: filepath={str(path)!r}. Hint: {path.stem or 'model'}{runtime.ending}."
        )
    if int8 and format != "litert":
        raise ValueError(
            f"Expected int8=False for format={format!r}. Received: int8={int8!r}. Hint: "
            "onnxruntime.quantization.quantize_dynamic rounds the weights of an .onnx file."
        )
    return runtime


def _convert(
    function: tf.types.experimental.PolymorphicFunction,
    runtime: Runtime,
    int8: bool,
    model: keras.Model,
) -> bytes:
    try:
        return runtime.convert(function, int8)
    except Exception as error:  # converters and protobuf raise exceptions of many types
        raise ValueError(
            f"Expected layers that {runtime.name} has operations for. Received: "
            f"model={model.name!r}, {_reason(error)}. Hint: {_HINT}."
        ) from error


def _refuse_half_precision(model: keras.Model) -> None:
    for layer in flatten_layers(model):
        if layer.compute_dtype in ("float16", "bfloat16"):
            raise ValueError(
                "Expected layers that compute in single precision. Received: layer "
                f"{layer.name!r}, which computes in {layer.compute_dtype}. Hint: build the model "
                "under the policy 'float32', and copy the weights with set_weights."
            )


def _log_linear(predictor: Predictor) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the scale and offset that calibrate log probabilities, or None without a calibration.

    Raises:
        ValueError: If the calibration is of another kind.
    """
    calibration = calibration_of(predictor.model, predictor.posterior)
    if calibration is None or calibration.temperature == 1:
        return None
    if calibration.method == "temperature":
        return np.asarray(1 / calibration.temperature), np.zeros(())
    if calibration.method == "vector":
        scale, offset = (calibration.arrays[name] for name in ("scale", "offset"))
        return np.asarray(tf.convert_to_tensor(scale)), np.asarray(tf.convert_to_tensor(offset))
    raise ValueError(
        "Expected a model that is calibrated by a temperature or vector scaling, or not at all. "
        f"Received: model={predictor.model.name!r}, calibrated by {calibration.method!r}. Hint: "
        'export with format="tf_saved_model", which supports every calibration.'
    )


def _specs(inputs: list, format: str) -> list[tf.TensorSpec]:
    """Return the specifications of inputs, with valid and distinct names."""
    specs: list[tf.TensorSpec] = []
    for each in inputs:
        dtype = tf.as_dtype(each.dtype or keras.config.floatx())
        if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
            raise ValueError(
                f'Expected numeric inputs for format="{format}". Received: input '
                f"{each.name!r} of dtype {dtype.name}. Hint: move layers such as StringLookup out "
                "of the model, and export the rest."
            )
        name = re.sub(r"\W", "_", getattr(each, "name", None) or "inputs")
        while name in [spec.name for spec in specs]:
            name += "_"
        specs.append(tf.TensorSpec([None, *each.shape[1:]], dtype, name))
    return specs


def _finite_rows(x: tf.Tensor) -> tf.Tensor:
    # By comparison, since neither runtime has an operation for finiteness.
    finite = tf.abs(x) <= tf.constant(x.dtype.max, x.dtype)
    return tf.reduce_all(finite, axis=list(range(1, x.shape.rank)))


def _measures(
    samples: tf.Tensor,
    likelihood: Likelihood,
    finite: list[tf.Tensor],
    calibration: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, tf.Tensor]:
    """Build the graph of `SERVED_MEASURES` from the outputs of all samples (S, N, ..., K)."""
    locations = likelihood.location(samples)
    mean = tf.reduce_mean(locations, axis=0)
    epistemic = tf.reduce_mean(tf.square(locations - mean), axis=0)
    noise = likelihood.noise_variance(samples)
    noise = tf.reduce_mean(noise, axis=0) if noise.shape.rank else noise
    aleatoric = likelihood.aleatoric_variance(mean, epistemic, noise)
    if isinstance(likelihood, Normal):
        predictive = likelihood.predictive_entropy(mean, epistemic + aleatoric)
        expected = tf.reduce_mean(likelihood.entropy(samples), axis=0)
    else:
        both = isinstance(likelihood, Bernoulli)
        predictive = _entropy(mean, both)
        expected = tf.reduce_mean(_entropy(samples, both), axis=0)
    values = (
        mean,
        predictive,
        expected,
        clip_below_zero(predictive - expected),
        epistemic,
        aleatoric,
    )
    if calibration is not None:
        values = _calibrated(*values, isinstance(likelihood, Bernoulli), *calibration)
    for rows in finite:
        values = tuple(nan_unless(rows, value) for value in values)
    return {name: tf.identity(value, name) for name, value in zip(SERVED_MEASURES, values)}


def _calibrated(
    mean: tf.Tensor,
    predictive: tf.Tensor,
    expected: tf.Tensor,
    information: tf.Tensor,
    epistemic: tf.Tensor,
    aleatoric: tf.Tensor,
    both_outcomes: bool,
    scale: np.ndarray,
    offset: np.ndarray,
) -> tuple[tf.Tensor, ...]:
    """Build the graph of `prediction.calibration.calibrated`, in single precision."""
    classes = tf.stack([1 - mean, mean], axis=-1) if both_outcomes else mean
    log_p = tf.math.log(tf.maximum(classes, SMALLEST_PROBABILITY))
    changed = tf.nn.softmax(log_p * scale.astype("float32") + offset.astype("float32"), axis=-1)
    changed = changed[..., 1] if both_outcomes else changed
    entropy = _entropy(changed, both_outcomes)
    tiny = np.finfo("float32").tiny
    share = information / tf.maximum(predictive, tiny)
    total = changed * (1 - changed)
    epistemic = epistemic / tf.maximum(mean * (1 - mean), tiny) * total
    return (
        changed,
        entropy,
        clip_below_zero(entropy - entropy * share),
        entropy * share,
        epistemic,
        clip_below_zero(total - epistemic),
    )


def _entropy(p: tf.Tensor, both_outcomes: bool) -> tf.Tensor:
    terms = _p_log_p(p) + _p_log_p(1 - p) if both_outcomes else _p_log_p(p)
    return -tf.reduce_sum(terms, axis=-1)


def _p_log_p(p: tf.Tensor) -> tf.Tensor:
    # Without `xlogy`, which neither runtime has.
    return p * tf.math.log(tf.maximum(p, np.finfo("float32").tiny))


def _check_answer(
    content: bytes,
    runtime: Runtime,
    predictor: Predictor,
    specs: list[tf.TensorSpec],
    structure,
    num_samples: int,
    seed: np.ndarray,
    int8: bool,
) -> None:
    """Raise ValueError unless a file's outputs equal those of the predictor for rows of noise.

    If weights were rounded to 8 bits, only check that the outputs are finite in the same places.
    """
    rng = np.random.default_rng(0)
    inputs = {}
    for spec in specs:
        shape = example_shape(spec, 1)
        noise = rng.normal(size=shape) if spec.dtype.is_floating else rng.integers(0, 2, shape)
        inputs[spec.name] = noise.astype(spec.dtype.as_numpy_dtype)
    try:
        answer = runtime.run(content, inputs)
    except Exception as error:
        raise ValueError(
            f"Expected operations that {runtime.name} can run. Received: "
            f"model={predictor.model.name!r}, {_reason(error)}. Hint: {_HINT}."
        ) from error
    x = keras.tree.pack_sequence_as(structure, list(inputs.values()))
    low, high = seed.tolist()
    expected = predictor.predict_uncertainty(x, num_samples, (low, high))
    for name, value in answer.items():
        exact = getattr(expected, name)
        if int8:
            close = np.array_equal(np.isfinite(value), np.isfinite(exact))
        else:
            close = np.allclose(value, exact, _TOLERANCE, _TOLERANCE, equal_nan=True)
        if not close:
            raise ValueError(
                f"Expected the {name} of the predictor from {runtime.name}. Received: a largest "
                f"difference of {np.abs(value - exact).max():.2g} on rows of noise. Hint: the "
                "runtime computes one of the layers differently; export with "
                'format="tf_saved_model".'
            )


def _reason(error: Exception) -> str:
    """Return the operations that a converter does not support, or the start of its message."""
    text = " ".join(str(error).split())
    operations = sorted(set(re.findall(r"'tf\.(\w+)' op", text)))
    if operations:
        return f"with operations {', '.join(operations)}"
    return f"{type(error).__name__}: {text[:400]}"
