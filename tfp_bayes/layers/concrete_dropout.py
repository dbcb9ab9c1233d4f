"""Monte Carlo dropout whose rate is learned."""

import math

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing import noise
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes.layers.spatial_dropout import check_data_format
from tfp_bayes.layers.stochastic import StochasticLayer

# Logits beyond these count as these: a rate of 0.999 scales kept units by 1000, which half
# precision still holds, and one of 1e-13 drops nothing.
_SMALLEST_LOGIT, _LARGEST_LOGIT = -30.0, 7.0
# Smallest distance of a uniform number from 0 and 1, so that its logit is finite in float32.
_MARGIN = 1e-7


@keras.saving.register_keras_serializable("tfp_bayes")
class MCConcreteDropout(StochasticLayer):
    """Concrete dropout: Monte Carlo dropout that learns its rate.

    Use it in place of `MCDropout` to spare a search for the rate. It needs a `BayesianModel` with a
    `prior_scale` around it, whose prior weighs against the rate: more data make it smaller. `fit`
    shows it as `{name}_rate`, and `rate` is its present value.

    Args:
        initial_rate: Float in (0, 1), the probability to start from that a unit is set to zero.
        temperature: t > 0 of the relaxed masks of training; smaller ones are closer to zeros and
            ones, and their gradients vary more.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        `training=True`: one relaxed mask for each example, between 0 and 1. `training=False`: one
        mask of zeros and ones for the whole batch. Both are scaled by 1 / (1 - rate).

    Losses:
        None of its own. `BayesianModel` adds |W|^2 / (2 s^2 (1 - p)) - F H(p) nats, with W the
        kernels that read the layer, s its `prior_scale`, p the rate, F the number of units and H
        the entropy of a Bernoulli variable.

    Raises:
        ValueError: If `initial_rate` is outside (0, 1), `temperature` is not positive, the inputs
            are not of rank 2, or the rate is trained without that prior.

    Reference:
        Gal, Hron and Kendall 2017, "Concrete Dropout", equations 3 and 5, arXiv:1705.07832.

    Example:

    >>> inputs = keras.Input((2,))
    >>> hidden = keras.layers.Dense(16, activation="relu")(inputs)
    >>> dropout = MCConcreteDropout(0.2)
    >>> outputs = keras.layers.Dense(3, activation="softmax")(dropout(hidden))
    >>> model = BayesianModel(inputs, outputs, prior_scale=1.0)
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> history = model.fit(np.ones((8, 2)), np.zeros(8), verbose=0)
    >>> bool(0.19 < dropout.rate < 0.21), dropout.rate == 0.2
    (True, False)
    """

    spatial_rank = 0

    def __init__(
        self,
        initial_rate: float = 0.1,
        temperature: float = 0.1,
        *,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        number = isinstance(initial_rate, int | float) and not isinstance(initial_rate, bool)
        if not number or not 0 < initial_rate < 1:
            raise ValueError(
                "Expected a float between 0 and 1 for `initial_rate`. "
                f"Received: initial_rate={initial_rate!r}. "
                "Hint: from 0 or 1 no gradient leads away; 0.1 is usual."
            )
        check_positive(temperature=temperature)
        self.initial_rate = initial_rate
        self.temperature = temperature
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(ndim=self.spatial_rank + 2)
        self._is_weighed = False

    @property
    def _unit_axis(self) -> int:
        return -1

    def build(self, input_shape: tuple) -> None:
        """Makes the logit of the rate, in float32."""
        self.units = input_shape[self._unit_axis]
        if self.units is None:
            raise ValueError(
                f"Expected a known number of units for {self.name!r}. Received: inputs of shape "
                f"{tuple(input_shape)}. Hint: give keras.Input the size of that axis."
            )
        self.logit = self.add_weight(
            name="logit",
            shape=(),
            initializer=keras.initializers.Constant(self._initial_logit),
            dtype="float32",
            autocast=False,
        )
        self.built = True

    @property
    def _initial_logit(self) -> float:
        return math.log(self.initial_rate) - math.log1p(-self.initial_rate)

    @property
    def rate(self) -> float:
        """The probability that a unit is set to zero, as learned so far."""
        if not self.built:
            return self.initial_rate
        with tf.init_scope():
            logit = float(tf.convert_to_tensor(self.logit.value))
        if logit == np.float32(self._initial_logit):
            return self.initial_rate  # which its logit in float32 is but nearly
        logit = min(max(logit, _SMALLEST_LOGIT), _LARGEST_LOGIT)
        return 1 / (1 + math.exp(-logit))

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns `inputs` with units set to zero, or nearly in training; same shape and dtype."""
        sizes = tf.shape(inputs)
        shape = [1] * len(inputs.shape)
        shape[self._unit_axis] = self.units
        if training:
            shape[0] = sizes[0]
        return inputs * self.draw_mask(shape, training)

    def draw_mask(self, shape: tf.Tensor | list, training: bool = False) -> tf.Tensor:
        """Draws a mask, in the compute dtype, of the given shape.

        It holds zeros and 1 / (1 - rate), or with training=True what is between, differentiable in
        the rate.
        """
        seed = self.draw_seed(training)
        keep = self.keep_probability(training)
        if training:
            uniform = noise.uniform(shape, seed, _MARGIN, 1 - _MARGIN)
            logistic = tf.math.log(uniform) - tf.math.log1p(-uniform)
            mask = tf.sigmoid(-(self._bounded_logit() + logistic) / self.temperature)
        else:
            uniform = noise.uniform(shape, seed)
            mask = tf.cast(uniform >= 1 - keep, tf.float32)
        return tf.cast(mask / keep, self.compute_dtype)

    def keep_probability(self, training: bool = True) -> tf.Tensor:
        """Returns 1 - rate, a float32 scalar; with training=True differentiable in the logit."""
        return tf.exp(-tf.math.softplus(self._bounded_logit(training)))

    def negative_entropy(self) -> tf.Tensor:
        """Returns -F H(p), the part of the KL divergence that the mask adds, float32 in nats.

        Who asks for it adds it to the loss, which the rate cannot be trained without.
        """
        self._is_weighed = True
        logit = self._bounded_logit()
        keep = self.keep_probability()
        # H = -p log p - (1 - p) log(1 - p), with logarithms that stay finite.
        entropy = (1 - keep) * tf.math.softplus(-logit) + keep * tf.math.softplus(logit)
        return -tf.cast(self.units, tf.float32) * entropy

    def _bounded_logit(self, training: bool = True) -> tf.Tensor:
        """Returns the logit; beyond its bounds the gradient is that at the bound, which leads back.

        Its gradient is asked for by whoever trains the rate. A SavedModel would store gradients,
        so at inference there is none of our own.
        """

        def bound(logit: tf.Tensor) -> tf.Tensor:
            return tf.clip_by_value(logit, _SMALLEST_LOGIT, _LARGEST_LOGIT)

        @tf.custom_gradient
        def trainable_bound(logit: tf.Tensor):
            def gradient(upstream: tf.Tensor):
                self._check_weighed()
                return upstream

            return bound(logit), gradient

        logit = tf.convert_to_tensor(self.logit.value)
        return trainable_bound(logit) if training else bound(logit)

    def _check_weighed(self) -> None:
        if self.logit.trainable and not self._is_weighed:
            raise ValueError(
                f"Expected a prior that the learned rate of {self.name!r} is weighed against. "
                "Received: a loss without. Hint: train a tfp_bayes.BayesianModel(inputs, outputs, "
                "prior_scale=1.0); or set trainable=False to keep the rate as it is."
            )

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns `input_shape`: dropout changes values only."""
        return input_shape

    def get_config(self) -> dict:
        """Returns the layer's constructor arguments, plain JSON."""
        config = {"initial_rate": self.initial_rate, "temperature": self.temperature}
        return {**super().get_config(), **config}


class _MCConcreteSpatialDropout(MCConcreteDropout):
    """Drops whole feature maps: the mask is constant over the `spatial_rank` axes of space."""

    def __init__(
        self,
        initial_rate: float = 0.1,
        temperature: float = 0.1,
        data_format: str | None = None,
        *,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(initial_rate, temperature, seed=seed, **kwargs)
        self.data_format = check_data_format(data_format)

    @property
    def _unit_axis(self) -> int:
        return 1 if self.data_format == "channels_first" else -1

    def get_config(self) -> dict:
        return {**super().get_config(), "data_format": self.data_format}


@keras.saving.register_keras_serializable("tfp_bayes")
class MCConcreteSpatialDropout1D(_MCConcreteSpatialDropout):
    """Concrete dropout of whole feature channels of a sequence, see `MCConcreteDropout`.

    Args:
        initial_rate: Float in (0, 1), the probability to start from that a channel is set to zero.
        temperature: t > 0 of the relaxed masks of training.
        data_format: "channels_last" (inputs (B, T, C)) or "channels_first" ((B, C, T)); None takes
            Keras' default.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        That of `MCConcreteDropout`. Each mask is constant over space.

    Losses:
        Those of `MCConcreteDropout`, with F the number of channels.

    Raises:
        ValueError: See `MCConcreteDropout`; the inputs are of rank 3.

    Reference:
        Gal, Hron and Kendall 2017, "Concrete Dropout", section 4.4, arXiv:1705.07832.

    Example:

    >>> layer = MCConcreteSpatialDropout1D(0.5, seed=0)
    >>> y = layer(np.ones((2, 5, 8)))
    >>> bool(np.all(np.ptp(y, axis=1) == 0))  # a map is kept or dropped as a whole
    True
    """

    spatial_rank = 1


@keras.saving.register_keras_serializable("tfp_bayes")
class MCConcreteSpatialDropout2D(_MCConcreteSpatialDropout):
    """Concrete dropout of whole feature maps of an image, see `MCConcreteDropout`.

    Args:
        initial_rate: Float in (0, 1), the probability to start from that a map is set to zero.
        temperature: t > 0 of the relaxed masks of training.
        data_format: "channels_last" (inputs (B, H, W, C)) or "channels_first" ((B, C, H, W));
            None takes Keras' default.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        That of `MCConcreteDropout`. Each mask is constant over space.

    Losses:
        Those of `MCConcreteDropout`, with F the number of maps.

    Raises:
        ValueError: See `MCConcreteDropout`; the inputs are of rank 4.

    Reference:
        Gal, Hron and Kendall 2017, "Concrete Dropout", section 4.4, arXiv:1705.07832.

    Example:

    >>> layer = MCConcreteSpatialDropout2D(0.5, seed=0)
    >>> y = layer(np.ones((2, 5, 5, 8)))
    >>> bool(np.all(np.ptp(y, axis=(1, 2)) == 0))  # a map is kept or dropped as a whole
    True
    """

    spatial_rank = 2
