"""The scale mixture prior of two Gaussians."""

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.configured import check_positive
from tfp_bayes.priors.prior import Prior


@keras.saving.register_keras_serializable("tfp_bayes>priors")
class ScaleMixture(Prior):
    """pi Normal(0, scale1) + (1 - pi) Normal(0, scale2): a continuous spike and slab.

    Use it with Bayes by Backprop on dense networks: the narrow component keeps many weights near
    zero, and the wide component lets the others grow.

    Args:
        pi: Probability of the first component, a float in (0, 1).
        scale1: Standard deviation of the first, wide component.
        scale2: Standard deviation of the second, narrow component.

    Raises:
        ValueError: If `pi` is not in (0, 1) or a scale is not positive.

    Reference:
        Blundell et al. 2015, "Weight Uncertainty in Neural Networks", equation 7,
        arXiv:1505.05424.

    Example:

    >>> DenseFlipout(10, kernel_prior=tfp_bayes.priors.ScaleMixture(pi=0.25)).kernel_prior
    ScaleMixture(pi=0.25, scale1=1.0, scale2=0.0025)
    """

    def __init__(self, pi: float = 0.5, scale1: float = 1.0, scale2: float = 0.0025):
        check_positive(scale1=scale1, scale2=scale2)
        if not isinstance(pi, float) or not 0 < pi < 1:
            raise ValueError(
                f"Expected a float inside (0, 1) for `pi`. Received: pi={pi!r}. "
                "Hint: with a single component, use priors.Normal."
            )
        self.pi = pi
        self.scale1 = scale1
        self.scale2 = scale2

    def distribution(self, dtype: tf.DType) -> tfd.Distribution:
        """Return the distribution of one weight."""
        return tfd.MixtureSameFamily(
            tfd.Categorical(probs=tf.cast([self.pi, 1 - self.pi], dtype)),
            tfd.Normal(tf.cast(0, dtype), tf.cast([self.scale1, self.scale2], dtype)),
        )
