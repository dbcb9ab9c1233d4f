"""The Gaussian prior."""

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.configured import check_finite, check_positive
from tfp_bayes.priors.prior import Prior


@keras.saving.register_keras_serializable("tfp_bayes>priors")
class Normal(Prior):
    """Normal(loc, scale), the usual prior; for a point estimate, an L2 penalty.

    For a point estimate it adds ||w - loc||^2 / (2 scale^2) nats plus a constant. With loc = 0
    and a mean loss, that equals the Keras regularizer `L2` with factor
    1 / (2 scale^2 num_train).

    Args:
        loc: Mean.
        scale: Standard deviation.

    Raises:
        ValueError: If `loc` is not finite or `scale` is not positive.

    Reference:
        MacKay 1992, "A Practical Bayesian Framework for Backpropagation Networks".

    Example:

    >>> DenseFlipout(10, kernel_prior=tfp_bayes.priors.Normal(scale=0.1)).kernel_prior
    Normal(loc=0.0, scale=0.1)
    """

    def __init__(self, loc: float = 0.0, scale: float = 1.0):
        check_finite(loc=loc)
        check_positive(scale=scale)
        self.loc = loc
        self.scale = scale

    def distribution(self, dtype: tf.DType) -> tfd.Distribution:
        """Return the distribution of one weight."""
        return tfd.Normal(tf.cast(self.loc, dtype), tf.cast(self.scale, dtype))
