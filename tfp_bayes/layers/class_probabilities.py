"""From a regression on one-hot labels to probabilities of classes."""

import math

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfp_bayes")
class ClassProbabilities(keras.layers.Layer):
    """Turns normal predictions of one-hot labels into the probability that each is the largest.

    For one draw of the weights, the class is the output whose target, noise included, is the
    largest. With Gumbel noise of the same variance in place of the normal one that is a softmax
    of the locations at the temperature sqrt(6) scale / pi, without a parameter to tune.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Reference:
        McFadden 1974, "Conditional Logit Analysis of Qualitative Choice Behavior", section 3.

    Example:

    >>> p = ClassProbabilities()(np.array([[1.0, 0, 0.3, 0.3], [1.0, 0, 3.0, 3.0]]))
    >>> [f"{p_first:.2f}" for p_first in p[:, 0].numpy()]
    ['0.99', '0.61']
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Checks the shape; there are no weights."""
        self.compute_output_shape(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns probabilities (..., K) of locations and scales side by side (..., 2 K)."""
        loc, scale = tf.split(inputs, 2, axis=-1)
        mean_square = tf.reduce_mean(tf.square(scale), axis=-1, keepdims=True)
        return tf.nn.softmax(loc * (math.pi / math.sqrt(6)) / tf.sqrt(mean_square), axis=-1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape with K as its last axis."""
        if input_shape[-1] % 2:
            raise ValueError(
                f"Expected an even last axis of the inputs of {self.name!r}. "
                f"Received: inputs of shape {tuple(input_shape)}. Hint: locations and scales side "
                "by side, as BayesianLinear(include_noise=True) gives them."
            )
        return (*input_shape[:-1], input_shape[-1] // 2)
