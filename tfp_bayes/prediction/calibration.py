"""Calibration of the predictive mean, and adjustment of the uncertainty measures to it."""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes.prediction.likelihoods import Likelihood, at_least_smallest, clip_below_zero
from tfp_bayes.prediction.posterior import Posterior

ARRAYS = {
    "temperature": ("temperature",),
    "vector": ("scale", "offset"),
    "isotonic": ("inputs", "outputs"),
}


class Calibration(tf.Module):
    """Calibration map of the predictive mean: its variables, and the graph that applies it.

    Args:
        method: Name of the method, a key of `ARRAYS`.
        arrays: Arrays by the names in `ARRAYS`, from `uncertainty.VectorScaling` or `Isotonic`. A
            temperature is a scalar. For K Bernoulli outputs, the first axis of the other arrays
            has one calibration of two classes per output.
    """

    def __init__(self, method: str, arrays: Mapping[str, np.ndarray]):
        super().__init__()
        self.method = method
        dtype = "float32" if method == "temperature" else "float64"
        self.arrays = {
            name: tf.Variable(arrays[name], trainable=False, dtype=dtype, name=f"output_{name}")
            for name in ARRAYS[method]
        }

    def __call__(self, classes: tf.Tensor) -> tf.Tensor:
        """Build the graph of calibrated from plain class probabilities, both (..., K) float64."""
        values = [tf.cast(self.arrays[name], tf.float64) for name in ARRAYS[self.method]]
        if self.method == "isotonic":
            return _through_curves(classes, *values)
        log_p = tf.math.log(at_least_smallest(classes))
        if self.method == "temperature":
            return tf.nn.softmax(log_p / values[0], axis=-1)
        return tf.nn.softmax(values[0] * log_p + values[1], axis=-1)

    @property
    def temperature(self) -> float:
        """Temperature T, or NaN for the other methods."""
        if self.method != "temperature":
            return float("nan")
        # Works for a variable that a distribution strategy has mirrored, too.
        return float(tf.convert_to_tensor(self.arrays["temperature"]))


def calibration_of(model: keras.Model, posterior: Posterior | None) -> Calibration | None:
    """Return the calibration of a model. With a posterior, return None: it was not fitted to it."""
    return getattr(model, "output_calibration", None) if posterior is None else None


def calibrated(
    measures: dict[str, tf.Tensor], likelihood: Likelihood, calibration: Calibration | None
) -> dict[str, tf.Tensor]:
    """Return measures with a calibrated mean and proportionally adjusted uncertainties.

    A calibration determines the amount of uncertainty, not its source. So the predictive entropy
    is that of the calibrated mean, and mutual information and expected entropy keep their shares
    of it. The same holds for the variances. Parts still add up to totals, and nothing is
    negative. At a temperature of 1, the result is bit-equal to `measures`.

    Args:
        measures: Measures of probabilities, see `streaming.measures`.
        likelihood: Likelihood of the outputs.
        calibration: See `calibration_of`. None returns `measures`.
    """
    if calibration is None:
        return measures
    before = {name: tf.cast(value, tf.float64) for name, value in measures.items()}
    dtype = measures["mean"].dtype
    # Round the mean before taking its entropy, as `streaming.measures` does.
    rounded = tf.cast(likelihood.calibrate(before["mean"], calibration), dtype)
    mean = tf.cast(rounded, tf.float64)
    entropy = likelihood.entropy(mean)
    share = tf.math.divide_no_nan(before["mutual_information"], before["predictive_entropy"])
    total, total_before = mean * (1 - mean), before["mean"] * (1 - before["mean"])
    epistemic = before["epistemic_variance"] * tf.math.divide_no_nan(total, total_before)
    after = {
        "mean": mean,
        "predictive_entropy": entropy,
        "expected_entropy": clip_below_zero(entropy - entropy * share),
        "mutual_information": entropy * share,
        "variation_ratio": 1 - likelihood.confidence(mean),
        "mean_std": tf.reduce_mean(tf.sqrt(epistemic), axis=-1),
        "epistemic_variance": epistemic,
        "aleatoric_variance": clip_below_zero(total - epistemic),
    }
    after = {name: tf.cast(after[name], value.dtype) for name, value in measures.items()}
    if calibration.method != "temperature":
        return after
    is_identity = calibration.arrays["temperature"] == 1
    return {name: tf.where(is_identity, measures[name], value) for name, value in after.items()}


def _through_curves(classes: tf.Tensor, inputs: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Interpolate between the knots (..., K, M) of each class, and normalize the sum to 1."""
    num_knots = inputs.shape[-1]
    inputs, outputs = (tf.reshape(knots, [-1, num_knots]) for knots in (inputs, outputs))
    p = tf.transpose(tf.reshape(classes, [-1, inputs.shape[0]]))
    p = tf.clip_by_value(p, inputs[:, :1], inputs[:, -1:])
    right = tf.clip_by_value(tf.searchsorted(inputs, p, side="right"), 1, num_knots - 1)

    def at(knots: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        return tf.gather(knots, position, batch_dims=1)

    x, y = at(inputs, right - 1), at(outputs, right - 1)
    # If the last knot is repeated, both differences are 0.
    slope = tf.math.divide_no_nan(at(outputs, right) - y, at(inputs, right) - x)
    raised = tf.reshape(tf.transpose(y + slope * (p - x)), tf.shape(classes))
    return raised / tf.reduce_sum(raised, axis=-1, keepdims=True)
