"""A likelihood as a function of what goes into a network's last link: value and curvature."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy.special import log_expit, log_softmax

from tfp_bayes.prediction.likelihoods import get_likelihood


class Observations(NamedTuple):
    """What is seen of a batch under one likelihood.

    The second derivatives of the negative log likelihood in eta, (N, E), are sum_c v_c v_c^T;
    under "normal" their expectation over targets, the Fisher information, of location and scale.

    Args:
        likelihood: Name, see `Predictor`.
    """

    likelihood: str

    def num_roots(self, eta: tf.Tensor) -> int:
        """Returns how many v_c there are."""
        return eta.shape[-1]

    def root(self, eta: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        """Returns v_c (N, E) in the dtype of eta.

        Args:
            eta: Logits, or locations and scales.
            c: int32 scalar.
        """
        one_hot = tf.one_hot(c, eta.shape[-1], dtype=eta.dtype)
        if self.likelihood == "categorical":
            p = tf.nn.softmax(eta)
            return tf.sqrt(tf.gather(p, [c], axis=-1)) * (one_hot - p)
        if self.likelihood == "bernoulli":
            return tf.sqrt(tf.sigmoid(eta) * tf.sigmoid(-eta)) * one_hot
        scale = tf.tile(eta[:, eta.shape[-1] // 2 :], [1, 2])
        is_scale = tf.cast(c >= eta.shape[-1] // 2, eta.dtype)
        return one_hot * tf.sqrt(1 + is_scale) / scale

    def log_likelihood(self, eta: np.ndarray, y: object) -> float:
        """Returns the sum over a batch of log p(y | eta) in nats.

        Args:
            eta: (N, E) float64.
            y: Class numbers (N,) or (N, 1), zeros and ones (N, K) or real numbers (N, D).

        Raises:
            ValueError: If y is not of that form.
        """
        labels = self._checked(eta, y)
        if self.likelihood == "categorical":
            return float(log_softmax(eta, axis=1)[np.arange(len(eta)), labels].sum())
        if self.likelihood == "bernoulli":
            return float(log_expit(np.where(labels == 1, eta, -eta)).sum())
        loc, scale = np.split(eta, 2, axis=1)
        z = (labels - loc) / scale
        return float((-0.5 * (z**2 + np.log(2 * np.pi)) - np.log(scale)).sum())

    def _checked(self, eta: np.ndarray, y: object) -> np.ndarray:
        if y is None:
            raise ValueError(
                "Expected targets for `y`. Received: none. Hint: pass arrays x and y, or a dataset "
                "of (x, y)."
            )
        labels = np.asarray(y)
        if self.likelihood == "categorical":
            column = labels.shape == (len(eta), 1)
            labels = labels[:, 0] if column else labels
            return get_likelihood(self.likelihood).targets(eta, labels).check(labels, len(eta))
        mean = eta[:, : eta.shape[1] // 2] if self.likelihood == "normal" else eta
        targets = get_likelihood(self.likelihood).targets(mean, labels)
        return targets.as_outputs(targets.check(labels, len(eta)))
