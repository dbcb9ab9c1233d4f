"""The Gaussian prior with a separate mean and scale for every weight."""

from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.configured import check_finite, check_positive
from tfp_bayes.priors.prior import Prior


@keras.saving.register_keras_serializable("tfp_bayes>priors")
class ElementwiseNormal(Prior):
    """Normal(loc, scale) with fixed arrays loc and scale of the weight tensor's shape.

    Use it to carry over what earlier data told about each weight: `tfp_bayes.as_prior` fills the
    arrays with the posterior of an earlier task. You can also assign them yourself, for example
    from the weights of a pretrained network. The arrays are non-trainable weights of the layer,
    named `{name}_prior_loc` and `{name}_prior_scale`, and are saved with it. With a mean-field
    normal posterior the KL divergence has a closed form.

    Args:
        initial_loc: Mean of every weight until the array is assigned.
        initial_scale: Standard deviation of every weight until the array is assigned.

    Raises:
        ValueError: If `initial_scale` is not positive or `initial_loc` is not finite.

    Reference:
        Nguyen et al. 2018, "Variational Continual Learning", section 2, arXiv:1710.10628.

    Example:

    >>> layer = DenseFlipout(3, kernel_prior="elementwise_normal")
    >>> layer.build((None, 4))
    >>> _ = layer.kernel_prior_loc.assign(np.full((4, 3), 0.5))
    >>> [weight.name for weight in layer.non_trainable_weights]
    ['kernel_prior_loc', 'kernel_prior_scale', 'kl_weight']
    """

    def __init__(self, initial_loc: float = 0.0, initial_scale: float = 1.0):
        check_finite(initial_loc=initial_loc)
        check_positive(initial_scale=initial_scale)
        self.initial_loc = initial_loc
        self.initial_scale = initial_scale

    def add_variables(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict:
        """Create the two arrays; see `Prior.add_variables`."""
        starts = {"prior_loc": self.initial_loc, "prior_scale": self.initial_scale}
        return {
            name: add_weight(name, shape, keras.initializers.Constant(start), trainable=False)
            for name, start in starts.items()
        }

    def condition(
        self, variables: dict, seed: tf.Tensor, dtype: tf.DType
    ) -> tuple[tfd.Distribution, tf.Tensor]:
        """Return the prior of the whole weight tensor. See `Prior.condition`."""
        loc, scale = (
            tf.convert_to_tensor(variables[name]) for name in ("prior_loc", "prior_scale")
        )
        return tfd.Normal(loc, scale), tf.constant(0, dtype)

    def get_config(self) -> dict:
        """Return the constructor arguments as plain JSON."""
        return {"initial_loc": self.initial_loc, "initial_scale": self.initial_scale}
