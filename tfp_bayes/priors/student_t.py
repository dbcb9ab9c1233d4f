"""The Student t prior."""

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_bayes._plumbing.configured import check_finite, check_positive
from tfp_bayes.priors.prior import Prior


@keras.saving.register_keras_serializable("tfp_bayes>priors")
class StudentT(Prior):
    """StudentT(df, loc, scale), whose heavy tails allow a few large weights.

    Use it where a Gaussian prior shrinks the few weights that matter. Trained convolution kernels
    are closer to a Student t distribution than to a Gaussian.

    Args:
        df: Degrees of freedom. Smaller values give heavier tails.
        loc: Center.
        scale: Scale. The standard deviation is scale sqrt(df / (df - 2)) for df > 2.

    Raises:
        ValueError: If `loc` is not finite, or `df` or `scale` is not positive.

    Reference:
        Fortuin et al. 2022, "Bayesian Neural Network Priors Revisited", section 3,
        arXiv:2102.06571.

    Example:

    >>> DenseFlipout(10, kernel_prior="student_t").kernel_prior
    StudentT(df=3.0, loc=0.0, scale=1.0)
    """

    def __init__(self, df: float = 3.0, loc: float = 0.0, scale: float = 1.0):
        check_finite(loc=loc)
        check_positive(df=df, scale=scale)
        self.df = df
        self.loc = loc
        self.scale = scale

    def distribution(self, dtype: tf.DType) -> tfd.Distribution:
        """Return the distribution of one weight."""
        return tfd.StudentT(*(tf.cast(each, dtype) for each in (self.df, self.loc, self.scale)))
