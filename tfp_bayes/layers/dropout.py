"""Monte Carlo dropout: dropout that stays on at inference."""

import keras
import tensorflow as tf

from tfp_bayes._plumbing import noise
from tfp_bayes.layers.stochastic import StochasticLayer


def check_rate(**rates: float) -> None:
    """Raise ValueError unless every keyword argument is a rate in [0, 1)."""
    for name, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise ValueError(
                f"Expected a float in [0, 1) for `{name}`. Received: {name}={rate!r}. "
                f"Hint: {name} is the fraction of units set to zero, e.g. 0.5."
            )


def draw_mask(shape: tf.Tensor | tuple | list, rate: float, seed: tf.Tensor, dtype: str):
    """Draw a mask with entries 0 and 1 / (1 - rate).

    Args:
        shape: Shape of the mask.
        rate: Probability of 0.
        seed: int32 (2,).
        dtype: Dtype of the mask.
    """
    # Always drawn in float32, because half precision would change the probability.
    return tf.cast(noise.uniform(shape, seed) >= rate, dtype) / (1 - rate)


@keras.saving.register_keras_serializable("tfp_bayes")
class MCDropout(StochasticLayer):
    """Dropout that stays on at inference, so that forward passes are posterior samples.

    Use it in place of `keras.layers.Dropout` to get the uncertainty of a network's predictions.
    Under a Gaussian prior on the following kernel, training with dropout is variational inference
    with a Bernoulli posterior over the rows of that kernel, and each mask is one draw from the
    posterior.

    Args:
        rate: Float in [0, 1), the probability that a unit is set to zero. 0 is the identity.
        noise_shape: Shape of the mask as a tuple with the batch axis, as in
            `keras.layers.Dropout`, or None for the shape of the input. An axis of size 1 shares
            its mask; an entry None stands for the size of the input.
        seed: Integer or None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Randomness:
        `training=True`: one mask for each example. `training=False`: one mask for the whole
        batch. Kept units are scaled by 1 / (1 - rate), so the mean equals the input.

    Losses:
        None. `BayesianModel(..., prior_scale=)` sets the prior of Monte Carlo dropout.

    Raises:
        ValueError: If `rate` is outside [0, 1), or `noise_shape` does not have the rank of the
            inputs.

    Reference:
        Gal and Ghahramani 2016, "Dropout as a Bayesian Approximation", equations 3 and 6,
        arXiv:1506.02142.

    Example:

    >>> layer = MCDropout(0.5, seed=0)
    >>> y = layer(np.ones((4, 8)), training=False)  # one mask: the four rows are equal
    >>> bool(np.all(y == y[0])), sorted({float(v) for v in np.ravel(y)})
    (True, [0.0, 2.0])
    """

    def __init__(
        self,
        rate: float,
        noise_shape: tuple[int | None, ...] | None = None,
        *,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        check_rate(rate=rate)
        self.rate = rate
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)
        self.supports_masking = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return `inputs` with some units set to zero, in the same shape and dtype."""
        if self.rate == 0:
            return inputs
        shape = self._mask_shape(inputs)
        if not training:
            shape[0] = 1  # one mask for the batch
        return inputs * self.draw_mask(shape, training)

    def draw_mask(self, shape: tf.Tensor | list, training: bool = False) -> tf.Tensor:
        """Draw a mask of the given shape with entries 0 and 1 / (1 - rate), in compute dtype."""
        return draw_mask(shape, self.rate, self.draw_seed(training), self.compute_dtype)

    def _mask_shape(self, inputs: tf.Tensor) -> list:
        sizes = tf.unstack(tf.shape(inputs))
        if self.noise_shape is None:
            return sizes
        if len(self.noise_shape) != len(sizes):
            raise ValueError(
                f"Expected `noise_shape` of the inputs' rank {len(sizes)}. "
                f"Received: noise_shape={self.noise_shape}. Hint: it includes the batch axis."
            )
        return [n if fixed is None else fixed for n, fixed in zip(sizes, self.noise_shape)]

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Return `input_shape`, which dropout does not change."""
        return input_shape

    def get_config(self) -> dict:
        """Return the layer's constructor arguments as plain JSON."""
        return {**super().get_config(), "rate": self.rate, "noise_shape": self.noise_shape}
