"""The Laplace prior."""

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.configured import check_finite, check_positive
from tfp_bayes.priors.prior import Prior


@keras.saving.register_keras_serializable("tfp_bayes>priors")
class Laplace(Prior):
    """Laplace(loc, scale), which favors weights near `loc`; for a point estimate, an L1 penalty.

    Use it when you expect most weights to be irrelevant. The standard deviation is sqrt(2) scale.

    Args:
        loc: Mean.
        scale: Scale b of the density exp(-|w - loc| / b) / (2 b).

    Raises:
        ValueError: If `loc` is not finite or `scale` is not positive.

    Reference:
        Williams 1995, "Bayesian Regularization and Pruning Using a Laplace Prior".

    Example:

    >>> DenseReparameterization(10, kernel_prior="laplace").kernel_prior
    Laplace(loc=0.0, scale=1.0)
    """

    def __init__(self, loc: float = 0.0, scale: float = 1.0):
        check_finite(loc=loc)
        check_positive(scale=scale)
        self.loc = loc
        self.scale = scale

    def distribution(self, dtype: tf.DType) -> tfd.Distribution:
        """Return the distribution of one weight."""
        return tfd.Laplace(tf.cast(self.loc, dtype), tf.cast(self.scale, dtype))
