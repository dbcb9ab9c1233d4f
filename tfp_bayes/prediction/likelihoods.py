"""What a model's outputs mean: how samples of them become a prediction and its uncertainty."""

import math
from typing import Protocol

import numpy as np
import tensorflow as tf


class Likelihood(Protocol):
    """What the running sums need to know of one sample of the outputs, p (..., K)."""

    def location(self, p: tf.Tensor) -> tf.Tensor:
        """Returns the mean of the target under one sample."""

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
            mean: Of the locations over samples.
            variance: Of the locations over samples.
            noise: Average `noise_variance`.
        """

    def confidence(self, mean: tf.Tensor) -> tf.Tensor:
        """Returns the probability of the best guess, (...); NaN where there is none."""

    def outputs(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Returns the predictive distribution in the form of the model's outputs."""

    def check(self, mean: np.ndarray) -> None:
        """Raises ValueError if this cannot be a predictive mean."""


class _Probabilities:
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
        return tf.maximum(mean * (1 - mean) - variance, 0)

    def outputs(self, mean: tf.Tensor, variance: tf.Tensor) -> tf.Tensor:
        """Returns the mean."""
        return mean


class Categorical(_Probabilities):
    """K exclusive classes: probabilities from a softmax."""

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
                f"smallest entry {mean.min():.4g}. Hint: end the model in a softmax; NaN means "
                "that training diverged."
            )


class Bernoulli(_Probabilities):
    """K yes-or-no outputs: probabilities from a sigmoid. Entropies add, confidences average."""

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


class Normal:
    """D real targets: locations and standard deviations, side by side on an axis of 2 D."""

    def location(self, p: tf.Tensor) -> tf.Tensor:
        """Returns the first half, (..., D)."""
        if p.shape[-1] is None or p.shape[-1] % 2:
            raise ValueError(
                "Expected outputs with locations and as many scales on the last axis for "
                f"likelihood='normal'. Received: outputs of shape {tuple(p.shape)}. "
                "Hint: end the model in tfp_bayes.layers.NormalParameters(units)."
            )
        return p[..., : p.shape[-1] // 2]

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
                "Expected finite outputs for likelihood='normal'. "
                f"Received: {int((~np.isfinite(mean)).sum())} that are not. "
                "Hint: training diverged; standardize the targets or lower the learning rate."
            )


LIKELIHOODS = {"categorical": Categorical(), "bernoulli": Bernoulli(), "normal": Normal()}


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
