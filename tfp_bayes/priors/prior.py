"""The base of all priors."""

from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.configured import Configured


class Prior(Configured):
    """A distribution over every single weight of a kernel or bias, independent of each other.

    A subclass implements `distribution`. One with numbers of its own, learned
    (`HierarchicalNormal`) or given (`ElementwiseNormal`), implements `add_variables`, which makes
    weights of the layer, and `condition`.
    """

    def add_variables(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict:
        """Makes the prior's own numbers: weights of the layer, by name.

        Args:
            add_weight: `add_weight(name, shape, initializer, trainable=True)`, makes a weight.
            shape: Shape of the weight tensor that the prior is on.
        """
        return {}

    def distribution(self, dtype: tf.DType) -> tfd.Distribution:
        """Returns the distribution of one weight of type `dtype`, a scalar distribution."""
        raise NotImplementedError

    def condition(
        self, variables: dict, seed: tf.Tensor, dtype: tf.DType
    ) -> tuple[tfd.Distribution, tf.Tensor]:
        """Returns the distribution of one weight, and the KL of what the prior itself learns.

        Args:
            variables: What `add_variables` made.
            seed: int32 (2,), for priors with an uncertain scale.
            dtype: Dtype of the weights.

        Returns:
            The distribution given one draw of the prior's own parameters, and the KL divergence
            between their posterior and their prior, a scalar in nats.
        """
        return self.distribution(dtype), tf.constant(0, dtype)
