"""The base of all variational families."""

from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.configured import Configured

# Small beside initial weights, so that training starts almost as without noise.
INITIAL_SCALE = 0.0067


class Posterior(Configured):
    """A family of distributions over one weight tensor (a kernel or a bias) of a layer.

    The parameters are weights of the layer, float32 also under a mixed policy; the distribution
    is built from them at every call.

    Attributes:
        factorized: Whether every weight is an independent, symmetric normal around its loc. The
            estimators `LocalReparameterization` and `Flipout` are right for these only.
    """

    factorized = False

    def add_variables(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...], initializer
    ) -> dict:
        """Makes the parameters: weights of the layer, by name.

        Args:
            add_weight: `add_weight(name, shape, initializer)`, which makes a weight.
            shape: Shape of the random weight tensor.
            initializer: Initializer of its loc.
        """
        raise NotImplementedError

    def distribution(self, variables: dict) -> tfd.Distribution:
        """Returns the distribution; its samples have the shape of the weight tensor."""
        raise NotImplementedError

    def mean(self, variables: dict) -> tf.Tensor:
        """Returns the mean weight tensor."""
        return tf.convert_to_tensor(variables["loc"])

    def sample(self, distribution: tfd.Distribution, seed: tf.Tensor) -> tf.Tensor:
        """Draws one weight tensor from what `distribution` returned; `seed` is int32 (2,)."""
        return distribution.sample(seed=seed)
