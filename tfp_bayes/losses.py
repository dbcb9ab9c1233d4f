"""Losses for regression."""

import math

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfp_bayes")
class NormalNLL(keras.losses.Loss):
    """Negative log likelihood of normal targets, in nats, summed over the D targets.

    Use it to train models that end in `NormalParameters`.

    Args:
        beta: Exponent in [0, 1]. 0 gives the negative log likelihood. A positive value multiplies
            each target's term by scale^(2 beta), treated as a constant in the gradient. With 1
            the gradient with respect to loc is that of a squared error, so the model cannot
            explain away examples that it fits badly early in training as noise. 0.5 is a good
            compromise.
        name: Name of the loss.
        **kwargs: Arguments of `keras.losses.Loss`.

    Raises:
        ValueError: If `beta` is outside [0, 1], or the targets do not have the shape of the
            locations, apart from axes of size 1.

    Reference:
        Seitzer et al. 2022, "On the Pitfalls of Heteroscedastic Uncertainty Estimation with
        Probabilistic Neural Networks", equation 5, arXiv:2203.09168.

    Example:

    >>> loss = tfp_bayes.losses.NormalNLL()
    >>> round(float(loss(np.array([[0.0]]), np.array([[0.0, 1.0]]))), 4)  # log(2 pi) / 2
    0.9189
    """

    def __init__(self, beta: float = 0.0, name: str = "normal_nll", **kwargs):
        super().__init__(name=name, **kwargs)
        if not 0 <= beta <= 1:
            raise ValueError(
                f"Expected a number in [0, 1] for `beta`. Received: beta={beta!r}. "
                "Hint: 0 is the likelihood, 0.5 trains more steadily."
            )
        self.beta = beta

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Return the loss (...) of targets (..., D) under parameters (..., 2 D)."""
        loc, scale = tf.split(y_pred, 2, axis=-1)
        _check_targets(y_true, loc)
        z = (tf.reshape(tf.cast(y_true, loc.dtype), tf.shape(loc)) - loc) / scale
        nll = tf.math.log(scale) + (tf.square(z) + math.log(2 * math.pi)) / 2
        weight = tf.stop_gradient(tf.pow(scale, 2 * self.beta))
        return tf.reduce_sum(weight * nll, axis=-1)

    def get_config(self) -> dict:
        """Return the constructor arguments as plain JSON."""
        return {**super().get_config(), "beta": self.beta}


def _check_targets(y_true: tf.Tensor, loc: tf.Tensor) -> None:
    """Raise ValueError unless targets and locations differ only in axes of size 1."""
    shapes = tf.TensorShape(y_true.shape), loc.shape
    if shapes[0].is_compatible_with(shapes[1]):
        return
    without_ones = [tf.TensorShape([size for size in shape if size != 1]) for shape in shapes]
    if not without_ones[0].is_compatible_with(without_ones[1]):
        raise ValueError(
            f"Expected targets of shape {loc.shape} for `y_true`. "
            f"Received: shape {y_true.shape}. Hint: the model outputs {loc.shape[-1]} locations "
            "and as many scales, so the last axis of the targets has that size."
        )
