"""Running sums over samples, which give every measure of a `Prediction` without storing them."""

from typing import NamedTuple

import tensorflow as tf

from tfp_bayes.prediction.likelihoods import Likelihood, clip_below_zero


class Moments(NamedTuple):
    """Running sums over the samples so far. Memory does not grow with their number.

    The sums are float64, because a float32 sum of 100,000 entropies is wrong in the fourth digit,
    and the mutual information is a difference of two entropies.
    """

    mean: tf.Tensor  # (N, K) mean of the locations
    squares: tf.Tensor  # (N, K) sum of squared deviations from the mean
    entropy: tf.Tensor  # (N,) sum of the samples' entropies
    noise: tf.Tensor  # (N, K) sum of the samples' noise variances, () if there are none


def first(p: tf.Tensor, likelihood: Likelihood) -> Moments:
    """Return the moments of one sample of the outputs p (N, K)."""
    mean = _wide(likelihood.location(p))
    noise = _wide(likelihood.noise_variance(p))
    return Moments(mean, tf.zeros_like(mean), _wide(likelihood.entropy(p)), noise)


def add(moments: Moments, p: tf.Tensor, count: tf.Tensor, likelihood: Likelihood) -> Moments:
    """Add sample p (N, K) with number `count`; the first sample has number 1.

    Uses Welford's update, which is accurate for the variance of nearly equal probabilities, where
    mean(p^2) - mean(p)^2 would cancel.
    """
    location = _wide(likelihood.location(p))
    deviation = location - moments.mean
    mean = moments.mean + deviation / _wide(count)
    squares = moments.squares + deviation * (location - mean)
    entropy = moments.entropy + _wide(likelihood.entropy(p))
    return Moments(mean, squares, entropy, moments.noise + _wide(likelihood.noise_variance(p)))


def measures(
    moments: Moments, count: tf.Tensor, likelihood: Likelihood, dtype: tf.DType
) -> dict[str, tf.Tensor]:
    """Return every measure of `Prediction` from the moments of `count` samples, as `dtype`."""
    count = _wide(count)
    epistemic = moments.squares / count
    aleatoric = likelihood.aleatoric_variance(moments.mean, epistemic, moments.noise / count)
    # Round the mean before taking its entropy, like the samples. Then the mutual information of
    # equal samples is exactly 0.
    mean, variance, expected_entropy = (
        tf.cast(each, dtype)
        for each in (moments.mean, epistemic + aleatoric, moments.entropy / count)
    )
    predictive_entropy = likelihood.predictive_entropy(mean, variance)
    return {
        "mean": mean,
        "predictive_entropy": predictive_entropy,
        "expected_entropy": expected_entropy,
        "mutual_information": clip_below_zero(predictive_entropy - expected_entropy),
        "variation_ratio": 1 - likelihood.confidence(mean),
        "mean_std": tf.cast(tf.reduce_mean(tf.sqrt(epistemic), axis=-1), dtype),
        "epistemic_variance": tf.cast(epistemic, dtype),
        "aleatoric_variance": tf.cast(aleatoric, dtype),
    }


def _wide(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float64)
