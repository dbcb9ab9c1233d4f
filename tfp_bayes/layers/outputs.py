"""Output layers, which turn activations into the parameters of a likelihood."""

import math

import keras
import tensorflow as tf

from tfp_bayes._plumbing.configured import check_positive


@keras.saving.register_keras_serializable("tfp_bayes")
class NormalParameters(keras.layers.Layer):
    """Locations and scales of normal targets, computed from unconstrained inputs.

    Put it at the end of a model with `likelihood="normal"`, after any layer with 2 D units, and
    train with `tfp_bayes.losses.NormalNLL`.

    Args:
        heteroscedastic: Whether the scale depends on the input. If False, the scale is one
            trainable number for each target, and the layer before needs D units.
        min_scale: Positive number added to every scale, in units of the target. It keeps the
            likelihood of a perfect fit finite.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `min_scale` is not positive, or the scale depends on the input and the last
            axis of the inputs is odd.

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
        """Create the scale if it does not depend on the input."""
        self.compute_output_shape(input_shape)
        if not self.heteroscedastic:
            self.untransformed_scale = self.add_weight(
                name="untransformed_scale",
                shape=(input_shape[-1],),
                initializer=keras.initializers.Constant(0.5413),  # softplus of it is 1
                autocast=False,
            )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return (..., 2 D): locations, then scales, in the units of the target."""
        if self.heteroscedastic:
            loc, raw = tf.split(inputs, 2, axis=-1)
        else:
            loc = inputs
            raw = tf.cast(self.untransformed_scale, loc.dtype) + tf.zeros_like(loc)
        return tf.concat([loc, tf.nn.softplus(raw) + self.min_scale], axis=-1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return the shape with 2 D as its last axis."""
        if not self.heteroscedastic:
            return (*input_shape[:-1], 2 * input_shape[-1])
        if input_shape[-1] % 2:
            raise ValueError(
                f"Expected an even last axis of the inputs of {self.name!r}. "
                f"Received: inputs of shape {tuple(input_shape)}. Hint: give the layer before 2 D "
                "units, a location and a scale for each target, or set heteroscedastic=False."
            )
        return tuple(input_shape)

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        own = {"heteroscedastic": self.heteroscedastic, "min_scale": self.min_scale}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("tfp_bayes")
class ClassProbabilities(keras.layers.Layer):
    """Class probabilities computed from normal predictions of one-hot labels.

    Put it after a regression on one-hot labels that outputs locations and scales, such as
    `BayesianLinear(include_noise=True)`. A class's probability is that its target, noise included,
    is the largest. Gumbel noise of the same variance replaces the normal noise, which gives a
    softmax of the locations at temperature sqrt(6) scale / pi, where scale is the root mean square
    over classes. There is no parameter to tune.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If the last axis of the inputs is odd.

    Reference:
        McFadden 1974, "Conditional Logit Analysis of Qualitative Choice Behavior", section 3.

    Example:

    >>> p = ClassProbabilities()(np.array([[1.0, 0, 0.3, 0.3], [1.0, 0, 3.0, 3.0]]))
    >>> [f"{p_first:.2f}" for p_first in p[:, 0].numpy()]
    ['0.99', '0.61']
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Check the input shape. The layer has no weights."""
        self.compute_output_shape(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return probabilities (..., K) from concatenated locations and scales (..., 2 K)."""
        loc, scale = tf.split(inputs, 2, axis=-1)
        mean_square = tf.reduce_mean(tf.square(scale), axis=-1, keepdims=True)
        return tf.nn.softmax(loc * (math.pi / math.sqrt(6)) / tf.sqrt(mean_square), axis=-1)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return the shape with K as its last axis."""
        if input_shape[-1] % 2:
            raise ValueError(
                f"Expected an even last axis of the inputs of {self.name!r}. "
                f"Received: inputs of shape {tuple(input_shape)}. Hint: the inputs are locations "
                "and then scales, as BayesianLinear(include_noise=True) outputs them."
            )
        return (*input_shape[:-1], input_shape[-1] // 2)
