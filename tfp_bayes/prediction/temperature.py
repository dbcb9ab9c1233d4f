"""A prediction of which the pooled mean is tempered, and its measures accordingly."""

import keras
import tensorflow as tf

from tfp_bayes.prediction.likelihoods import Likelihood, clip_below_zero
from tfp_bayes.prediction.posterior import Posterior


def temperature_of(model: keras.Model, posterior: Posterior | None) -> tf.Variable | float:
    """Returns that of a calibrated model; 1 under a posterior, for which it was not found."""
    temperature = getattr(model, "output_temperature", None)
    return 1.0 if temperature is None or posterior is not None else temperature


def tempered(
    measures: dict[str, tf.Tensor], likelihood: Likelihood, temperature: tf.Variable | float
) -> dict[str, tf.Tensor]:
    """Returns measures whose mean is tempered, with the parts of the uncertainty in proportion.

    A temperature says how much uncertainty there is in a prediction, not why. So the predictive
    entropy is that of the tempered mean, and mutual information and expected entropy are the same
    shares of it as before; variances alike. Each sum stays one, and nothing is below 0. At a
    temperature of 1 every bit is as it was.

    Args:
        measures: See `streaming.measures`, of probabilities.
        likelihood: Of these.
        temperature: T, see `temperature_of`; above 1 makes the mean less sure.
    """
    if not isinstance(temperature, tf.Variable):
        return measures
    before = {name: tf.cast(value, tf.float64) for name, value in measures.items()}
    temperature = tf.cast(temperature, tf.float64)
    dtype = measures["mean"].dtype
    # Rounded before its entropy is taken, as it is without a temperature.
    rounded = tf.cast(likelihood.temper(before["mean"], temperature), dtype)
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
    return {
        name: tf.where(temperature == 1, value, tf.cast(after[name], value.dtype))
        for name, value in measures.items()
    }
