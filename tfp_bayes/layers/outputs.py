"""Output layers, which turn numbers into the parameters of a likelihood."""

import math

import keras
import tensorflow as tf

from tfp_bayes._plumbing.configured import check_positive


@keras.saving.register_keras_serializable("tfp_bayes")
class NormalParameters(keras.layers.Layer):
    """Turns what a network computes into locations and scales of normal targets.

    Put it at the end of a model with `likelihood="normal"`, after a layer of 2 D units (any kind,
    random or not); train with `tfp_bayes.losses.NormalNLL`.

    Args:
        heteroscedastic: Whether the scale depends on the input. If not, it is one trainable
            number for each target, and the layer before has D units.
        min_scale: What is added to every scale, in units of the target: a floor that keeps the
            likelihood of a perfect fit finite.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `min_scale` is not positive or the number of inputs is odd.

    Reference:
        Kendall and Gal 2017, "What Uncertainties Do We Need in Bayesian Deep Learning for
        Computer Vision?", equation 5, arXiv:1703.04977.

    Example:

    >>> loc, scale = NormalParameters()(np.array([[2.0, 0.0]]))[0]
    >>> float(loc), round(float(scale), 3)  # softplus(0) + 0.001
    (2.0, 0.694)
    """

    def __init__(self, heteroscedastic: bool = True, min_scale: float = 1e-3, **kwargs):
        super().__init__(**kwargs)
        check_positive(min_scale=min_scale)
        self.heteroscedastic = heteroscedastic
        self.min_scale = min_scale

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the scale that all inputs share, if they do."""
        self.compute_output_shape(input_shape)
        if not self.heteroscedastic:
            self.untransformed_scale = self.add_weight(
                name="untransformed_scale",
                shape=(input_shape[-1],),
                initializer=keras.initializers.Constant(0.5413),  # softplus of it is 1
                autocast=False,
            )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns (..., 2 D): locations, then scales, in the units of the target."""
        if self.heteroscedastic:
            loc, raw = tf.split(inputs, 2, axis=-1)
        else:
            loc = inputs
            raw = tf.cast(self.untransformed_scale, loc.dtype) + tf.zeros_like(loc)
        return tf.concat([loc, tf.nn.softplus(raw) + self.min_scale], axis=-1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape with 2 D as its last axis."""
        if not self.heteroscedastic:
            return (*input_shape[:-1], 2 * input_shape[-1])
        if input_shape[-1] % 2:
            raise ValueError(
                f"Expected an even last axis of the inputs of {self.name!r}. "
                f"Received: inputs of shape {tuple(input_shape)}. Hint: the layer before has 2 D "
                "units, a location and a scale for each target; or heteroscedastic=False."
            )
        return tuple(input_shape)

    def get_config(self) -> dict:
        """Returns the layer's constructor arguments, plain JSON."""
        own = {"heteroscedastic": self.heteroscedastic, "min_scale": self.min_scale}
        return {**super().get_config(), **own}


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
