"""The base class of all priors."""

from collections.abc import Callable

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.configured import Configured


class Prior(Configured):
    """A prior under which the elements of a weight tensor are independent.

    A subclass implements `distribution`. If a prior has parameters stored in the layer, learned
    (`HierarchicalNormal`) or given (`ElementwiseNormal`), it implements `add_variables` and
    `condition` instead.
    """

    def add_variables(
        self, add_weight: Callable[..., keras.Variable], shape: tuple[int, ...]
    ) -> dict:
        """Create the prior's own parameters as weights of the layer.

        Args:
            add_weight: Function `add_weight(name, shape, initializer, trainable=True)` that
                creates a weight of the layer.
            shape: Shape of the weight tensor that the prior describes.

        Returns:
            The created weights by name.
        """
        return {}

    def distribution(self, dtype: tf.DType) -> tfd.Distribution:
        """Return the scalar distribution of one weight of type `dtype`."""
        raise NotImplementedError

    def condition(
        self, variables: dict, seed: tf.Tensor, dtype: tf.DType
    ) -> tuple[tfd.Distribution, tf.Tensor]:
        """Return the prior of the weights and the KL divergence of the prior's own parameters.

        Args:
            variables: Result of `add_variables`.
            seed: int32 (2,), used by priors whose scale is uncertain.
            dtype: Dtype of the weights.

        Returns:
            The distribution of the weights given one draw of the prior's own parameters, and the
            KL divergence between the posterior and the prior of those parameters, a scalar in
            nats.
        """
        return self.distribution(dtype), tf.constant(0, dtype)
