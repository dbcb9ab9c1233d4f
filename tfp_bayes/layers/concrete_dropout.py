"""Monte Carlo dropout whose rate is learned."""

import math

import keras
import numpy as np
import tensorflow as tf

from tfp_bayes._plumbing import noise
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes._plumbing.keras_internals import current_call
from tfp_bayes.layers.spatial_dropout import check_data_format
from tfp_bayes.layers.stochastic import StochasticLayer

# Logits are clipped to these bounds. A rate of 0.999 scales kept units by 1000, which half
# precision can still represent, and a rate of 1e-13 drops nothing.
_SMALLEST_LOGIT, _LARGEST_LOGIT = -30.0, 7.0
# Smallest distance of uniform noise from 0 and 1, which keeps its logit finite in float32.
_MARGIN = 1e-7


@keras.saving.register_keras_serializable("tfp_bayes")
class MCConcreteDropout(StochasticLayer):
    """Concrete dropout: Monte Carlo dropout that learns its rate.

    Use it in place of `MCDropout` to avoid a search for the rate. It must be trained in a
    `BayesianModel` with a `prior_scale`: the prior determines how much dropout the data support,
    and with more data the rate becomes smaller. `fit` reports the rate as `{name}_rate`, and the
    attribute `rate` is its current value.

    Args:
        initial_rate: Initial probability that a unit is set to zero, a float in (0, 1).
        temperature: Temperature t > 0 of the relaxed masks in training. At lower temperatures the
            masks are closer to 0 and 1, and the variance of the gradients is higher.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        `training=True`: one relaxed mask, between 0 and 1, for each example. `training=False`: one
        mask of zeros and ones for the whole batch. Both are scaled by 1 / (1 - rate).

    Losses:
        The layer adds none. `BayesianModel` adds |W|^2 / (2 s^2 (1 - p)) - F H(p) nats, where W
        are the kernels applied to the layer's outputs, s is the `prior_scale`, p the rate, F the
        number of units and H the entropy of a Bernoulli variable.

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
                "Hint: at 0 or 1 the gradient is zero; 0.1 is a common choice."
            )
        check_positive(temperature=temperature)
        self.initial_rate = initial_rate
        self.temperature = temperature
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(ndim=self.spatial_rank + 2)
        self._has_prior_term = False

    @property
    def _unit_axis(self) -> int:
        return -1

    def build(self, input_shape: tuple) -> None:
        """Create the logit of the rate in float32."""
        self.units = input_shape[self._unit_axis]
        if self.units is None:
            raise ValueError(
                f"Expected a known number of units for {self.name!r}. Received: inputs of shape "
                f"{tuple(input_shape)}. Hint: set the size of that axis in keras.Input."
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
        """The current probability that a unit is set to zero."""
        if not self.built:
            return self.initial_rate
        with tf.init_scope():
            logit = float(tf.convert_to_tensor(self.logit.value))
        if logit == np.float32(self._initial_logit):
            return self.initial_rate  # without the rounding of a float32 logit
        logit = min(max(logit, _SMALLEST_LOGIT), _LARGEST_LOGIT)
        return 1 / (1 + math.exp(-logit))

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return `inputs` times one mask, or in training one mask per example."""
        sizes = tf.shape(inputs)
        shape = [1] * len(inputs.shape)
        shape[self._unit_axis] = self.units
        if training:
            shape[0] = sizes[0]
            self._forget_prior_of_another_model()
        return inputs * self.draw_mask(shape, training)

    def draw_mask(self, shape: tf.Tensor | list, training: bool = False) -> tf.Tensor:
        """Draw a mask of the given shape in the compute dtype.

        Its entries are 0 and 1 / (1 - rate). With training=True they lie between these values and
        are differentiable in the rate.
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
        """Return 1 - rate as a float32 scalar, differentiable if `training`."""
        return tf.exp(-tf.math.softplus(self._bounded_logit(training)))

    def negative_entropy(self) -> tf.Tensor:
        """Return -F H(p), the mask's part of the KL divergence, a float32 scalar in nats.

        The caller must add it to the loss. Until this method is called, training the rate raises
        an error. In a training step of a model that is not a `BayesianModel`, call it after the
        model.
        """
        self._has_prior_term = True
        logit = self._bounded_logit()
        keep = self.keep_probability()
        # H = -p log p - (1 - p) log(1 - p), with logarithms that stay finite.
        entropy = (1 - keep) * tf.math.softplus(-logit) + keep * tf.math.softplus(logit)
        return -tf.cast(self.units, tf.float32) * entropy

    def _bounded_logit(self, training: bool = True) -> tf.Tensor:
        """Return the clipped logit, whose gradient with respect to the logit is 1 everywhere.

        So a logit beyond the bounds can come back. Computing the gradient also checks that the
        loss has a prior term. At inference there is no custom gradient, because a SavedModel would
        store it.
        """

        def bound(logit: tf.Tensor) -> tf.Tensor:
            return tf.clip_by_value(logit, _SMALLEST_LOGIT, _LARGEST_LOGIT)

        @tf.custom_gradient
        def trainable_bound(logit: tf.Tensor):
            def gradient(upstream: tf.Tensor):
                self._check_prior_term()
                return upstream

            return bound(logit), gradient

        logit = tf.convert_to_tensor(self.logit.value)
        return trainable_bound(logit) if training else bound(logit)

    def _forget_prior_of_another_model(self) -> None:
        """Require the prior term again if a plain Keras model contains the layer now.

        The layer may have been trained in a `BayesianModel` before, whose prior term does not
        belong to the loss of this model.
        """
        call = current_call()
        outermost = None if call is None else call.entry_layer
        if isinstance(outermost, keras.Model) and not hasattr(outermost, "prior_penalty"):
            self._has_prior_term = False

    def _check_prior_term(self) -> None:
        if self.logit.trainable and not self._has_prior_term:
            raise ValueError(
                f"Expected a prior term for the learned rate of {self.name!r} in the loss. "
                "Received: a loss without it. Hint: train a tfp_bayes.BayesianModel(inputs, "
                "outputs, prior_scale=1.0), or set trainable=False to keep the rate fixed."
            )

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return `input_shape`, which dropout does not change."""
        return input_shape

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        config = {"initial_rate": self.initial_rate, "temperature": self.temperature}
        return {**super().get_config(), **config}


