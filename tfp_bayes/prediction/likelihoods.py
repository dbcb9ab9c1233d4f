"""Likelihoods: what a model's outputs mean, and how samples of them express uncertainty."""

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import tensorflow as tf
from scipy.special import logsumexp, ndtr, ndtri

from tfp_bayes._plumbing.probabilities import SMALLEST_PROBABILITY
from tfp_bayes.prediction.targets import (
    ClassNumbers,
    RealNumbers,
    RegressedClasses,
    Targets,
    ZerosAndOnes,
)


class Likelihood(Protocol):
    """Interface of a likelihood. One sample of the outputs is p (..., K)."""

    def location(self, p: tf.Tensor) -> tf.Tensor:
        """Return the mean of the target under one sample."""

    def vote(self, p: tf.Tensor) -> tf.Tensor:
        """Return all probability on the most probable target of one sample, in the form of p.

        Outputs that are not a distribution are returned unchanged, so that `check` finds them.
        """

    def calibrate(
        self, mean: tf.Tensor, calibration: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Return the calibrated predictive mean. If it is not a distribution, return it unchanged.

        Args:
            mean: Predictive mean (..., K).
            calibration: Function from class probabilities, on the last axis, to calibrated ones.
        """

    def noise_variance(self, p: tf.Tensor) -> tf.Tensor:
        """Return the variance of the target under one sample, or 0 if `location` determines it."""

    def entropy(self, p: tf.Tensor) -> tf.Tensor:
        """Return the entropy (...) of the target under one sample, in nats."""

    def predictive_entropy(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Return the entropy (...) of the mixture of all samples, from its mean and variance."""

    def aleatoric_variance(
        self, mean: tf.Tensor, variance: tf.Tensor, noise: tf.Tensor
    ) -> tf.Tensor:
        """Return the variance of the target within a sample, averaged over samples.

        Args:
            mean: Mean of the locations over samples.
            variance: Variance of the locations over samples.
            noise: Average `noise_variance`.
        """

    def confidence(self, mean: tf.Tensor) -> tf.Tensor:
        """Return the probability (...) of the most probable target, or NaN for real targets."""

    def outputs(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Return the predictive distribution in the form of the model's outputs."""

    def check(self, mean: np.ndarray) -> None:
        """Raise ValueError if these values cannot be a predictive mean."""

    def quantile(self, samples: np.ndarray, probability: float) -> np.ndarray:
        """Return a quantile (N, ..., K) over all samples, of the target or of its probability."""

    def log_prob(
        self, y: np.ndarray, mean: np.ndarray, variance: np.ndarray, samples: np.ndarray | None
    ) -> np.ndarray:
        """Return the log predictive probability (N, ...) of y in nats."""

    def targets(self, mean: np.ndarray, labels: np.ndarray) -> Targets:
        """Return the kind of label that an example has.

        Args:
            mean: Predictive mean (N, ..., K) of any examples.
            labels: Labels (n, ...) of any examples.
        """


def clip_below_zero(x: tf.Tensor) -> tf.Tensor:
    """Return max(x, 0), but keep NaN, for which `tf.maximum` may return 0."""
    return tf.where(x < 0, tf.zeros_like(x), x)


def at_least_smallest(p: tf.Tensor) -> tf.Tensor:
    """Return max(p, 1e-7), which has a finite logarithm, but keep NaN."""
    smallest = tf.constant(SMALLEST_PROBABILITY, p.dtype)
    return tf.where(p < smallest, smallest, p)


class _Probabilities(Likelihood):
    """Base class of categorical and Bernoulli outputs, which are the mean of the target."""

    def location(self, p: tf.Tensor) -> tf.Tensor:
        """Return p, because a probability is the mean of a label of 0 or 1."""
        return p

    def noise_variance(self, p: tf.Tensor) -> tf.Tensor:
        """Return 0, because p determines the variance of a label."""
        return tf.zeros([], p.dtype)

    def predictive_entropy(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Return the entropy of the mean, which determines the mixture's distribution."""
        return self.entropy(mean)

    def aleatoric_variance(
        self, mean: tf.Tensor, variance: tf.Tensor, noise: tf.Tensor
    ) -> tf.Tensor:
        """Return mean_s p (1 - p), computed as the label's total variance minus `variance`."""
        return clip_below_zero(mean * (1 - mean) - variance)

    def outputs(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Return the mean."""
        return mean

    def quantile(self, samples: np.ndarray, probability: float) -> np.ndarray:
        """Return a quantile of the samples' probabilities."""
        return np.quantile(samples.astype("float64"), probability, axis=0)


class Categorical(_Probabilities):
    """K exclusive classes. Outputs are probabilities from a softmax."""

    def vote(self, p: tf.Tensor) -> tf.Tensor:
        """Return 1 for the most probable class (the first one in a tie), and 0 for the others."""
        votes = tf.one_hot(tf.argmax(p, axis=-1), tf.shape(p)[-1], dtype=p.dtype)
        return tf.where(tf.reduce_all(p >= 0, axis=-1, keepdims=True), votes, p)

    def calibrate(
        self, mean: tf.Tensor, calibration: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Return calibrated probabilities of the K classes."""
        total = tf.reduce_sum(mean, axis=-1, keepdims=True)
        valid = tf.reduce_all(mean >= 0, axis=-1, keepdims=True) & (tf.abs(total - 1) < 0.02)
        return tf.where(valid, calibration(mean), mean)

    def entropy(self, p: tf.Tensor) -> tf.Tensor:
        """Return -sum_k p_k log p_k (...)."""
        return -tf.reduce_sum(tf.math.xlogy(p, p), axis=-1)

    def confidence(self, mean: tf.Tensor) -> tf.Tensor:
        """Return max_k p_k (...)."""
        return tf.reduce_max(mean, axis=-1)

    def check(self, mean: np.ndarray) -> None:
        """Raise ValueError if rows do not sum to 1, such as logits or NaN."""
        total = mean.sum(-1)
        is_one = mean.size and mean.shape[-1] == 1  # class, whose softmax is always 1
        # A half-precision softmax sums to 1 within about 1e-2.
        if is_one or not np.all((np.abs(total - 1) < 0.02) & (mean >= 0).all(-1)):
            raise ValueError(
                "Expected outputs that are probabilities for likelihood='categorical'. "
                f"Received: {mean.shape[-1]} outputs, rows that sum to between {total.min():.4g} "
                f"and {total.max():.4g}, smallest entry {mean.min():.4g}. "
                f"Hint: {self._hint(mean)}; NaN means that training diverged."
            )

    def _hint(self, mean: np.ndarray) -> str:
        """Return advice on how to make the outputs distributions over classes."""
        if np.all((mean >= 0) & (mean <= 1)) and mean.min() < 1:  # such as sigmoids
            return "pass likelihood='bernoulli' if the model ends in a sigmoid"
        if mean.shape[-1] == 1:
            return "end the model in a sigmoid and pass likelihood='bernoulli'"
        return "end the model in a softmax"

    def log_prob(
        self, y: np.ndarray, mean: np.ndarray, variance: np.ndarray, samples: np.ndarray | None
    ) -> np.ndarray:
        """Return log mean_k for the class k = y."""
        num_classes = mean.shape[-1]
        valid = y.dtype.kind in "iu" and y.shape == mean.shape[:-1]
        if not valid or (y.size and not 0 <= y.min() <= y.max() < num_classes):
            raise ValueError(
                f"Expected integer labels of shape {mean.shape[:-1]} in [0, {num_classes}) for "
                f"`y`. Received: {y.dtype} of shape {y.shape}"
                + (f", from {y.min()} to {y.max()}" if y.size else "")
                + ". Hint: convert one-hot labels with argmax(-1), and a column (N, 1) with "
                "squeeze(-1)."
            )
        chosen = np.take_along_axis(mean, y[..., None].astype("int64"), axis=-1)[..., 0]
        return _log(chosen)

    def targets(self, mean: np.ndarray, labels: np.ndarray) -> Targets:
        """Return `ClassNumbers`."""
        return ClassNumbers(mean.shape[-1], mean.shape[1:-1])


class Bernoulli(_Probabilities):
    """K independent yes-or-no outputs from sigmoids. Entropies add; confidences are averaged."""

    def vote(self, p: tf.Tensor) -> tf.Tensor:
        """Return 1 for each output of at least 0.5, and 0 for the others."""
        return tf.where((p >= 0) & (p <= 1), tf.cast(p >= 0.5, p.dtype), p)

    def calibrate(
        self, mean: tf.Tensor, calibration: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Return calibrated probabilities of "yes". "No" and "yes" are the classes of an output."""
        yes = calibration(tf.stack([1 - mean, mean], axis=-1))[..., 1]
        return tf.where((mean >= 0) & (mean <= 1), yes, mean)

    def entropy(self, p: tf.Tensor) -> tf.Tensor:
        """Return the sum over outputs (...) of -p log p - (1 - p) log(1 - p)."""
        return -tf.reduce_sum(tf.math.xlogy(p, p) + tf.math.xlogy(1 - p, 1 - p), axis=-1)

    def confidence(self, mean: tf.Tensor) -> tf.Tensor:
        """Return the mean over outputs (...) of max(p, 1 - p)."""
        return tf.reduce_mean(tf.maximum(mean, 1 - mean), axis=-1)

    def check(self, mean: np.ndarray) -> None:
        """Raise ValueError for NaN and values outside [0, 1]."""
        if not np.all((mean >= 0) & (mean <= 1)):
            raise ValueError(
                "Expected outputs in [0, 1] for likelihood='bernoulli'. "
                f"Received: values between {mean.min():.4g} and {mean.max():.4g}. "
                "Hint: end the model in a sigmoid; NaN means that training diverged."
            )

    def log_prob(
        self, y: np.ndarray, mean: np.ndarray, variance: np.ndarray, samples: np.ndarray | None
    ) -> np.ndarray:
        """Return the sum over outputs of log mean where y is 1 and log(1 - mean) where it is 0."""
        y = _as_outputs(y, mean)
        if not np.isin(y, (0, 1)).all():
            raise ValueError(
                f"Expected labels of 0 and 1 for `y`. Received: {y.dtype} from {y.min()} to "
                f"{y.max()}. Hint: for class numbers, use likelihood='categorical'."
            )
        return _log(np.where(y == 1, mean, 1 - mean)).sum(-1)

    def targets(self, mean: np.ndarray, labels: np.ndarray) -> Targets:
        """Return `ZerosAndOnes`, one label for each output."""
        return ZerosAndOnes(mean.shape[-1], _shape_of_one(mean))


class Normal(Likelihood):
    """D real targets. Outputs are D locations, then D standard deviations."""

    def location(self, p: tf.Tensor) -> tf.Tensor:
        """Return the locations (..., D), the first half of p. They are NaN for a negative scale."""
        if p.shape[-1] is None or p.shape[-1] % 2:
            raise ValueError(
                "Expected outputs with equally many locations and scales on the last axis for "
                f"likelihood='normal'. Received: outputs of shape {tuple(p.shape)}. "
                "Hint: end the model in tfp_bayes.layers.NormalParameters(units)."
            )
        loc, scale = tf.split(p, 2, axis=-1)
        return tf.where(scale < 0, tf.constant(float("nan"), p.dtype), loc)

    def vote(self, p: tf.Tensor) -> tf.Tensor:
        """Raise ValueError, because real numbers cannot be voted for."""
        raise ValueError(
            "Expected classes to vote for. Received: likelihood='normal', combine='vote'. "
            "Hint: use combine='mean', which mixes the members' distributions."
        )

    def calibrate(
        self, mean: tf.Tensor, calibration: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Return the mean, because real targets have no probabilities to calibrate."""
        return mean

    def noise_variance(self, p: tf.Tensor) -> tf.Tensor:
        """Return the squared scales (..., D)."""
        return tf.square(p[..., p.shape[-1] // 2 :])

    def entropy(self, p: tf.Tensor) -> tf.Tensor:
        """Return sum_d log(2 pi e scale_d^2) / 2 (...)."""
        return self.predictive_entropy(p, self.noise_variance(p))

    def predictive_entropy(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Return the entropy of the normal with this variance, an upper bound for the mixture."""
        constant = math.log(2 * math.pi * math.e)
        return tf.reduce_sum(constant + tf.math.log(variance), axis=-1) / 2

    def aleatoric_variance(
        self, mean: tf.Tensor, variance: tf.Tensor, noise: tf.Tensor
    ) -> tf.Tensor:
        """Return `noise`, the average squared scale."""
        return noise

    def confidence(self, mean: tf.Tensor) -> tf.Tensor:
        """Return NaN, because a single real number has no probability."""
        return tf.fill(tf.shape(mean)[:-1], tf.constant(float("nan"), mean.dtype))

    def outputs(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Return means, then standard deviations (..., 2 D)."""
        return tf.concat([mean, tf.sqrt(variance)], axis=-1)

    def check(self, mean: np.ndarray) -> None:
        """Raise ValueError for NaN and infinity."""
        if not np.isfinite(mean).all():
            raise ValueError(
                "Expected finite locations and positive scales for likelihood='normal'. "
                f"Received: {int((~np.isfinite(mean)).sum())} other outputs. Hint: end the "
                "model in tfp_bayes.layers.NormalParameters, whose scales are positive. If it "
                "does, training diverged: standardize the targets or lower the learning rate."
            )

    def quantile(self, samples: np.ndarray, probability: float) -> np.ndarray:
        """Return a quantile of the mixture of the samples' normals, by bisection."""
        loc, scale = np.split(samples, 2, axis=-1)
        quantiles = np.empty(loc.shape[1:])
        for start in range(0, len(quantiles), _ROWS_AT_A_TIME):
            rows = slice(start, start + _ROWS_AT_A_TIME)
            some_loc, some_scale = loc[:, rows].astype("float64"), scale[:, rows].astype("float64")
            quantiles[rows] = _mixture_quantile(some_loc, some_scale, probability)
        return quantiles

    def log_prob(
        self, y: np.ndarray, mean: np.ndarray, variance: np.ndarray, samples: np.ndarray | None
    ) -> np.ndarray:
        """Return the log density of the samples' mixture, or without samples of its normal fit."""
        y = _as_outputs(y, mean)
        if samples is None:
            return _log_normal(y, mean, np.sqrt(variance.astype("float64"))).sum(-1)
        per_sample = [
            _log_normal(y, *np.split(sample.astype("float64"), 2, axis=-1)).sum(-1)
            for sample in samples
        ]
        return logsumexp(per_sample, axis=0) - math.log(len(samples))

    def targets(self, mean: np.ndarray, labels: np.ndarray) -> Targets:
        """Return `RealNumbers`, or `RegressedClasses` for integer labels of several outputs."""
        labels, num_outputs = np.asarray(labels), mean.shape[-1]
        if num_outputs > 1 and labels.ndim == mean.ndim - 1 and labels.dtype.kind in "iu":
            return RegressedClasses(num_outputs, mean.shape[1:-1])
        return RealNumbers(num_outputs, _shape_of_one(mean))


_ROWS_AT_A_TIME = 1024  # bounds the memory of a mixture's quantiles
_BISECTIONS = 60  # more than the precision of a float64


def _mixture_quantile(loc: np.ndarray, scale: np.ndarray, probability: float) -> np.ndarray:
    """Return q with mean_s Phi((q - loc_s) / scale_s) = probability; loc and scale (S, ...)."""
    scale = np.maximum(scale, np.finfo("float64").tiny)  # the CDF of a noiseless sample is a step
    quantiles = loc + scale * ndtri(probability)
    low, high = quantiles.min(0), quantiles.max(0)  # the mixture's quantile is between these
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = ndtr((middle - loc) / scale).mean(0) < probability
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return high


def _log_normal(y: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return -0.5 * (math.log(2 * math.pi) + ((y - mean) / scale) ** 2) - np.log(scale)


def _log(probability: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probability.astype("float64"), SMALLEST_PROBABILITY))


def _as_outputs(y: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return y in the shape of the mean (N, ..., K). An axis of K = 1 may be missing in y."""
    if y.shape == mean.shape[:-1] and mean.shape[-1] == 1:
        y = y[..., None]
    if y.shape != mean.shape or y.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected numbers of shape {mean.shape} for `y`. "
            f"Received: {y.dtype} of shape {y.shape}. Hint: pass one for each model output."
        )
    return y


def _shape_of_one(mean: np.ndarray) -> tuple[int, ...]:
    """Return the shape of a label with one number per output. A single output has no axis."""
    return mean.shape[1:-1] if mean.shape[-1] == 1 else mean.shape[1:]


LIKELIHOODS: dict[str, Likelihood] = {
    "categorical": Categorical(),
    "bernoulli": Bernoulli(),
    "normal": Normal(),
}


def get_likelihood(name: str) -> Likelihood:
    """Return a likelihood by name.

    Raises:
        ValueError: If there is no likelihood of that name.
    """
    if name not in LIKELIHOODS:
        raise ValueError(
            f"Expected one of {sorted(LIKELIHOODS)} for `likelihood`. "
            f"Received: likelihood={name!r}. Hint: use 'categorical' for a softmax output, "
            "'bernoulli' for a sigmoid, and 'normal' for regression."
        )
    return LIKELIHOODS[name]
