"""A prediction of which the pooled mean is calibrated, and its measures accordingly."""

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
    """What the pooled mean goes through: variables, and the graph that they are used in.

    Args:
        method: One of `ARRAYS`.
        arrays: Those of `ARRAYS`, of `uncertainty.VectorScaling` or `Isotonic`; a temperature is
            a scalar. Of K Bernoulli outputs there is one for each, of two classes, on a first axis.
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
        """Builds the graph of calibrated probabilities of classes, both (..., K) float64."""
        values = [tf.cast(self.arrays[name], tf.float64) for name in ARRAYS[self.method]]
        if self.method == "isotonic":
            return _through_curves(classes, *values)
        log_p = tf.math.log(at_least_smallest(classes))
        if self.method == "temperature":
            return tf.nn.softmax(log_p / values[0], axis=-1)
        return tf.nn.softmax(values[0] * log_p + values[1], axis=-1)

    @property
    def temperature(self) -> float:
        """T, and NaN of what has none; also of a variable that a strategy has mirrored."""
        if self.method != "temperature":
            return float("nan")
        return float(tf.convert_to_tensor(self.arrays["temperature"]))


def calibration_of(model: keras.Model, posterior: Posterior | None) -> Calibration | None:
    """Returns that of a model; None under a posterior, for which it was not found."""
    return getattr(model, "output_calibration", None) if posterior is None else None


def calibrated(
    measures: dict[str, tf.Tensor], likelihood: Likelihood, calibration: Calibration | None
) -> dict[str, tf.Tensor]:
    """Returns measures whose mean is calibrated, with the parts of the uncertainty in proportion.

    A calibration says how much uncertainty there is in a prediction, not why. So the predictive
    entropy is that of the calibrated mean, and mutual information and expected entropy are the same
    shares of it as before; variances alike. Each sum stays one, and nothing is below 0. At a
    temperature of 1 every bit is as it was.

    Args:
        measures: See `streaming.measures`, of probabilities.
        likelihood: Of these.
        calibration: See `calibration_of`.
    """
    if calibration is None:
        return measures
    before = {name: tf.cast(value, tf.float64) for name, value in measures.items()}
    dtype = measures["mean"].dtype
    # Rounded before its entropy is taken, as it is without a calibration.
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
    """Interpolates between the knots (..., K, M) of each class, and makes the sum 1."""
    num_knots = inputs.shape[-1]
    inputs, outputs = (tf.reshape(knots, [-1, num_knots]) for knots in (inputs, outputs))
    p = tf.transpose(tf.reshape(classes, [-1, inputs.shape[0]]))
    p = tf.clip_by_value(p, inputs[:, :1], inputs[:, -1:])
    right = tf.clip_by_value(tf.searchsorted(inputs, p, side="right"), 1, num_knots - 1)

    def at(knots: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        return tf.gather(knots, position, batch_dims=1)

    x, y = at(inputs, right - 1), at(outputs, right - 1)
    # Where the last knot is repeated both differences are 0.
    slope = tf.math.divide_no_nan(at(outputs, right) - y, at(inputs, right) - x)
    raised = tf.reshape(tf.transpose(y + slope * (p - x)), tf.shape(classes))
    return raised / tf.reduce_sum(raised, axis=-1, keepdims=True)
