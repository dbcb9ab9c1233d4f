"""What a model's outputs mean: the entropy and the confidence of one output."""

from typing import Protocol

import numpy as np
import tensorflow as tf


class Likelihood(Protocol):
    """What the measures need to know of probabilities p (..., K)."""

    def entropy(self, p: tf.Tensor) -> tf.Tensor:
        """Returns the entropy in nats, (...)."""

    def confidence(self, p: tf.Tensor) -> tf.Tensor:
        """Returns the probability of the best guess, (...)."""

    def check(self, mean: np.ndarray) -> None:
        """Raises ValueError if a predictive mean cannot be one of probabilities."""


class Categorical:
    """K exclusive classes: probabilities from a softmax."""

    def entropy(self, p: tf.Tensor) -> tf.Tensor:
        """Returns -sum_k p_k log p_k, (...)."""
        return -tf.reduce_sum(tf.math.xlogy(p, p), axis=-1)

    def confidence(self, p: tf.Tensor) -> tf.Tensor:
        """Returns max_k p_k, (...)."""
        return tf.reduce_max(p, axis=-1)

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


class Bernoulli:
    """K yes-or-no outputs: probabilities from a sigmoid. Entropies add, confidences average."""

    def entropy(self, p: tf.Tensor) -> tf.Tensor:
        """Returns the sum over outputs of -p log p - (1 - p) log(1 - p), (...)."""
        return -tf.reduce_sum(tf.math.xlogy(p, p) + tf.math.xlogy(1 - p, 1 - p), axis=-1)

    def confidence(self, p: tf.Tensor) -> tf.Tensor:
        """Returns the mean over outputs of max(p, 1 - p), (...)."""
        return tf.reduce_mean(tf.maximum(p, 1 - p), axis=-1)

    def check(self, mean: np.ndarray) -> None:
        """Refuses values outside [0, 1] and NaN."""
        if not np.all((mean >= 0) & (mean <= 1)):
            raise ValueError(
                "Expected outputs in [0, 1] for likelihood='bernoulli'. "
                f"Received: values between {mean.min():.4g} and {mean.max():.4g}. "
                "Hint: end the model in a sigmoid; NaN means that training diverged."
            )


LIKELIHOODS = {"categorical": Categorical(), "bernoulli": Bernoulli()}


def get_likelihood(name: str) -> Likelihood:
    """Returns the likelihood of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in LIKELIHOODS:
        raise ValueError(
            f"Expected one of {sorted(LIKELIHOODS)} for `likelihood`. "
            f"Received: likelihood={name!r}. Hint: 'categorical' for a softmax output, "
            "'bernoulli' for a sigmoid."
        )
    return LIKELIHOODS[name]
