"""The base class of all variational families."""

from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.configured import Configured

# Small compared with initial weights, so that training starts with almost no noise.
INITIAL_SCALE = 0.0067


class Posterior(Configured):
    """A family of distributions over one weight tensor (a kernel or a bias) of a layer.

    The parameters are weights of the layer, in float32 even under a mixed precision policy. The
    distribution is built from them in every call.

    Attributes:
        factorized: Whether the weights are independent normals around loc. The
            `LocalReparameterization` and `Flipout` layers are correct only for such families.
    """

    factorized = False

    def add_variables(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...], initializer
    ) -> dict:
        """Create the parameters as weights of the layer.

        Args:
            add_weight: Function `add_weight(name, shape, initializer)` that creates a weight of
                the layer.
            shape: Shape of the random weight tensor.
            initializer: Initializer of loc.

        Returns:
            The created weights by name.
        """
        raise NotImplementedError

    def distribution(self, variables: dict) -> tfd.Distribution:
        """Return the distribution; its samples have the shape of the weight tensor."""
        raise NotImplementedError

    def mean(self, variables: dict) -> tf.Tensor:
        """Return the mean weight tensor."""
        return tf.convert_to_tensor(variables["loc"])

    def sample(self, distribution: tfd.Distribution, seed: tf.Tensor) -> tf.Tensor:
        """Draw one weight tensor from the result of `distribution`; `seed` is int32 (2,)."""
        return distribution.sample(seed=seed)
