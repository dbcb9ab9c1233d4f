"""Running sums over samples: every measure of a `Prediction` without keeping the samples."""

from typing import NamedTuple

import tensorflow as tf

from tfp_bayes.prediction.likelihoods import Likelihood


class Moments(NamedTuple):
    """What is remembered of the samples seen so far; memory does not grow with their number."""

    mean: tf.Tensor  # (N, K) of the locations
    squares: tf.Tensor  # (N, K) sum of squared deviations from the mean
    entropy: tf.Tensor  # (N,) sum of the samples' entropies
    noise: tf.Tensor  # (N, K) sum of the samples' noise variances, () if they have none


def first(p: tf.Tensor, likelihood: Likelihood) -> Moments:
    """Returns the moments of one sample of the outputs p (N, K)."""
    mean = likelihood.location(p)
    return Moments(mean, tf.zeros_like(mean), likelihood.entropy(p), likelihood.noise_variance(p))


def add(moments: Moments, p: tf.Tensor, count: tf.Tensor, likelihood: Likelihood) -> Moments:
    """Adds sample number `count` (the first is 1), p (N, K).

    Welford's update: centred, so that the variance of nearly equal probabilities survives
    float32, where mean(p^2) - mean(p)^2 would cancel to noise.
    """
    location = likelihood.location(p)
    deviation = location - moments.mean
    mean = moments.mean + deviation / tf.cast(count, p.dtype)
    squares = moments.squares + deviation * (location - mean)
    entropy = moments.entropy + likelihood.entropy(p)
    return Moments(mean, squares, entropy, moments.noise + likelihood.noise_variance(p))


def measures(moments: Moments, count: tf.Tensor, likelihood: Likelihood) -> dict[str, tf.Tensor]:
    """Returns every measure of `Prediction` from the moments of `count` samples."""
    count = tf.cast(count, moments.mean.dtype)
    mean, variance = moments.mean, moments.squares / count
    aleatoric = likelihood.aleatoric_variance(mean, variance, moments.noise / count)
    predictive_entropy = likelihood.predictive_entropy(mean, variance + aleatoric)
    expected_entropy = moments.entropy / count
    return {
        "mean": mean,
        "predictive_entropy": predictive_entropy,
        "expected_entropy": expected_entropy,
        "mutual_information": tf.maximum(predictive_entropy - expected_entropy, 0),
        "variation_ratio": 1 - likelihood.confidence(mean),
        "mean_std": tf.reduce_mean(tf.sqrt(variance), axis=-1),
        "variance": variance,
        "aleatoric_variance": aleatoric,
    }