class _MCConcreteSpatialDropout(MCConcreteDropout):
    """Concrete dropout of whole feature maps, constant over the `spatial_rank` spatial axes."""

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
    """Concrete dropout of whole channels of a sequence. See `MCConcreteDropout`.

    Args:
        initial_rate: Initial probability that a channel is set to zero, a float in (0, 1).
        temperature: Temperature t > 0 of the relaxed masks in training.
        data_format: "channels_last" (inputs (B, T, C)) or "channels_first" (inputs (B, C, T)).
            None uses the Keras default.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        As in `MCConcreteDropout`. Each mask is constant along the sequence.

    Losses:
        As in `MCConcreteDropout`, with F the number of channels.

    Raises:
        ValueError: See `MCConcreteDropout`, except that the inputs must be of rank 3.

    Reference:
        Gal, Hron and Kendall 2017, "Concrete Dropout", section 4.4, arXiv:1705.07832.

    Example:

    >>> layer = MCConcreteSpatialDropout1D(0.5, seed=0)
    >>> y = layer(np.ones((2, 5, 8)))
    >>> bool(np.all(np.ptp(y, axis=1) == 0))  # each channel is kept or dropped as a whole
    True
    """

    spatial_rank = 1


@keras.saving.register_keras_serializable("tfp_bayes")
class MCConcreteSpatialDropout2D(_MCConcreteSpatialDropout):
    """Concrete dropout of whole feature maps of an image. See `MCConcreteDropout`.

    Args:
        initial_rate: Initial probability that a map is set to zero, a float in (0, 1).
        temperature: Temperature t > 0 of the relaxed masks in training.
        data_format: "channels_last" (inputs (B, H, W, C)) or "channels_first" (inputs
            (B, C, H, W)). None uses the Keras default.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        As in `MCConcreteDropout`. Each mask is constant over space.

    Losses:
        As in `MCConcreteDropout`, with F the number of maps.

    Raises:
        ValueError: See `MCConcreteDropout`, except that the inputs must be of rank 4.

    Reference:
        Gal, Hron and Kendall 2017, "Concrete Dropout", section 4.4, arXiv:1705.07832.

    Example:

    >>> layer = MCConcreteSpatialDropout2D(0.5, seed=0)
    >>> y = layer(np.ones((2, 5, 5, 8)))
    >>> bool(np.all(np.ptp(y, axis=(1, 2)) == 0))  # each map is kept or dropped as a whole
    True
    """

    spatial_rank = 2
