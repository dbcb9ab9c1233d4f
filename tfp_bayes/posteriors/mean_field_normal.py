"""Independent normals."""

from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing import noise
from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes.posteriors.posterior import INITIAL_SCALE, Posterior
from tfp_bayes.posteriors.scale import from_scale, to_scale


@keras.saving.register_keras_serializable("tfp_bayes>posteriors")
class MeanFieldNormal(Posterior):
    """Independent Normal(loc, softplus(10 untransformed_scale)) for every weight.

    This is the family of Bayes by Backprop. It works with every estimator and scales to weight
    tensors of any size.

    Args:
        initial_scale: Initial standard deviation of every weight. The initial loc comes from the
            layer's initializer.

    Raises:
        ValueError: If `initial_scale` is not positive.

    Reference:
        Blundell et al. 2015, "Weight Uncertainty in Neural Networks", section 3.2,
        arXiv:1505.05424.

    Example:

    >>> layer = DenseFlipout(3)  # the default for kernels
    >>> layer.build((None, 4))
    >>> [weight.name for weight in layer.trainable_weights]
    ['kernel_loc', 'kernel_untransformed_scale', 'bias_loc']
    """

    factorized = True

    def __init__(self, initial_scale: float = INITIAL_SCALE):
        check_positive(initial_scale=initial_scale)
        self.initial_scale = initial_scale

    def add_variables(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...], initializer
    ) -> dict:
        """Create loc and untransformed_scale, both of the weight tensor's shape."""
        start = keras.initializers.Constant(float(from_scale(self.initial_scale)))
        return {
            "loc": add_weight("loc", shape, initializer),
            "untransformed_scale": add_weight("untransformed_scale", shape, start),
        }

    def distribution(self, variables: dict) -> tfd.Distribution:
        """Return the distribution as a batch of scalar normals."""
        return tfd.Normal(self.mean(variables), to_scale(variables["untransformed_scale"]))

    def sample(self, distribution: tfd.Distribution, seed: tf.Tensor) -> tf.Tensor:
        """Draw one weight tensor; `seed` is int32 (2,)."""
        loc = distribution.loc
        return loc + distribution.scale * noise.normal(loc.shape, seed, loc.dtype)
