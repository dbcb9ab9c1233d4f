"""Likelihoods: the meaning of a model's outputs, and the uncertainty in samples of them."""

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
    """What the running sums need to know of one sample of the outputs, p (..., K)."""

    def location(self, p: tf.Tensor) -> tf.Tensor:
        """Returns the mean of the target under one sample."""

    def vote(self, p: tf.Tensor) -> tf.Tensor:
        """Returns certainty of the likeliest target under one sample, like p.

        What is no distribution is returned as it is, for `check` to find.
        """

    def calibrate(
        self, mean: tf.Tensor, calibration: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Returns the predictive mean calibrated; what is no distribution as it is.

        Args:
            mean: (..., K).
            calibration: From probabilities of classes, on the last axis, to others.
        """

    def noise_variance(self, p: tf.Tensor) -> tf.Tensor:
        """Returns the variance of the target under one sample; 0 if `location` determines it."""

    def entropy(self, p: tf.Tensor) -> tf.Tensor:
        """Returns the entropy of the target under one sample in nats, (...)."""

    def predictive_entropy(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Returns the entropy of the mixture of all samples from its mean and variance, (...)."""

    def aleatoric_variance(
        self, mean: tf.Tensor, variance: tf.Tensor, noise: tf.Tensor
    ) -> tf.Tensor:
        """Returns the samples' average variance of the target.

        Args:
            mean: Mean of the locations over samples.
            variance: Variance of the locations over samples.
            noise: Average `noise_variance`.
        """

    def confidence(self, mean: tf.Tensor) -> tf.Tensor:
        """Returns the probability of the best guess, (...); NaN where there is none."""

    def outputs(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Returns the predictive distribution in the form of the model's outputs."""

    def check(self, mean: np.ndarray) -> None:
        """Raises ValueError if this cannot be a predictive mean."""

    def quantile(self, samples: np.ndarray, probability: float) -> np.ndarray:
        """Returns a quantile (N, ..., K) of the target, or of its probability, over all samples."""

    def log_prob(
        self, y: np.ndarray, mean: np.ndarray, variance: np.ndarray, samples: np.ndarray | None
    ) -> np.ndarray:
        """Returns the log predictive probability of y in nats, (N, ...)."""

    def targets(self, mean: np.ndarray, labels: np.ndarray) -> Targets:
        """Returns what the label of one example is.

        Args:
            mean: (N, ..., K) of a prediction of any examples.
            labels: (n, ...) of any examples.
        """


def clip_below_zero(x: tf.Tensor) -> tf.Tensor:
    """Returns max(x, 0), and NaN for NaN, which `tf.maximum` may take for 0."""
    return tf.where(x < 0, tf.zeros_like(x), x)


def at_least_smallest(p: tf.Tensor) -> tf.Tensor:
    """Returns probabilities whose logarithm is finite, and NaN for NaN."""
    smallest = tf.constant(SMALLEST_PROBABILITY, p.dtype)
    return tf.where(p < smallest, smallest, p)


class _Probabilities(Likelihood):
    """What categorical and Bernoulli outputs share: they are the mean of the target itself."""

    def location(self, p: tf.Tensor) -> tf.Tensor:
        """Returns p: a probability is the mean of a label of 0 and 1."""
        return p

    def noise_variance(self, p: tf.Tensor) -> tf.Tensor:
        """Returns 0: the variance of a label follows from p."""
        return tf.zeros([], p.dtype)

    def predictive_entropy(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Returns the entropy of the mean: a mixture of such distributions is one of them."""
        return self.entropy(mean)

    def aleatoric_variance(
        self, mean: tf.Tensor, variance: tf.Tensor, noise: tf.Tensor
    ) -> tf.Tensor:
        """Returns mean_s p (1 - p), as what the variance of the label leaves beside `variance`."""
        return clip_below_zero(mean * (1 - mean) - variance)

    def outputs(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Returns the mean."""
        return mean

    def quantile(self, samples: np.ndarray, probability: float) -> np.ndarray:
        """Returns the quantile of the samples' probabilities."""
        return np.quantile(samples.astype("float64"), probability, axis=0)


class Categorical(_Probabilities):
    """K exclusive classes: probabilities from a softmax."""

    def vote(self, p: tf.Tensor) -> tf.Tensor:
        """Returns 1 for the likeliest class, the first of several, and 0 for the others."""
        votes = tf.one_hot(tf.argmax(p, axis=-1), tf.shape(p)[-1], dtype=p.dtype)
        return tf.where(tf.reduce_all(p >= 0, axis=-1, keepdims=True), votes, p)

    def calibrate(
        self, mean: tf.Tensor, calibration: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Returns the probabilities of K classes calibrated."""
        total = tf.reduce_sum(mean, axis=-1, keepdims=True)
        valid = tf.reduce_all(mean >= 0, axis=-1, keepdims=True) & (tf.abs(total - 1) < 0.02)
        return tf.where(valid, calibration(mean), mean)

    def entropy(self, p: tf.Tensor) -> tf.Tensor:
        """Returns -sum_k p_k log p_k, (...)."""
        return -tf.reduce_sum(tf.math.xlogy(p, p), axis=-1)

    def confidence(self, mean: tf.Tensor) -> tf.Tensor:
        """Returns max_k p_k, (...)."""
        return tf.reduce_max(mean, axis=-1)

    def check(self, mean: np.ndarray) -> None:
        """Refuses rows that do not sum to 1, such as logits or NaN."""
        total = mean.sum(-1)
        # Half precision softmaxes sum to 1 within some 1e-2.
        if not np.all((np.abs(total - 1) < 0.02) & (mean >= 0).all(-1)):
            raise ValueError(
                "Expected outputs that are probabilities for likelihood='categorical'. "
                f"Received: rows that sum to between {total.min():.4g} and {total.max():.4g}, "
                f"smallest entry {mean.min():.4g}. Hint: {self._hint(mean)}; NaN means that "
                "training diverged."
            )

    def _hint(self, mean: np.ndarray) -> str:
        """Returns how outputs that are no distributions over classes become some."""
        if np.all((mean >= 0) & (mean <= 1)):  # as sigmoids are
            return "say likelihood='bernoulli' if the model ends in a sigmoid"
        if mean.shape[-1] == 1:
            return "end the model in a sigmoid and say likelihood='bernoulli'"
        return "end the model in a softmax"

    def log_prob(
        self, y: np.ndarray, mean: np.ndarray, variance: np.ndarray, samples: np.ndarray | None
    ) -> np.ndarray:
        """Returns log mean_k of the class k = y."""
        num_classes = mean.shape[-1]
        valid = y.dtype.kind in "iu" and y.shape == mean.shape[:-1]
        if not valid or (y.size and not 0 <= y.min() <= y.max() < num_classes):
            raise ValueError(
                f"Expected integer labels of shape {mean.shape[:-1]} in [0, {num_classes}) for "
                f"`y`. Received: {y.dtype} of shape {y.shape}"
                + (f", from {y.min()} to {y.max()}" if y.size else "")
                + ". Hint: one-hot labels become class numbers by argmax(-1), a column (N, 1) by "
                "squeeze(-1)."
            )
        chosen = np.take_along_axis(mean, y[..., None].astype("int64"), axis=-1)[..., 0]
        return _log(chosen)

    def targets(self, mean: np.ndarray, labels: np.ndarray) -> Targets:
        """Returns class numbers."""
        return ClassNumbers(mean.shape[-1], mean.shape[1:-1])


class Bernoulli(_Probabilities):
    """K yes-or-no outputs: probabilities from a sigmoid. Entropies add, confidences average."""

    def vote(self, p: tf.Tensor) -> tf.Tensor:
        """Returns 1 for each output of at least one half, and 0 for the others."""
        return tf.where((p >= 0) & (p <= 1), tf.cast(p >= 0.5, p.dtype), p)

    def calibrate(
        self, mean: tf.Tensor, calibration: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Returns the probabilities of yes, of no and yes calibrated for each output."""
        yes = calibration(tf.stack([1 - mean, mean], axis=-1))[..., 1]
        return tf.where((mean >= 0) & (mean <= 1), yes, mean)

    def entropy(self, p: tf.Tensor) -> tf.Tensor:
        """Returns the sum over outputs of -p log p - (1 - p) log(1 - p), (...)."""
        return -tf.reduce_sum(tf.math.xlogy(p, p) + tf.math.xlogy(1 - p, 1 - p), axis=-1)

    def confidence(self, mean: tf.Tensor) -> tf.Tensor:
        """Returns the mean over outputs of max(p, 1 - p), (...)."""
        return tf.reduce_mean(tf.maximum(mean, 1 - mean), axis=-1)

    def check(self, mean: np.ndarray) -> None:
        """Refuses values outside [0, 1] and NaN."""
        if not np.all((mean >= 0) & (mean <= 1)):
            raise ValueError(
                "Expected outputs in [0, 1] for likelihood='bernoulli'. "
                f"Received: values between {mean.min():.4g} and {mean.max():.4g}. "
                "Hint: end the model in a sigmoid; NaN means that training diverged."
            )

    def log_prob(
        self, y: np.ndarray, mean: np.ndarray, variance: np.ndarray, samples: np.ndarray | None
    ) -> np.ndarray:
        """Returns the sum over outputs of log mean where y is 1 and log(1 - mean) where it is 0."""
        y = _as_outputs(y, mean)
        if not np.isin(y, (0, 1)).all():
            raise ValueError(
                f"Expected labels of 0 and 1 for `y`. Received: {y.dtype} from {y.min()} to "
                f"{y.max()}. Hint: likelihood='categorical' takes class numbers."
            )
        return _log(np.where(y == 1, mean, 1 - mean)).sum(-1)

    def targets(self, mean: np.ndarray, labels: np.ndarray) -> Targets:
        """Returns a zero or one for each output."""
        return ZerosAndOnes(mean.shape[-1], _shape_of_one(mean))


class Normal(Likelihood):
    """D real targets: locations and standard deviations, side by side on an axis of 2 D."""

    def location(self, p: tf.Tensor) -> tf.Tensor:
        """Returns the first half, (..., D), NaN where the scale is negative."""
        if p.shape[-1] is None or p.shape[-1] % 2:
            raise ValueError(
                "Expected outputs with locations and as many scales on the last axis for "
                f"likelihood='normal'. Received: outputs of shape {tuple(p.shape)}. "
                "Hint: end the model in tfp_bayes.layers.NormalParameters(units)."
            )
        loc, scale = tf.split(p, 2, axis=-1)
        return tf.where(scale < 0, tf.constant(float("nan"), p.dtype), loc)

    def vote(self, p: tf.Tensor) -> tf.Tensor:
        """Refuses to vote: no two real numbers are the same choice."""
        raise ValueError(
            "Expected classes to vote for. Received: likelihood='normal', combine='vote'. "
            "Hint: combine='mean' mixes the members' distributions."
        )

    def calibrate(
        self, mean: tf.Tensor, calibration: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Returns the mean: real targets have no probabilities to calibrate."""
        return mean

    def noise_variance(self, p: tf.Tensor) -> tf.Tensor:
        """Returns the square of the second half, (..., D)."""
        return tf.square(p[..., p.shape[-1] // 2 :])

    def entropy(self, p: tf.Tensor) -> tf.Tensor:
        """Returns sum_d log(2 pi e scale_d^2) / 2, (...)."""
        return self.predictive_entropy(p, self.noise_variance(p))

    def predictive_entropy(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Returns the entropy of the normal of that variance, the largest it can have."""
        constant = math.log(2 * math.pi * math.e)
        return tf.reduce_sum(constant + tf.math.log(variance), axis=-1) / 2

    def aleatoric_variance(
        self, mean: tf.Tensor, variance: tf.Tensor, noise: tf.Tensor
    ) -> tf.Tensor:
        """Returns the average square of the scale."""
        return noise

    def confidence(self, mean: tf.Tensor) -> tf.Tensor:
        """Returns NaN: no single real number has a probability."""
        return tf.fill(tf.shape(mean)[:-1], tf.constant(float("nan"), mean.dtype))

    def outputs(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Returns mean and standard deviation side by side, (..., 2 D)."""
        return tf.concat([mean, tf.sqrt(variance)], axis=-1)

    def check(self, mean: np.ndarray) -> None:
        """Refuses NaN and infinities."""
        if not np.isfinite(mean).all():
            raise ValueError(
                "Expected finite locations and positive scales for likelihood='normal'. "
                f"Received: {int((~np.isfinite(mean)).sum())} outputs without. Hint: end the "
                "model in tfp_bayes.layers.NormalParameters, whose scales are positive; if it "
                "does, training diverged: standardize the targets or lower the learning rate."
            )

    def quantile(self, samples: np.ndarray, probability: float) -> np.ndarray:
        """Returns the quantile of the mixture of all samples' normals, by bisection."""
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
        """Returns the log density of the samples' mixture, or of the normal of its moments."""
        y = _as_outputs(y, mean)
        if samples is None:
            return _log_normal(y, mean, np.sqrt(variance.astype("float64"))).sum(-1)
        per_sample = [
            _log_normal(y, *np.split(sample.astype("float64"), 2, axis=-1)).sum(-1)
            for sample in samples
        ]
        return logsumexp(per_sample, axis=0) - math.log(len(samples))

    def targets(self, mean: np.ndarray, labels: np.ndarray) -> Targets:
        """Returns a real number for each output; or a class number, which is K of them."""
        labels, num_outputs = np.asarray(labels), mean.shape[-1]
        if num_outputs > 1 and labels.ndim == mean.ndim - 1 and labels.dtype.kind in "iu":
            return RegressedClasses(num_outputs, mean.shape[1:-1])
        return RealNumbers(num_outputs, _shape_of_one(mean))


_ROWS_AT_A_TIME = 1024  # bounds the memory of a mixture's quantiles
_BISECTIONS = 60  # more than the bits of a float64


def _mixture_quantile(loc: np.ndarray, scale: np.ndarray, probability: float) -> np.ndarray:
    """Returns q with mean_s Phi((q - loc_s) / scale_s) = probability; loc and scale (S, ...)."""
    scale = np.maximum(scale, np.finfo("float64").tiny)  # a sample without noise is a step
    own = loc + scale * ndtri(probability)
    low, high = own.min(0), own.max(0)  # no sample, and every sample, has reached `probability`
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
    """Returns y in the shape of the mean (N, ..., K), where K = 1 may have been left out."""
    if y.shape == mean.shape[:-1] and mean.shape[-1] == 1:
        y = y[..., None]
    if y.shape != mean.shape or y.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected numbers of shape {mean.shape} for `y`. "
            f"Received: {y.dtype} of shape {y.shape}. Hint: one for each output of the model."
        )
    return y


def _shape_of_one(mean: np.ndarray) -> tuple[int, ...]:
    """Returns the shape of a label with a number for each output; a single one has no axis."""
    return mean.shape[1:-1] if mean.shape[-1] == 1 else mean.shape[1:]


LIKELIHOODS: dict[str, Likelihood] = {
    "categorical": Categorical(),
    "bernoulli": Bernoulli(),
    "normal": Normal(),
}


def get_likelihood(name: str) -> Likelihood:
    """Returns the likelihood of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in LIKELIHOODS:
        raise ValueError(
            f"Expected one of {sorted(LIKELIHOODS)} for `likelihood`. "
            f"Received: likelihood={name!r}. Hint: 'categorical' for a softmax output, "
            "'bernoulli' for a sigmoid, 'normal' for regression."
        )
    return LIKELIHOODS[name]
