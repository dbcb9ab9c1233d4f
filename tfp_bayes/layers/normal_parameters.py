"""The last layer of a regression: where the target lies and how much it scatters."""

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
